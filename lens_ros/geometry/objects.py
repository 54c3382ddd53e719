"""Locate an object in three dimensions: mask + depth + camera -> points, support plane, oriented box.

All lengths are metres in the camera's optical frame (REP-103: x right, y down, z forward).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lens_ros.geometry.depth_views import LEAST_POINTS, DepthView
from lens_ros.geometry.planes import Plane, fit_plane

MOST_POINTS = 4000  # of an object; more do not move its box
SURROUNDINGS = 1500  # points in which the support plane is searched
PLANE_TOLERANCE = 0.004  # plus the noise of structured light, which grows with the square of the distance
NOISE_PER_SQUARE_METRE = 0.003
RESTING_SHARE = 0.85  # of an object's points that are above the plane that it rests on
ON_PLANE = 0.003  # lower points are the table, not the object
OUTLIERS = 0.3  # percent of an object's points at each end of an axis that may be wrong
TOP = 0.12  # share of the height that counts as the top
FLAT_TOP = 0.7  # least share of the width that a flat top has
STANDING = 0.6  # least ratio of height and width of what stands rather than lies
DISC_5_TO_95 = 0.805  # of a disc's width lies between these percentiles of its area
OCCLUDER = 0.03  # metres; a nearer surface hides the object


@dataclass(frozen=True)
class Box:
    """An oriented box.

    Attributes:
        center: (3,) float64.
        rotation: (3, 3) float64, its columns are the box's axes; with a support plane, the third one is the
            plane's normal. Determinant 1.
        size: (3,) float64, full edge lengths along the axes.
    """

    center: np.ndarray
    rotation: np.ndarray
    size: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """The corners (8, 3); two that differ in one bit of their index share an edge."""
        signs = np.array([[(k >> axis & 1) - 0.5 for axis in range(3)] for k in range(8)])
        return self.center + (signs * self.size) @ self.rotation.T


@dataclass(frozen=True)
class Located:
    """An object in three dimensions.

    Attributes:
        points: (N, 3) float64, the visible surface, at most `MOST_POINTS`.
        box: the whole object, down to the support plane. Its hidden side is estimated.
        depth_median: of the visible surface, along the optical axis.
        plane: what the object rests on; None if none was found. The box is then that of the visible surface.
        visible_fraction: 0..1, share of the box' silhouette that no nearer surface hides.
    """

    points: np.ndarray
    box: Box
    depth_median: float
    plane: Plane | None
    visible_fraction: float


def locate(view: DepthView, mask: np.ndarray) -> Located:
    """Return the points, box, median depth, support plane and visible fraction of a masked object.

    Args:
        view: the depth image.
        mask: (H, W) bool of the registered color image.

    Raises:
        GeometryError: EMPTY_MASK, or NO_DEPTH if too few of its pixels have a depth.
    """
    mask = view.resized(mask)
    points = _thinned(view, view.object_pixels(mask))
    median = float(np.median(points[:, 2]))
    plane = support_plane(view, mask, points)
    if plane is not None:
        # The plane tells the table from the object, so that the border of the mask need not be left out.
        whole = _thinned(view, view.object_pixels(mask, border=True))
        above = whole[plane.heights(whole) > ON_PLANE]
        points = above if len(above) >= LEAST_POINTS else points
    box = _free_box(points) if plane is None else _standing_box(points, plane)
    return Located(points, box, median, plane, _visible_fraction(view, mask, box, median))


def _thinned(view: DepthView, pixels: np.ndarray) -> np.ndarray:
    """Return the points (N, 3) of at most about `MOST_POINTS` of the pixels."""
    return view.points(pixels[:: max(1, len(pixels) // MOST_POINTS)])


def support_plane(view: DepthView, mask: np.ndarray, points: np.ndarray) -> Plane | None:
    """Return the plane that an object rests on, facing the camera, or None.

    It is searched around the mask. The object's points must lie on its near side.

    Args:
        view: the depth image.
        mask: (H, W) bool at the view's resolution.
        points: (N, 3), the object's surface.
    """
    around = view.points(view.surroundings(mask, SURROUNDINGS))
    distance = float(np.median(points[:, 2]))
    tolerance = PLANE_TOLERANCE + NOISE_PER_SQUARE_METRE * distance**2
    # What is far behind the object is the floor or a wall, not its table.
    reach = 2.0 * max(np.ptp(points, axis=0).max(), 0.1)
    around = around[np.linalg.norm(around - np.median(points, axis=0), axis=1) < reach]
    for _ in range(2):  # neighbours may have a larger flat side than the table has left
        plane = fit_plane(around, tolerance)
        if plane is None:
            return None
        if (plane.heights(points) > -tolerance).mean() >= RESTING_SHARE:
            return plane
        around = around[np.abs(plane.heights(around)) > tolerance]
    return None


def _standing_box(points: np.ndarray, plane: Plane) -> Box:
    """Return the box of an object on a plane, its hidden side completed."""
    normal = plane.normal
    view = np.median(points, axis=0)
    away = view - (view @ normal) * normal  # horizontally away from the camera
    length = float(np.linalg.norm(away))
    away = away / length if length > 1e-6 else _any_perpendicular(normal)
    side = np.cross(normal, away)
    heights = plane.heights(points)
    flat = np.stack([points @ side, points @ away], axis=1)  # (N, 2): to the side, away
    low, high = np.percentile(flat, [OUTLIERS, 100 - OUTLIERS], axis=0)
    kept = ((flat >= low) & (flat <= high)).all(axis=1)
    if kept.sum() >= LEAST_POINTS:
        flat, heights = flat[kept], heights[kept]
    top = float(np.percentile(heights, 100 - OUTLIERS))
    near, far = float(flat[:, 1].min()), float(flat[:, 1].max())
    elevation = float(np.arctan2(-float(view @ normal), max(length, 1e-6)))  # of the camera above the object
    depth = _completed(flat, heights, top, elevation)
    mirrored = flat * (1, -1) + (0, 2 * near + depth)
    hidden = mirrored[mirrored[:, 1] > far + 1e-6]
    outline = np.concatenate([flat, hidden]).astype(np.float32)
    (u, v), (width, length_2d), angle = cv2.minAreaRect(outline)
    turn = np.radians(angle)
    first = np.cos(turn) * side + np.sin(turn) * away
    second = np.cross(normal, first)
    center = u * side + v * away + (top / 2 - plane.offset) * normal
    return Box(center, np.stack([first, second, normal], axis=1), np.array([width, length_2d, top]))


def _completed(flat: np.ndarray, heights: np.ndarray, top: float, elevation: float) -> float:
    """Return how far an object reaches from its near side, away from the camera, in metres.

    A flat top (box, can, cup) shows all of it. A curved one goes on behind its farthest visible point: what
    stands is taken to be as deep as it is wide, what lies to be curved like a cylinder.

    Args:
        flat: (N, 2) the visible surface seen from above: to the side, away from the camera.
        heights: (N,) above the support plane.
        top: height of the object.
        elevation: of the camera above the object's horizon, in radians.
    """
    width, depth = np.ptp(flat, axis=0)
    bulk = np.ptp(np.percentile(flat[:, 0], [5, 95])) / DISC_5_TO_95  # without a handle
    if np.ptp(flat[heights > (1 - TOP) * top, 0]) > FLAT_TOP * bulk:
        return float(depth)
    if top > STANDING * width:
        hidden = top / np.tan(max(elevation, np.radians(10)))  # no more is behind the object
        return float(np.clip(width, depth, depth + hidden))
    return float(depth + min(top, width) * (1 - np.sin(elevation)) / 2)


def _free_box(points: np.ndarray) -> Box:
    """Return the box of points along their principal axes."""
    middle = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - middle, full_matrices=False)
    if np.linalg.det(axes) < 0:
        axes[2] = -axes[2]
    along = (points - middle) @ axes.T
    low, high = np.percentile(along, [OUTLIERS, 100 - OUTLIERS], axis=0)
    return Box(middle + (low + high) / 2 @ axes, axes.T, high - low)


def _any_perpendicular(normal: np.ndarray) -> np.ndarray:
    """Return a unit vector perpendicular to a unit vector (3,)."""
    other = np.eye(3)[int(np.abs(normal).argmin())]
    across = np.cross(normal, other)
    return across / np.linalg.norm(across)


def _visible_fraction(view: DepthView, mask: np.ndarray, box: Box, median: float) -> float:
    """Return which share of the box' silhouette no nearer surface hides."""
    rows, columns = mask.shape
    pixels = view.camera.pixels(box.corners)
    if not np.isfinite(pixels).all():
        return 1.0
    hull = cv2.convexHull(np.clip(pixels, -columns, 2 * columns).round().astype(np.int32))
    silhouette = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(silhouette, hull, 1)
    silhouette = (silhouette > 0) & ~mask
    nearest = box.corners[:, 2].min() - OCCLUDER
    with np.errstate(invalid="ignore"):
        hiding = int((silhouette & (view.depth < min(nearest, median))).sum())
    shown = int(mask.sum())
    return shown / (shown + hiding)
