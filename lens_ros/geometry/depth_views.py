"""Look at a scene through a depth image: what a mask covers, and what is around it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lens_ros.codes import Code
from lens_ros.geometry.cameras import Camera
from lens_ros.geometry.errors import GeometryError

ASPECT_TOLERANCE = 0.02  # between the sizes of a color image and the depth image registered to it
FARTHEST = 65.0  # metres; larger values are millimetres in an image that promises metres
LEAST_POINTS = 12  # of an object
EDGE = 0.02  # metres per pixel; a steeper step between neighbours is the border of something
GAP = 0.04  # metres; objects have no larger gaps along the line of sight


@dataclass(frozen=True)
class DepthView:
    """A depth image and the camera that took it.

    Attributes:
        depth: (H, W) float32 metres along the optical axis, NaN where nothing was measured.
        camera: of an image of this size.
    """

    depth: np.ndarray
    camera: Camera

    @classmethod
    def registered(cls, depth: np.ndarray, camera: Camera, size: tuple[int, int]) -> DepthView:
        """Return the view of a depth image that is registered to a color image.

        Args:
            depth: (h, w) float32 metres, NaN where nothing was measured; may have another resolution than
                the color image, but shows the same.
            camera: of the color image.
            size: height and width of the color image in pixels.

        Raises:
            GeometryError: DEPTH_MISMATCH for another aspect ratio, DEPTH_UNIT for millimetres, NO_DEPTH if
                nothing was measured, BAD_CAMERA for unusable intrinsics.
        """
        if not (
            np.isfinite([camera.fx, camera.fy, camera.cx, camera.cy]).all() and min(camera.fx, camera.fy) > 0
        ):
            raise GeometryError(
                f"the camera has fx {camera.fx:g} and fy {camera.fy:g}; expected positive focal lengths in "
                "pixels: check camera_info",
                Code.BAD_CAMERA,
            )
        (height, width), (rows, columns) = size, depth.shape
        if not rows or not columns or abs(columns * height / (rows * width) - 1) > ASPECT_TOLERANCE:
            raise GeometryError(
                f"the depth image has {columns} x {rows} pixels and the color image {width} x {height}; "
                "expected depth that is registered to the color image (the same aspect ratio): take the "
                "aligned depth topic of the camera",
                Code.DEPTH_MISMATCH,
            )
        measured = depth[np.isfinite(depth)]
        if len(measured) == 0:
            raise GeometryError("the depth image holds no measurement", Code.NO_DEPTH)
        if np.median(measured) > FARTHEST:
            raise GeometryError(
                f"half of the depth image is farther than {FARTHEST:g} m; expected metres in 32FC1: the "
                "values seem to be millimetres, which belong into 16UC1",
                Code.DEPTH_UNIT,
            )
        return cls(depth, camera.binned(width / columns, height / rows))  # type: ignore[arg-type]

    def resized(self, mask: np.ndarray) -> np.ndarray:
        """Return a mask (H', W') bool of the color image at this view's resolution."""
        rows, columns = self.depth.shape
        if mask.shape == (rows, columns):
            return mask
        resized = cv2.resize(mask.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST)
        return resized.astype(bool)

    def points(self, pixels: np.ndarray) -> np.ndarray:
        """Return the points (N, 3) float64 metres of those `pixels` (N, 2: x, y) that have a depth."""
        depth = self.depth[pixels[:, 1], pixels[:, 0]]
        known = np.isfinite(depth)
        points = self.camera.points(pixels[known].astype(float), depth[known].astype(float))
        return points[np.isfinite(points).all(axis=1)]

    def all_points(self) -> np.ndarray:
        """Return the points (N, 3) float64 metres of all pixels that have a depth."""
        y, x = np.nonzero(np.isfinite(self.depth))
        return self.points(np.stack([x, y], axis=1))

    def object_pixels(self, mask: np.ndarray, *, border: bool = False) -> np.ndarray:
        """Return the pixels (N, 2: x, y) of an object's own surface.

        The border of a mask often lies on the background, and sensors invent depth between the two (flying
        pixels). So the mask loses its border, steps of depth are left out, and what a gap separates from the
        median depth is not the object.

        Args:
            mask: (H, W) bool at this view's resolution.
            border: keep the border of the mask.

        Raises:
            GeometryError: EMPTY_MASK or NO_DEPTH.
        """
        if not mask.any():
            raise GeometryError("the mask is empty", Code.EMPTY_MASK)
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        window = np.s_[top : top + height, left : left + width]
        depth, inside = self.depth[window], mask[window]
        known = inside & np.isfinite(depth)
        if known.sum() < LEAST_POINTS:
            raise GeometryError(
                f"{int(known.sum())} of the mask's {int(mask.sum())} pixels have a depth; expected at least "
                f"{LEAST_POINTS}: the object may be too near, too far, shiny or transparent",
                Code.NO_DEPTH,
            )
        smooth = known & ~_edges(depth)
        for candidate in (smooth if border else smooth & _inner(inside), smooth, known):
            if candidate.sum() >= LEAST_POINTS:
                break
        rows, columns = np.nonzero(candidate)
        kept = _around_median(depth[rows, columns])
        return np.stack([columns[kept] + left, rows[kept] + top], axis=1)

    def surroundings(self, mask: np.ndarray, most: int) -> np.ndarray:
        """Return at most `most` pixels (N, 2: x, y) around a mask (H, W) bool that have a depth.

        They are evenly spread over a frame around the mask that is as wide as half of the mask.
        """
        rows, columns = mask.shape
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        margin = max(16, round(0.5 * max(width, height)))
        x1, y1 = max(0, left - margin), max(0, top - margin)
        window = np.s_[y1 : min(rows, top + height + margin), x1 : min(columns, left + width + margin)]
        near = cv2.dilate(mask[window].astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        found = np.flatnonzero(~near & np.isfinite(self.depth[window]))
        found = found[:: max(1, len(found) // most)][:most]
        y, x = np.unravel_index(found, near.shape)
        return np.stack([x + x1, y + y1], axis=1)


def _inner(mask: np.ndarray) -> np.ndarray:
    """Return a mask without its border of two pixels, but with thin parts such as a spoon's handle."""
    padded, kernel = np.pad(mask.astype(np.uint8), 2), np.ones((5, 5), np.uint8)
    eroded = cv2.erode(padded, kernel)
    thin = (padded > 0) & (cv2.dilate(eroded, kernel) == 0)
    return ((eroded > 0) | thin)[2:-2, 2:-2]


def _edges(depth: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W) bool at steps of depth."""
    filled = np.nan_to_num(depth, nan=0.0)
    spread = cv2.dilate(filled, np.ones((3, 3), np.uint8)) - cv2.erode(
        np.where(np.isfinite(depth), depth, np.inf).astype(np.float32), np.ones((3, 3), np.uint8)
    )
    return spread > np.maximum(EDGE, 0.02 * filled)


def _around_median(depth: np.ndarray) -> np.ndarray:
    """Return which depths (N,) belong to the cluster around the median: no gap wider than `GAP`."""
    order = np.argsort(depth)
    ordered = depth[order]
    middle = len(ordered) // 2
    gaps = np.flatnonzero(np.diff(ordered) > GAP)
    first = gaps[gaps < middle].max(initial=-1) + 1
    last = gaps[gaps >= middle].min(initial=len(ordered) - 1)
    kept = np.zeros(len(depth), bool)
    kept[order[first : last + 1]] = True
    return kept
