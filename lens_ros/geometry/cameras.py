"""Model cameras: the lines of sight of an image's pixels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np

# Lengths of the distortion vectors that OpenCV knows; its fisheye model has 4 coefficients.
POLYNOMIAL_LENGTHS, FISHEYE_LENGTHS = (4, 5, 8, 12, 14), (4,)
NEWTON_STEPS, PRECISION = 10, 1e-10
STEEPEST = 100.0  # largest x or y at depth 1: 89.4 degrees from the optical axis
MISSED_PIXELS = 0.5  # largest error of a line of sight, seen from the camera


@dataclass(frozen=True)
class Camera:
    """A camera with the intrinsics of the image that it delivers.

    Attributes:
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels; the center of the first pixel is 0, 0.
        distortion: coefficients in OpenCV's order: 4, 5, 8, 12 or 14, or 4 of a fisheye camera; empty where
            all are 0.
        fisheye: whether the lens follows OpenCV's fisheye model (equidistant). It does so also where all
            coefficients are 0.
        offset: x, y in metres of the camera in its frame, as of the second camera of a rectified stereo pair.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    fisheye: bool = False
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def matrix(self) -> np.ndarray:
        """Return the intrinsics as a (3, 3) float64 matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def cropped(self, left: float, top: float) -> Camera:
        """Return the camera of the part of the image that begins at the pixel `left`, `top`."""
        return dataclasses.replace(self, cx=self.cx - left, cy=self.cy - top)

    def binned(self, horizontal: int, vertical: int) -> Camera:
        """Return the camera of the image in which blocks of pixels are one.

        Pixel x of the full image is x / `horizontal` of the binned one, as ROS' image_geometry has it.
        """
        return dataclasses.replace(
            self,
            fx=self.fx / horizontal,
            cx=self.cx / horizontal,
            fy=self.fy / vertical,
            cy=self.cy / vertical,
        )

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the directions of the lines of sight of `pixels`: (N, 3) float64, with z = 1.

        The frame is the optical frame of REP-103: x right, y down, z forward. A pixel has NaN for x and y
        where the distortion model gives it no line of sight in front of the camera, as beyond the image
        circle.

        Args:
            pixels: (N, 2) x, y.
        """
        points = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
        if len(points) == 0:
            return np.zeros((0, 3))
        if not self.fisheye and not any(self.distortion):
            plane = (points - (self.cx, self.cy)) / (self.fx, self.fy)
        else:
            plane = self._undistorted(points)
            plane[np.abs(plane).max(axis=2) > STEEPEST] = np.nan
            missed = np.linalg.norm(self._project(plane)[0] - points, axis=2)
            plane[~(missed < MISSED_PIXELS)] = np.nan
        return np.concatenate([plane.reshape(-1, 2), np.ones((len(points), 1))], axis=1)

    def points(self, pixels: np.ndarray, depth: float | np.ndarray) -> np.ndarray:
        """Return where the lines of sight of `pixels` are `depth` metres away along the optical axis.

        Args:
            pixels: (N, 2) x, y.
            depth: a number, or (N,).

        Returns:
            (N, 3) float64 metres in the camera's frame; NaN as in `rays`.
        """
        points = self.rays(pixels) * np.reshape(depth, (-1, 1))
        points[:, :2] += self.offset
        return points

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Return where points appear in the image: (N, 2) float64 x, y, NaN behind the camera.

        Args:
            points: (N, 3) metres in the camera's frame.
        """
        points = np.asarray(points, np.float64) - (*self.offset, 0.0)
        pixels = np.full((len(points), 2), np.nan)
        front = points[:, 2] > 0
        plane = (points[front, :2] / points[front, 2:]).reshape(-1, 1, 2)
        if len(plane):
            pixels[front] = self._project(plane)[0].reshape(-1, 2)
        return pixels

    @property
    def _coefficients(self) -> np.ndarray:
        return np.array(self.distortion or (0.0,) * 4)

    def _undistorted(self, points: np.ndarray) -> np.ndarray:
        """Return (N, 1, 2) x, y at depth 1 of pixels (N, 1, 2)."""
        if self.fisheye:
            return cv2.fisheye.undistortPoints(points, self.matrix, self._coefficients)
        plane = cv2.undistortPoints(points, self.matrix, self._coefficients)
        # OpenCV stops after five steps, up to 0.2 pixels away. Newton's method goes on from there.
        for _ in range(NEWTON_STEPS):
            found, jacobian = self._project(plane)
            by_translation = jacobian[:, 3:5].reshape(-1, 2, 2)  # after the three columns of the rotation
            with np.errstate(all="ignore"):
                step = _solved(by_translation, (points - found).reshape(-1, 2))
            plane = plane + step.reshape(-1, 1, 2)
            if not (np.abs(step) > PRECISION).any():
                break
        return plane

    def _project(self, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels (N, 1, 2) of x, y at depth 1, and OpenCV's Jacobian."""
        origin = np.zeros(3)
        points = np.concatenate([plane, np.ones((len(plane), 1, 1))], axis=2)
        project = cv2.fisheye.projectPoints if self.fisheye else cv2.projectPoints
        pixels, jacobian = project(points, origin, origin, self.matrix, self._coefficients)
        return pixels.reshape(-1, 1, 2), jacobian


def _solved(matrices: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Solve (N, 2, 2) x = (N, 2); the result is not finite where a matrix is singular."""
    (a, b), (c, d) = np.moveaxis(matrices, 0, -1)
    x, y = values.T
    return np.stack([d * x - b * y, a * y - c * x], axis=1) / (a * d - b * c)[:, None]
