"""Lines of sight, compared with OpenCV, for whole, cropped, binned and rectified cameras."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_ros.geometry.cameras import Camera

WIDTH, HEIGHT = 640, 480
POLYNOMIALS = {
    4: (0.1, -0.05, 0.001, -0.002),
    5: (-0.28, 0.09, 0.001, -0.002, -0.01),
    8: (0.3, -0.05, 0.001, -0.002, 0.01, 0.25, 0.01, 0.005),
    12: (0.3, -0.05, 0.001, -0.002, 0.01, 0.25, 0.01, 0.005, 0.001, -0.001, 0.002, 0.001),
    14: (0.3, -0.05, 0.001, -0.002, 0.01, 0.25, 0.01, 0.005, 0.001, -0.001, 0.002, 0.001, 0.02, -0.01),
}
CASES = [
    *(pytest.param(each, False, id=f"{length} coefficients") for length, each in POLYNOMIALS.items()),
    pytest.param((0.05, 0.01, -0.005, 0.001), True, id="fisheye"),
    pytest.param((), True, id="fisheye without coefficients"),
    pytest.param((), False, id="pinhole"),
]

focal = st.floats(400, 900)
intrinsics = st.tuples(focal, focal, st.floats(250, 390), st.floats(190, 290))
pixels = st.lists(st.tuples(st.floats(0, WIDTH - 1), st.floats(0, HEIGHT - 1)), min_size=1, max_size=8)


def undistorted(points: np.ndarray, camera: Camera, **options) -> np.ndarray:
    """Return x, y at depth 1 of pixels from OpenCV, as exactly as it can compute them."""
    distortion = np.array(camera.distortion or (0.0,) * 4)
    source = points.reshape(-1, 1, 2)
    if camera.fisheye:
        return cv2.fisheye.undistortPoints(source, camera.matrix, distortion, **options).reshape(-1, 2)
    exactly = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4
        wanted = options.get("R"), options.get("P"), exactly
        return cv2.undistortPointsIter(source, camera.matrix, distortion, *wanted).reshape(-1, 2)
    return cv2.undistortPoints(source, camera.matrix, distortion, criteria=exactly, **options).reshape(-1, 2)


@pytest.mark.parametrize(("distortion", "fisheye"), CASES)
@given(intrinsics, pixels)
def test_rays_are_those_of_opencv(distortion, fisheye, values, points):
    camera, points = Camera(*values, distortion, fisheye), np.array(points)
    rays = camera.rays(points)
    assert (rays[:, 2] == 1).all()
    np.testing.assert_allclose(rays[:, :2], undistorted(points, camera), atol=1e-5)


@pytest.mark.parametrize(("distortion", "fisheye"), CASES)
@given(intrinsics, pixels, st.integers(0, 300), st.integers(0, 200), st.integers(1, 4), st.integers(1, 4))
def test_a_cropped_and_binned_camera_sees_along_the_same_rays(
    distortion, fisheye, values, points, left, top, across, down
):
    whole, points = Camera(*values, distortion, fisheye), np.array(points)
    part = whole.cropped(left, top).binned(across, down)
    there = (points - (left, top)) / (across, down)
    np.testing.assert_allclose(part.rays(there), whole.rays(points), atol=1e-7)
    np.testing.assert_allclose(part.rays(there)[:, :2], undistorted(there, part), atol=1e-5)


@pytest.mark.parametrize(("distortion", "fisheye"), CASES)
@given(intrinsics, pixels, st.tuples(*[st.floats(-0.02, 0.02)] * 3))
def test_a_rectified_camera_sees_along_the_rotated_rays(distortion, fisheye, values, points, turned):
    """A pixel of the raw image and its place in the rectified image show the same point."""
    raw, points = Camera(*values, distortion, fisheye), np.array(points)
    rotation = cv2.Rodrigues(np.array(turned))[0]
    rectified = Camera(500.0, 510.0, 320.0, 240.0)
    places = undistorted(points, raw, R=rotation, P=rectified.matrix)
    rays = raw.rays(points) @ rotation.T
    np.testing.assert_allclose(rectified.rays(places), rays / rays[:, 2:], atol=1e-5)


@given(intrinsics, pixels, st.floats(0.1, 20), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
def test_points_are_projected_to_their_pixels(values, points, depth, tx, ty):
    """The 3 x 4 matrix is that of a stereo pair's second camera; its fourth column is -f times the offset."""
    camera, points = Camera(*values, offset=(tx, ty)), np.array(points)
    projection = np.column_stack([camera.matrix, [-camera.fx * tx, -camera.fy * ty, 0.0]])
    places = camera.points(points, depth)
    seen = np.column_stack([places, np.ones(len(places))]) @ projection.T
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], points, atol=1e-6)
    np.testing.assert_allclose(places, camera.points(points, np.full(len(points), depth)))


def test_a_pixel_beyond_the_image_circle_has_no_line_of_sight():
    fisheye = Camera(150.0, 150.0, 320.0, 240.0, (), True)  # 90 degrees are 236 pixels from the center
    rays = fisheye.rays(np.array([[320.0, 240.0], [320.0 + 235.0, 240.0], [320.0 + 250.0, 240.0]]))
    assert np.isfinite(rays[0]).all() and np.isnan(rays[1:, :2]).all()
    # This polynomial bends back: no direction is seen more than 290 pixels from the center.
    bent = Camera(500.0, 500.0, 320.0, 240.0, (-0.4, 0.0, 0.0, 0.0))
    rays = bent.rays(np.array([[320.0 + 200.0, 240.0], [320.0 + 310.0, 240.0]]))
    assert np.isfinite(rays[0]).all() and np.isnan(rays[1, :2]).all()


def test_no_pixels_have_no_rays():
    assert Camera(500.0, 500.0, 320.0, 240.0).rays(np.zeros((0, 2))).shape == (0, 3)
