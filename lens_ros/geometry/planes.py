"""Fit planes to points, robustly and deterministically."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRIALS = 64  # of RANSAC; with a third of inliers, the chance to miss the plane is below 1 in 10
LEAST_SHARE = 0.25  # of the points that must lie on a plane


@dataclass(frozen=True)
class Plane:
    """The plane of all points p with ``normal @ p + offset == 0``.

    Attributes:
        normal: (3,) float64, unit length.
        offset: metres.
    """

    normal: np.ndarray
    offset: float

    def heights(self, points: np.ndarray) -> np.ndarray:
        """Return the signed distances of points (N, 3), in metres, positive on the normal's side."""
        return points @ self.normal + self.offset

    def tilt(self, up: np.ndarray) -> float:
        """Return the angle between the normal and a direction `up` (3,), in radians, 0..pi."""
        direction = np.asarray(up, float) / np.linalg.norm(up)
        return float(np.arccos(np.clip(self.normal @ direction, -1.0, 1.0)))


def fit_plane(points: np.ndarray, tolerance: float) -> Plane | None:
    """Return the plane with the most points within `tolerance`, facing the origin, or None.

    The origin is the camera: the normal of a table's surface points to its side. The same points always give
    the same plane.

    Args:
        points: (N, 3) metres.
        tolerance: largest distance of a point that counts, in metres.

    Returns:
        None for fewer than 3 points, or if no plane holds `LEAST_SHARE` of them.
    """
    if len(points) < 3:
        return None
    chosen = np.random.default_rng(0).integers(len(points), size=(TRIALS, 3))
    corner, first, second = (points[chosen[:, k]] for k in range(3))
    normals = np.cross(first - corner, second - corner)
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-9  # the three points are no line
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    offsets = -np.einsum("ij,ij->i", normals, corner[usable])
    near = np.abs(points @ normals.T + offsets) < tolerance
    counts = near.sum(axis=0)
    best = int(counts.argmax())
    if counts[best] < max(3, LEAST_SHARE * len(points)):
        return None
    inliers = near[:, best]
    plane = _least_squares(points[inliers])
    for _ in range(2):  # the inliers of the better plane are more
        inliers = np.abs(plane.heights(points)) < tolerance
        if inliers.sum() < 3:
            break
        plane = _least_squares(points[inliers])
    return plane


def _least_squares(points: np.ndarray) -> Plane:
    """Return the plane with the least squared distances, facing the origin."""
    center = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - center, full_matrices=False)
    normal = axes[2]
    offset = -float(normal @ center)
    return Plane(normal, offset) if offset > 0 else Plane(-normal, -offset)
