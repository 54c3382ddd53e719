"""Grasps of one object for a parallel-jaw gripper, ranked, from what a depth camera sees.

All coordinates are metres in the optical frame of REP 103 (x right, y down, z forward). The proposals need
the object's points; gripper and approach are checked against every point of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lens_ros.codes import Code, Coded
from lens_ros.geometry.grasp_candidates import KINDS, RIM, SIDE, Candidates, candidates
from lens_ros.geometry.gripper import Gripper

TABLE_CLEARANCE = 0.0025  # metres between fingers and support plane, at least
APPROACH_DISTANCE = 0.08
SPARE_OPENINGS = (0.012, 0.006, 0.003)  # metres beside the object on each side, in order of preference
UNSEEN_WALL = 0.005  # metres; a wall may be that thick, and its far face is not seen
MOST_GRASPS = 16
LEAST_POINTS = 12
LEAST_SHARE_ABOVE = 0.6  # of the points of a mask that fits its object, above the support plane
_OBJECT_POINTS, _SCENE_POINTS, _MOST_CHECKED = 400, 1500, 160
MOST_TAPER = 1.0  # how fast the width may change along the fingers' width, else the object slips out
_LEAST_DEPTH = 0.006  # metres of the object between the fingers
_NEAR = 0.03  # neighbours farther from the fingers than this do not matter
_WEIGHTS = {"center": 0.4, "opening": 0.15, "neighbours": 0.15, "table": 0.05, "width": 0.25}
_PREFERENCE = np.array([0.0, -0.12, -0.05])  # of top, side and rim


@dataclass(frozen=True)
class Clearances:
    """What makes up a score, metres.

    Attributes:
        table: from the lowest point of the gripper to the support plane.
        neighbours: from the fingers to the nearest other point of the scene; at most 0.03.
        opening: what the jaws could open beyond the object's width.
        center: from the middle between the fingers to the middle of the visible surface.
    """

    table: float
    neighbours: float
    opening: float
    center: float


@dataclass(frozen=True)
class Grasp:
    """One proposal.

    Attributes:
        kind: top, side or rim.
        pose: (4, 4) camera_from_tcp; `Gripper.approach_axis` and `closing_axis` name its axes.
        width: metres of the object between the fingers, as far as it is seen.
        opening: metres between the fingers while they approach.
        approach: (3,) unit vector, camera frame. approach_distance: metres of straight, checked way.
        lift: (3,) unit vector, camera frame: the normal of the support plane.
        score: higher is better, at most 1.
        clearances: what makes up the score.
    """

    kind: str
    pose: np.ndarray
    width: float
    opening: float
    approach: np.ndarray
    approach_distance: float
    lift: np.ndarray
    score: float
    clearances: Clearances


@dataclass(frozen=True)
class GraspPlan:
    """Ranked grasps, the best first, and why there are none.

    Attributes:
        grasps: the best first.
        reason: empty, or a `Coded` sentence.
        removed: per check, how many candidates it removed.
    """

    grasps: tuple[Grasp, ...]
    reason: str
    removed: dict[str, int]


def plan_grasps(
    scene: np.ndarray,
    target: np.ndarray,
    plane: tuple[np.ndarray, float],
    gripper: Gripper,
    *,
    approach_distance: float = APPROACH_DISTANCE,
    most: int = MOST_GRASPS,
) -> GraspPlan:
    """Return ranked grasps of an object.

    Args:
        scene: (N, 3) all points, the object's included. Points that are not finite are ignored.
        target: (M, 3) the object's points.
        plane: (normal (3,), offset) of the support: `normal @ point + offset` is the height above it.
        gripper: its dimensions.
        approach_distance: metres of straight way towards the object that must be free.
        most: largest number of grasps.

    Raises:
        ValueError: an array of another shape, or a normal without a direction.
    """
    target = _finite(target, "target")
    normal = np.asarray(plane[0], float)
    length = np.linalg.norm(normal)
    if normal.shape != (3,) or not np.isfinite(length) or length < 1e-9:
        raise ValueError(f"plane: the normal is {normal}; expected three numbers that are not all 0")
    if len(target) < LEAST_POINTS:
        reason = f"the object has {len(target)} points with depth; at least {LEAST_POINTS} are needed"
        return GraspPlan((), Coded(reason, Code.NO_DEPTH), {})
    normal, offset = normal / length, float(plane[1]) / length
    frame, origin = _plane_frame(target, normal, offset)
    local = (target - origin) @ frame
    above = local[local[:, 2] > TABLE_CLEARANCE]
    share = len(above) / len(local)
    if len(above) < LEAST_POINTS or share < LEAST_SHARE_ABOVE:
        reason = f"{len(above)} of the object's {len(target)} points stand out of the support plane;"
        reason += f" at least {LEAST_POINTS} and {LEAST_SHARE_ABOVE:.0%}"
        reason += " must, else the mask is misplaced"
        return GraspPlan((), Coded(reason, Code.TOO_LOW), {})
    scene = _near(scene, target, gripper.reach + approach_distance)
    search = _Search((scene - origin) @ frame, above, gripper, approach_distance)
    found = search.run(most)
    if not len(found):
        return GraspPlan((), search.reason(), search.removed)
    pose = np.tile(np.eye(4), (len(found), 1, 1))
    rotation = frame @ search.found.rotation[found]
    pose[:, :3, :3] = rotation @ gripper.tcp_rotation()
    tcp = search.tip[found] - gripper.tcp_depth * search.found.rotation[found][:, :, 2]
    pose[:, :3, 3] = tcp @ frame.T + origin
    grasps = tuple(
        Grasp(
            KINDS[search.found.kind[k]],
            pose[i],
            float(search.width[k]),
            float(search.opening[k]),
            rotation[i, :, 2],
            approach_distance,
            normal,
            float(search.score[k]),
            Clearances(*(float(search.clearance[name][k]) for name in Clearances.__annotations__)),
        )
        for i, k in enumerate(found)
    )
    return GraspPlan(grasps, "", search.removed)


class _Search:
    """Measure and check all candidates of one object at once, in the frame of the support plane."""

    def __init__(self, scene: np.ndarray, target: np.ndarray, gripper: Gripper, travel: float) -> None:
        self._gripper, self._travel = gripper, travel
        self._scene = scene[scene[:, 2] > TABLE_CLEARANCE]
        self._target = _thinned(target, _OBJECT_POINTS)
        self._middle = (target.min(0) + target.max(0)) / 2
        self._size = float(np.linalg.norm(np.ptp(target, axis=0)[:2]) / 2)
        self.removed: dict[str, int] = {}
        self.clearance: dict[str, np.ndarray] = {}

    def run(self, most: int) -> np.ndarray:
        """Return the accepted candidates' numbers, the best first."""
        self._measure(candidates(self._target))
        alive = self._keep(self.touched, "between_fingers")
        alive = self._keep(alive & (self._taper <= MOST_TAPER), "wedge")
        alive = self._keep(
            alive & (self.width <= self._gripper.max_opening - 2 * SPARE_OPENINGS[-1]), "too_wide"
        )
        self.opening, self.score = np.zeros(len(alive)), np.full(len(alive), -np.inf)
        self.clearance = {name: np.zeros(len(alive)) for name in Clearances.__annotations__}
        on_table = np.zeros(len(alive), bool)
        free = np.zeros(len(alive), bool)
        narrow = np.min(self.width[alive], initial=np.inf)
        order = np.flatnonzero(alive)
        preliminary = self._quality(narrow)
        order = order[np.argsort(-preliminary[order], kind="stable")]
        points = _thinned(self._scene, _SCENE_POINTS)
        for spare in SPARE_OPENINGS:
            beside = np.where(self.found.kind == RIM, max(spare, UNSEEN_WALL), spare)
            open_ = np.clip(self.width + 2 * beside, self._gripper.min_opening, self._gripper.max_opening)
            todo = order[~free[order]]
            high = self._height(todo, open_)
            on_table[todo] |= high >= TABLE_CLEARANCE
            todo, high = todo[high >= TABLE_CLEARANCE], high[high >= TABLE_CLEARANCE]
            todo, high = todo[:_MOST_CHECKED], high[:_MOST_CHECKED]
            hit, gap = self._against(points, todo, open_)
            good = todo[~hit]
            free[good], self.opening[good] = True, open_[good]
            self.clearance["table"][good], self.clearance["neighbours"][good] = high[~hit], gap[~hit]
        alive = self._keep(alive & on_table, "table")
        self.score = preliminary + (
            _WEIGHTS["neighbours"] * np.minimum(self.clearance["neighbours"] / _NEAR, 1)
            + _WEIGHTS["table"] * np.minimum(self.clearance["table"] / 0.01, 1)
        )
        self.clearance["opening"] = self._gripper.max_opening - self.width
        self.clearance["center"] = self._off_center
        ranked = np.flatnonzero(free)
        ranked = ranked[np.argsort(-self.score[ranked], kind="stable")]
        accepted = []
        for number in ranked:  # the thinned scene rules out; only the whole scene accepts
            one = np.array([number])
            if not self._against(self._scene, one, self.opening)[0][0]:
                accepted.append(number)
                if len(accepted) == most:
                    break
        self.removed["collision"] = int(alive.sum()) - len(accepted) if len(accepted) < most else 0
        return np.array(accepted, int)

    def reason(self) -> Coded:
        """Say which check removed how many candidates; the code is that of the one that removed the last."""
        codes = {
            "collision": Code.IN_COLLISION,
            "table": Code.TOO_LOW,
            "too_wide": Code.TOO_WIDE,
            "wedge": Code.TOO_WIDE,
            "between_fingers": Code.TOO_LOW,
        }
        last = next(name for name in codes if self.removed.get(name))
        text = (
            f"none of {len(self.width)} grasps is possible: {self.removed['between_fingers']} have too little"
            f" of the object between the fingers, {self.removed['wedge']} would hold it by a"
            f" corner, {self.removed['too_wide']} need more than the"
            f" {self._gripper.max_opening * 1000:.0f} mm opening, {self.removed['table']} touch the support,"
            f" {self.removed['collision']} collide with the scene"
        )
        return Coded(text, codes[last])

    def _keep(self, alive: np.ndarray, check: str) -> np.ndarray:
        before = len(alive) - sum(self.removed.values())
        self.removed[check] = before - int(alive.sum())
        return alive

    def _measure(self, found: Candidates) -> None:
        """Measure the slice of the object between the fingers: width, and where the fingertips go."""
        self.found = found
        across, lateral, ahead = _seen_from(self._target, found.anchor, found.rotation)  # each (K, M)
        half = max(self._gripper.finger_width / 2, 0.006)
        between = (np.abs(lateral) < half) & (np.abs(across) < found.reach[:, None])
        first = np.where(between, ahead, np.inf).min(1)
        depth = np.minimum(found.depth, self._gripper.finger_length - 0.004)
        end = first + depth
        top = found.rotation[:, 2, 2] < -0.99  # fingers straight down stop above the support
        floor = found.anchor[:, 2] - TABLE_CLEARANCE - 0.001
        end = np.where(top, np.minimum(end, floor), end)
        between &= ahead < end[:, None]
        low = np.where(between, across, np.inf).min(1)
        high = np.where(between, across, -np.inf).max(1)
        self.touched = (between.sum(1) >= 3) & (end - first >= _LEAST_DEPTH)
        safe = self.touched
        self.width = np.where(safe, high - np.where(safe, low, 0.0), np.inf)
        middle = (np.where(safe, low, 0.0) + np.where(safe, high, 0.0)) / 2
        end = np.where(safe, end, 0.0)
        self.tip = (
            found.anchor + middle[:, None] * found.rotation[:, :, 0] + end[:, None] * found.rotation[:, :, 2]
        )
        widths = []
        for side in (between & (lateral < 0), between & (lateral >= 0)):
            widths.append(np.where(side, across, -np.inf).max(1) - np.where(side, across, np.inf).min(1))
        both = np.isfinite(widths[0]) & np.isfinite(widths[1])
        self._taper = np.abs(np.where(both, widths[0], 0) - np.where(both, widths[1], 0)) / (2 * half)
        self._held = np.where(safe, end - np.where(safe, first, 0.0), 0.0)
        center = self.tip - (self._held / 2)[:, None] * found.rotation[:, :, 2] - self._middle
        self._off_center = np.linalg.norm(center[:, :2], axis=1)

    def _quality(self, narrow: float) -> np.ndarray:
        """Score what needs no scene: near the centre, narrow, with room in the jaws, held deeply."""
        kind, largest = self.found.kind, self._gripper.max_opening
        width = np.minimum(self.width, largest)
        centered = 1 - np.minimum(self._off_center / max(self._size, 0.02), 1)
        centered = np.where(kind == RIM, 0.5, centered)
        compact = 1 - np.minimum((width - min(narrow, largest)) / largest, 1)
        spare = np.minimum((largest - width) / (2 * SPARE_OPENINGS[0]), 1)
        held = np.minimum(self._held / 0.03, 1)
        level = np.where(kind == SIDE, 0.05 * -self.found.rotation[:, 2, 2], 0.0)
        return (
            _WEIGHTS["center"] * centered
            + _WEIGHTS["width"] * compact
            + _WEIGHTS["opening"] * spare * held
            + _PREFERENCE[kind]
            + level
            - 0.4 * (1 - self.found.alignment)
        )

    def _height(self, numbers: np.ndarray, opening: np.ndarray) -> np.ndarray:
        """Return the height of the lowest corner of the gripper."""
        up = self.found.rotation[numbers][:, 2, :]
        corners = self._gripper.corners(opening[numbers])
        return (self.tip[numbers][:, 2, None] + np.einsum("kcd,kd->kc", corners, up)).min(1, initial=np.inf)

    def _against(
        self, points: np.ndarray, numbers: np.ndarray, opening: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return whether a point is in the gripper's way and how far the nearest one is from its fingers."""
        if not len(points) or not len(numbers):
            return np.zeros(len(numbers), bool), np.full(len(numbers), _NEAR)
        across, lateral, ahead = _seen_from(points, self.tip[numbers], self.found.rotation[numbers])
        wide = opening[numbers][:, None]
        hit = np.any(self._gripper.occupied(across, lateral, ahead, wide, self._travel), axis=1)
        outer = np.abs(across) - wide / 2 - self._gripper.finger_thickness
        beside = (ahead < 0) & (np.abs(lateral) < self._gripper.finger_width) & (outer > 0)
        return hit, np.minimum(np.where(beside, outer, _NEAR).min(1), _NEAR)


def _seen_from(points: np.ndarray, origins: np.ndarray, rotations: np.ndarray) -> list[np.ndarray]:
    """Return the three coordinates (K, M) of points (M, 3) in K frames: origins (K, 3), axes in columns."""
    columns = [rotations[:, :, axis] for axis in range(3)]
    return [column @ points.T - (column * origins).sum(1)[:, None] for column in columns]


def _finite(points: np.ndarray, name: str) -> np.ndarray:
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name}: expected points of shape (N, 3), got {points.shape}")
    return points[np.isfinite(points).all(1)]


def _near(scene: np.ndarray, target: np.ndarray, reach: float) -> np.ndarray:
    """Return the finite points of the scene within `reach` metres of the target along every axis."""
    scene = np.asarray(scene)
    if scene.ndim != 2 or scene.shape[1] != 3:
        raise ValueError(f"scene: expected points of shape (N, 3), got {scene.shape}")
    low, high = target.min(0) - reach, target.max(0) + reach
    near = np.ones(len(scene), bool)
    for axis in range(3):  # comparisons with NaN are false
        near &= (scene[:, axis] > low[axis]) & (scene[:, axis] < high[axis])
    return scene[near].astype(float)


def _plane_frame(target: np.ndarray, normal: np.ndarray, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Return camera_from_plane rotation and origin: z is the normal, x the object's longest direction.

    The frame turns and moves with the object, and so does everything that is planned in it.
    """
    center = target.mean(0)
    origin = center - (normal @ center + offset) * normal
    flat = target - center
    flat = flat - (flat @ normal)[:, None] * normal
    _, vectors = np.linalg.eigh(flat.T @ flat)
    first = vectors[:, 2] - (vectors[:, 2] @ normal) * normal
    if np.linalg.norm(first) < 1e-6:  # a vertical line of points: any direction
        first = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    first /= np.linalg.norm(first)
    if ((flat @ first) ** 3).sum() < 0:
        first = -first
    return np.stack([first, np.cross(normal, first), normal], 1), origin


def _thinned(points: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the points, evenly by their order."""
    return points if len(points) <= most else points[np.linspace(0, len(points) - 1, most).astype(int)]
