"""Objects in three dimensions: synthetic boxes, damaged depth, and the simulator's truth."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import objects_3d
from lens_ros.codes import Code
from lens_ros.geometry.cameras import Camera
from lens_ros.geometry.depth_views import DepthView
from lens_ros.geometry.errors import GeometryError
from lens_ros.geometry.grasps import plan_grasps
from lens_ros.geometry.gripper import Gripper
from lens_ros.geometry.objects import Box, locate

WIDTH, HEIGHT = 640, 480
CAMERA = Camera(600.0, 600.0, 319.5, 239.5)
PITCH = np.radians(50)  # of the camera, downwards
UP = np.array([0.0, -np.cos(PITCH), -np.sin(PITCH)])
TABLE = 0.7  # metres from the camera to the table, along UP


def rendered(boxes: list[Box], camera: Camera = CAMERA) -> tuple[np.ndarray, np.ndarray]:
    """Return depth (H, W) of boxes on the table and which box is seen (H, W), 0 for the table."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rays = camera.rays(np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = -TABLE / (rays @ UP)
        depth[~(depth > 0)] = np.nan
        seen = np.zeros(len(rays), int)
        for number, box in enumerate(boxes, 1):
            origin, direction = -box.center @ box.rotation, rays @ box.rotation
            first, second = (-box.size / 2 - origin) / direction, (box.size / 2 - origin) / direction
            enter = np.minimum(first, second).max(axis=1)
            hit = (enter < np.maximum(first, second).min(axis=1)) & (enter > 0) & ~(enter > depth)
            depth[hit], seen[hit] = enter[hit], number
    return depth.reshape(HEIGHT, WIDTH).astype(np.float32), seen.reshape(HEIGHT, WIDTH)


def standing(size: tuple[float, float, float], place: tuple[float, float], yaw: float) -> Box:
    """Return a box on the table; `place` is metres to the right of and beyond the middle of the picture."""
    across = np.array([1.0, 0.0, 0.0])
    along = np.cross(UP, across)
    middle = np.array([0.0, 0.0, TABLE / np.sin(PITCH)])
    first = np.cos(yaw) * across + np.sin(yaw) * along
    center = middle + place[0] * across + place[1] * along + size[2] / 2 * UP
    return Box(center, np.stack([first, np.cross(UP, first), UP], axis=1), np.array(size))


boxes = st.builds(
    standing,
    st.tuples(st.floats(0.05, 0.12), st.floats(0.05, 0.12), st.floats(0.03, 0.12)),
    st.tuples(st.floats(-0.15, 0.15), st.floats(-0.1, 0.1)),
    st.floats(0, np.pi),
)


@given(boxes)
@settings(max_examples=12)
def test_a_box_is_where_it_stands_and_as_large_as_it_is(box):
    depth, seen = rendered([box])
    found = locate(DepthView.registered(depth, CAMERA, depth.shape), seen == 1)
    assert found.plane is not None and found.plane.tilt(UP) < np.radians(1)
    assert np.linalg.norm(found.box.center - box.center) < 0.008
    assert np.abs(np.sort(found.box.size[:2]) - np.sort(box.size[:2])).max() < 0.012
    assert abs(found.box.size[2] - box.size[2]) < 0.003
    assert np.isclose(np.linalg.det(found.box.rotation), 1)
    assert found.visible_fraction > 0.99
    assert abs(found.depth_median - np.median(depth[seen == 1])) < 0.02


@given(boxes, st.floats(0.4, 2.5))
@settings(max_examples=6)
def test_everything_scales_with_the_scene(box, scale):
    depth, seen = rendered([box])
    small, large = (
        locate(DepthView.registered(depth * factor, CAMERA, depth.shape), seen == 1) for factor in (1, scale)
    )
    np.testing.assert_allclose(large.box.center, small.box.center * scale, atol=0.004 * max(1, scale))
    np.testing.assert_allclose(
        np.sort(large.box.size), np.sort(small.box.size) * scale, atol=0.01 * max(1, scale)
    )


@given(boxes, st.floats(0, 0.6), st.integers(0, 99))
@settings(max_examples=6)
def test_holes_move_it_little(box, holes, seed):
    depth, seen = rendered([box])
    depth[np.random.default_rng(seed).random(depth.shape) < holes] = np.nan
    found = locate(DepthView.registered(depth, CAMERA, depth.shape), seen == 1)
    assert np.linalg.norm(found.box.center - box.center) < 0.01


def test_a_mask_that_is_too_large_is_not_the_table():
    box = standing((0.08, 0.06, 0.1), (0.0, 0.0), 0.4)
    depth, seen = rendered([box])
    mask = cv2.dilate((seen == 1).astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    found = locate(DepthView.registered(depth, CAMERA, depth.shape), mask)
    assert np.linalg.norm(found.box.center - box.center) < 0.008


def test_depth_of_another_resolution_gives_the_same():
    box = standing((0.08, 0.06, 0.1), (0.05, 0.0), 0.4)
    depth, seen = rendered([box])
    half = DepthView.registered(np.ascontiguousarray(depth[::2, ::2]), CAMERA, depth.shape)
    found = locate(half, seen == 1)
    assert np.linalg.norm(found.box.center - box.center) < 0.01


def test_grasps_are_planned_from_what_was_located():
    """The example of docs/guides/grasping.md."""
    box = standing((0.05, 0.07, 0.08), (0.0, 0.0), 0.3)
    depth, seen = rendered([box])
    view = DepthView.registered(depth, CAMERA, depth.shape)
    found = locate(view, seen == 1)
    assert found.plane is not None
    plane = found.plane.normal, found.plane.offset
    plan = plan_grasps(view.all_points(), found.points, plane, Gripper(max_opening=0.08))
    assert plan.grasps and plan.reason == ""
    best = plan.grasps[0]
    assert np.linalg.norm(best.pose[:3, 3] - box.center) < 0.06
    assert best.width < 0.075 and best.approach @ UP < 0


def test_what_is_hidden_is_told():
    hidden = standing((0.08, 0.08, 0.06), (0.0, 0.03), 0.0)
    before = standing((0.08, 0.05, 0.12), (0.05, -0.09), 0.0)
    depth, seen = rendered([hidden, before])
    share = (seen == 1).sum() / (rendered([hidden])[1] == 1).sum()
    assert 0.3 < share < 0.95
    found = locate(DepthView.registered(depth, CAMERA, depth.shape), seen == 1)
    assert abs(found.visible_fraction - share) < 0.2


def test_without_a_plane_it_has_the_box_of_what_is_seen():
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = (rows - 240) ** 2 + (columns - 320) ** 2 < 60**2
    depth = np.where(mask, 1.0, np.nan).astype(np.float32)
    found = locate(DepthView.registered(depth, CAMERA, depth.shape), mask)
    assert found.plane is None
    assert abs(found.box.center[2] - 1.0) < 1e-6
    np.testing.assert_allclose(found.box.size[:2], 120 / 600, atol=0.03)
    assert found.box.size[2] < 1e-6


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda depth, mask: (depth, mask & False), Code.EMPTY_MASK),
        (lambda depth, mask: (np.where(mask, np.nan, depth), mask), Code.NO_DEPTH),
        (lambda depth, mask: (depth * np.nan, mask), Code.NO_DEPTH),
        (lambda depth, mask: (depth * 1000, mask), Code.DEPTH_UNIT),
        (lambda depth, mask: (depth[:, :400], mask), Code.DEPTH_MISMATCH),
        (lambda depth, mask: (depth[:0], mask), Code.DEPTH_MISMATCH),
        (lambda depth, mask: (depth, mask & (np.cumsum(mask).reshape(mask.shape) == 1)), Code.NO_DEPTH),
    ],
)
def test_what_cannot_be_located_is_named(damage, code):
    depth, seen = rendered([standing((0.08, 0.06, 0.1), (0.0, 0.0), 0.4)])
    depth, mask = damage(depth, seen == 1)
    with pytest.raises(GeometryError) as caught:
        locate(DepthView.registered(depth.astype(np.float32), CAMERA, seen.shape), mask)
    assert caught.value.reason.code is code and str(caught.value)


@pytest.mark.parametrize("broken", [Camera(0.0, 300.0, 160, 120), Camera(np.nan, 300.0, 160, 120)])
def test_a_camera_without_focal_lengths_is_named(broken):
    with pytest.raises(GeometryError) as caught:
        DepthView.registered(np.ones((4, 4), np.float32), broken, (4, 4))
    assert caught.value.reason.code is Code.BAD_CAMERA


@given(st.tuples(*[st.floats(-0.5, 0.5)] * 2), st.floats(0.3, 3), st.booleans())
def test_pixels_of_points_on_a_line_of_sight_are_that_pixel(place, distance, fisheye):
    distortion = (0.05, 0.01, -0.005, 0.001) if fisheye else (0.1, -0.05, 0.001, -0.002)
    camera = Camera(300.0, 310.0, 159.0, 121.0, distortion, fisheye, (0.1, 0.0))
    pixel = np.array([[159 + 200 * place[0], 121 + 200 * place[1]]])
    np.testing.assert_allclose(camera.pixels(camera.points(pixel, distance)), pixel, atol=1e-3)


def test_what_is_behind_the_camera_has_no_pixel():
    assert np.isnan(CAMERA.pixels(np.array([[0.0, 0.0, -1.0], [0.1, 0.1, 0.0]]))).all()


def test_simulated_objects_are_where_the_simulator_put_them(opengl, tmp_path):
    numbers = tmp_path / "objects.json"
    assert objects_3d.main(["--scenes", "6", "--json", str(numbers), "--sheet", str(tmp_path / "o.jpg")]) == 0
    measured = json.loads(numbers.read_text())["errors_mm"]
    assert measured["exact depth"]["center"] < 8 and measured["exact depth"]["edges"] < 12
    assert measured["structured light"]["center"] < 10 and measured["structured light"]["edges"] < 15
