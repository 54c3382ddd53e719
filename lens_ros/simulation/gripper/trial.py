"""One trial: a random scene, a picture, a mask, a grasp, and what physics makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lens_ros.codes import Code, Coded
from lens_ros.geometry.grasps import Grasp, plan_grasps
from lens_ros.geometry.gripper import Gripper
from lens_ros.simulation.expressions import sample_expression
from lens_ros.simulation.gripper.world import GripperWorld
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Frame

COUNT = (3, 6)  # objects in a scene
LEAST_VISIBLE = 0.6  # of the target
LIFTED = 0.1  # metres
SHIFT = 25  # pixels
GRIPPER = Gripper()
RESULTS = ("lifted", "wrong", "nothing", "abstained")

Masks = Callable[[np.ndarray, str], np.ndarray]


@dataclass(frozen=True)
class Trial:
    """What one trial did.

    result: one of RESULTS. reason: empty for "lifted". mask_on_target: the mask lies mostly on the target.
    kind: of the expression. category: of the target.
    """

    index: int
    kind: str
    category: str
    instruction: str
    result: str
    reason: str
    grasp: Grasp | None
    frame: Frame
    mask: np.ndarray
    mask_on_target: bool


def run_trial(
    simulator: TabletopSimulator, seed: int, index: int, masks: str | Masks, gripper: Gripper = GRIPPER
) -> Trial | None:
    """Run trial `index` of `seed`; None where the scene permits no expression of a well visible target.

    masks: "truth", "shifted" (by 25 px), or a function from rgb (H, W, 3) and instruction to a mask (H, W).
    """
    layout = simulator.layout(seed, index, count=COUNT)
    frame = simulator.render(seed, index, layout)
    rng = np.random.default_rng([seed, index, 22])
    size = (frame.rgb.shape[1], frame.rgb.shape[0])
    said = sample_expression(frame.objects, size, rng)
    if said is None or len(said.targets) != 1:
        return None
    target = said.targets[0]
    item = frame.objects[target - 1]
    if item.visible_fraction < LEAST_VISIBLE:
        return None
    if callable(masks):
        mask = np.asarray(masks(frame.rgb, said.text), bool)
    else:
        mask = frame.instances == target
        if masks == "shifted":
            angle = rng.uniform(0, 2 * np.pi)
            mask = _shifted(mask, int(SHIFT * np.cos(angle)), int(SHIFT * np.sin(angle)))

    right = bool(mask.any() and (frame.instances[mask] == target).mean() > 0.5)

    def ended(result: str, reason: str, grasp: Grasp | None = None) -> Trial:
        return Trial(index, said.kind, item.category, said.text, result, reason, grasp, frame, mask, right)

    if not mask.any():
        return ended("abstained", Coded("the mask is empty", Code.EMPTY_MASK))
    points = back_projected(frame)
    plan = plan_grasps(points.reshape(-1, 3), points[mask], table_plane(frame), gripper)
    if not plan.grasps:
        return ended("abstained", plan.reason)
    best = plan.grasps[0]
    pool = simulator.pool(seed, index)
    shapes = [pool.shapes[placement.pool_index] for placement in layout.placements]
    import mujoco  # type: ignore[import-untyped]

    world = GripperWorld(mujoco, layout.placements, shapes, gripper)
    pose = frame.camera_pose @ best.pose
    pose[:3, :3] = pose[:3, :3] @ gripper.tcp_rotation().T
    pose[:3, 3] += gripper.tcp_depth * pose[:3, 2]
    risen = world.execute(pose, best.opening, best.approach_distance)
    lifted = np.flatnonzero(risen > LIFTED) + 1
    if target in lifted:
        return ended("lifted", "", best)
    if len(lifted):
        return ended("wrong", f"lifted the {frame.objects[lifted[0] - 1].category}", best)
    return ended("nothing", f"slipped: rose {risen[target - 1] * 1000:.0f} mm", best)


def back_projected(frame: Frame) -> np.ndarray:
    """Return (H, W, 3) points in the camera's frame. Pixel centres lie at 0.5."""
    rows, columns = np.indices(frame.depth.shape)
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones_like(rows)], -1) @ np.linalg.inv(frame.intrinsics).T
    return rays * frame.depth[..., None]


def table_plane(frame: Frame) -> tuple[np.ndarray, float]:
    """Return normal and offset of the table in the camera's frame, as an extrinsic calibration gives it."""
    return frame.camera_pose[2, :3].copy(), float(frame.camera_pose[2, 3])


def _shifted(mask: np.ndarray, x: int, y: int) -> np.ndarray:
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    rows, columns = rows + y, columns + x
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    moved = np.zeros_like(mask)
    moved[rows[inside], columns[inside]] = True
    return moved
