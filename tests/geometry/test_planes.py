"""Planes through points with noise and outliers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lens_ros.geometry.planes import Plane, fit_plane

directions = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: 0.1 < np.linalg.norm(v))


def on_plane(normal: np.ndarray, distance: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return points (count, 3) of the plane `distance` metres from the origin, against its normal."""
    across = np.linalg.svd(normal[None])[2][1:]
    return -distance * normal + rng.uniform(-0.3, 0.3, (count, 2)) @ across


@given(directions, st.floats(0.2, 3.0), st.floats(0.0, 0.5), st.integers(0, 1000))
def test_a_plane_is_found_among_outliers_and_faces_the_origin(direction, distance, outliers, seed):
    rng = np.random.default_rng(seed)
    normal = np.array(direction) / np.linalg.norm(direction)
    points = on_plane(normal, distance, 300, rng) + rng.normal(0, 0.001, (300, 3))
    count = int(300 * outliers)
    points[:count] += normal * rng.uniform(0.05, 0.3, count)[:, None]
    plane = fit_plane(points, 0.004)
    assert plane is not None
    assert plane.offset > 0 and plane.tilt(normal) < np.radians(1.0)
    assert abs(plane.offset - distance) < 0.003
    again = fit_plane(points, 0.004)
    assert again is not None and np.array_equal(again.normal, plane.normal)


@given(st.integers(0, 2))
def test_two_points_are_no_plane(count):
    assert fit_plane(np.ones((count, 3)), 0.004) is None


def test_neither_a_line_nor_a_cloud_is_a_plane():
    line = np.linspace(0, 1, 100)[:, None] * (1.0, 2.0, 3.0) + 1.0
    assert fit_plane(line, 1e-6) is None
    assert fit_plane(np.random.default_rng(1).uniform(-1, 1, (500, 3)), 0.004) is None


def test_heights_and_tilt():
    plane = Plane(np.array([0.0, -1.0, 0.0]), 0.5)  # half a metre below the camera
    np.testing.assert_allclose(plane.heights(np.array([[3.0, 0.5, 1.0], [0.0, 0.4, 2.0]])), [0.0, 0.1])
    assert np.degrees(plane.tilt(np.array([0.0, -2.0, 0.0]))) == 0
    assert np.isclose(np.degrees(plane.tilt(np.array([0.0, -1.0, 1.0]))), 45)
