"""Grasp proposals on synthetic boxes, cylinders and rings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lens_ros.codes import Code, code_of
from lens_ros.geometry.grasps import GraspPlan, plan_grasps
from lens_ros.geometry.gripper import Gripper

GRIPPER = Gripper()
CAMERA = Rotation.from_euler("x", 130, degrees=True).as_matrix()  # camera_from_table
ORIGIN = np.array([0.02, -0.05, 0.8])
PLANE = (CAMERA[:, 2], -float(CAMERA[:, 2] @ ORIGIN))


def seen(points: np.ndarray) -> np.ndarray:
    """Return table points (N, 3), z up, in the camera's frame."""
    return points @ CAMERA.T + ORIGIN


def block(x: float, y: float, z: float, step: float = 0.004) -> np.ndarray:
    """Return the surface of a box that stands on the table."""
    axes = [np.linspace(-s / 2, s / 2, max(2, int(s / step))) for s in (x, y)]
    height = np.linspace(0.003, z, max(2, int(z / step)))
    grid = np.stack(np.meshgrid(*axes, height, indexing="ij"), -1)
    shell = np.zeros(grid.shape[:3], bool)
    shell[[0, -1]] = shell[:, [0, -1]] = shell[:, :, -1] = True
    return grid[shell]


def ring(radius: float, height: float, wall: float = 0.004) -> np.ndarray:
    """Return the wall and the bottom of a cylinder that is open at its top."""
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    parts = [
        np.stack([r * np.cos(turn), r * np.sin(turn), 0 * turn + z], 1)
        for r in (radius, radius - wall)
        for z in np.linspace(0.004, height, 14)
    ]
    inside = [np.stack([r * np.cos(turn), r * np.sin(turn), 0 * turn + 0.006], 1) for r in (0.01, radius / 2)]
    return np.concatenate(parts + inside)


def cylinder(radius: float, height: float) -> np.ndarray:
    """Return the wall and the lid of a cylinder."""
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    wall = [np.stack([radius * np.cos(turn), radius * np.sin(turn), 0 * turn + z], 1)
            for z in np.linspace(0.004, height, 14)]  # fmt: skip
    lid = [np.stack([r * np.cos(turn), r * np.sin(turn), 0 * turn + height], 1)
           for r in np.linspace(0, radius, 7)]  # fmt: skip
    return np.concatenate(wall + lid)


SHAPES = st.one_of(
    st.tuples(st.floats(0.02, 0.15), st.floats(0.02, 0.08), st.floats(0.02, 0.15)).map(lambda s: block(*s)),
    st.tuples(st.floats(0.01, 0.045), st.floats(0.02, 0.15)).map(lambda s: cylinder(*s)),
    st.tuples(st.floats(0.06, 0.1), st.floats(0.03, 0.09)).map(lambda s: ring(*s)),
)


def inside_fingers(points: np.ndarray, plan: GraspPlan, gripper: Gripper) -> list[int]:
    """Count, from the pose alone, the points in the two fingers of each grasp, approach included."""
    counts = []
    for grasp in plan.grasps:
        x, y, z = ((points - grasp.pose[:3, 3]) @ grasp.pose[:3, :3]).T
        z = z - gripper.tcp_depth
        slab = (np.abs(y) < gripper.finger_width / 2) & (z < 0)
        slab &= z > -gripper.finger_length - grasp.approach_distance
        beside = np.abs(x) - grasp.opening / 2
        counts.append(int((slab & (beside > 0) & (beside < gripper.finger_thickness)).sum()))
    return counts


@settings(max_examples=10, deadline=None)
@given(shape=SHAPES)
def test_no_finger_contains_a_point_and_widths_are_within_limits(shape: np.ndarray) -> None:
    around = block(0.4, 0.4, 0.002)
    scene = seen(np.concatenate([shape, around, shape + (0.16, 0.01, 0)]))
    plan = plan_grasps(scene, seen(shape), PLANE, GRIPPER)
    above = scene[scene @ PLANE[0] + PLANE[1] > 0.0025]
    assert inside_fingers(above, plan, GRIPPER) == [0] * len(plan.grasps)
    for grasp in plan.grasps:
        assert 0 <= grasp.width <= grasp.opening <= GRIPPER.max_opening
        assert grasp.clearances.table >= 0.0025
        np.testing.assert_allclose(grasp.pose[:3, :3] @ grasp.pose[:3, :3].T, np.eye(3), atol=1e-9)
        np.testing.assert_allclose(grasp.pose[:3, 2], grasp.approach, atol=1e-9)
    scores = [grasp.score for grasp in plan.grasps]
    assert scores == sorted(scores, reverse=True)
    assert bool(plan.grasps) == (code_of(plan.reason) is Code.OK)


@settings(max_examples=6, deadline=None)
@given(angle=st.floats(-3.1, 3.1), x=st.floats(-0.2, 0.2), y=st.floats(-0.2, 0.2))
def test_grasps_turn_and_move_with_the_object(angle: float, x: float, y: float) -> None:
    shape = np.concatenate([block(0.12, 0.04, 0.05), block(0.03, 0.03, 0.08) + (0.04, 0.003, 0)])
    shape = shape + np.random.default_rng(0).normal(0, 0.0004, shape.shape)  # no ties between candidates
    moved = shape @ Rotation.from_euler("z", angle).as_matrix().T + (x, y, 0)
    first = plan_grasps(seen(shape), seen(shape), PLANE, GRIPPER)
    second = plan_grasps(seen(moved), seen(moved), PLANE, GRIPPER)
    motion, still = np.eye(4), np.eye(4)
    motion[:3, :3], motion[:3, 3] = Rotation.from_euler("z", angle).as_matrix(), (x, y, 0)
    still[:3, :3], still[:3, 3] = CAMERA, ORIGIN
    carry = still @ motion @ np.linalg.inv(still)
    assert first.grasps and len(first.grasps) == len(second.grasps)
    np.testing.assert_allclose(carry @ first.grasps[0].pose, second.grasps[0].pose, atol=1e-6)
    assert first.grasps[0].score == pytest.approx(second.grasps[0].score, abs=1e-6)


def test_a_box_is_taken_across_its_smallest_width() -> None:
    shape = seen(block(0.14, 0.04, 0.05))
    best = plan_grasps(shape, shape, PLANE, GRIPPER).grasps[0]
    assert best.kind == "top" and best.width == pytest.approx(0.04, abs=0.004)
    assert abs(best.pose[:3, 0] @ CAMERA[:, 1]) > 0.99


def test_a_wide_ring_is_taken_by_its_rim() -> None:
    shape = seen(ring(0.075, 0.05))
    plan = plan_grasps(shape, shape, PLANE, GRIPPER)
    assert plan.grasps and {grasp.kind for grasp in plan.grasps} == {"rim"}
    assert plan.grasps[0].width < 0.02


def test_obstacles_remove_grasps() -> None:
    shape = block(0.05, 0.05, 0.05)
    roof = block(0.3, 0.3, 0.002, 0.005) + (0, 0, 0.09)
    free = plan_grasps(seen(shape), seen(shape), PLANE, GRIPPER)
    walls = [block(0.3, 0.004, 0.15, 0.005) + (0, side * 0.032, 0) for side in (-1, 1)]
    walls += [wall[:, [1, 0, 2]] for wall in walls]
    closed = plan_grasps(seen(np.concatenate([shape, roof, *walls])), seen(shape), PLANE, GRIPPER)
    assert free.grasps and not closed.grasps
    assert code_of(closed.reason) is Code.IN_COLLISION and "collide with the scene" in closed.reason


def test_what_does_not_fit_is_too_wide() -> None:
    shape = seen(cylinder(0.08, 0.12))
    plan = plan_grasps(shape, shape, PLANE, GRIPPER)
    assert not plan.grasps and code_of(plan.reason) is Code.TOO_WIDE


@pytest.mark.parametrize(
    ("points", "code"),
    [(np.zeros((0, 3)), Code.NO_DEPTH), (np.full((50, 3), np.nan), Code.NO_DEPTH),
     (seen(block(0.05, 0.05, 0.002)), Code.TOO_LOW)],
)  # fmt: skip
def test_objects_without_usable_points_are_named(points: np.ndarray, code: Code) -> None:
    plan = plan_grasps(points, points, PLANE, GRIPPER)
    assert plan.grasps == () and code_of(plan.reason) is code


def test_the_tcp_frame_follows_the_stated_axes() -> None:
    shape = seen(block(0.1, 0.04, 0.05))
    other = Gripper(approach_axis="x", closing_axis="y")
    usual = plan_grasps(shape, shape, PLANE, GRIPPER).grasps[0]
    turned = plan_grasps(shape, shape, PLANE, other).grasps[0]
    np.testing.assert_allclose(turned.pose[:3, 0], usual.pose[:3, 2], atol=1e-12)
    np.testing.assert_allclose(turned.pose[:3, 1], usual.pose[:3, 0], atol=1e-12)
    assert np.linalg.det(turned.pose[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize(
    "wrong",
    [{"max_opening": -1.0}, {"finger_width": 0.0}, {"palm_length": np.nan}, {"approach_axis": "w"},
     {"approach_axis": "x"}, {"min_opening": 0.2}, {"tcp_depth": 0.5}],
)  # fmt: skip
def test_impossible_grippers_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="gripper: "):
        Gripper(**wrong)
