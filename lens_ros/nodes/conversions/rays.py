"""From pixels to directions, by a camera's calibration."""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo

from lens_ros.nodes.conversions.common import ConversionError

# sensor_msgs/distortion_models.hpp
POLYNOMIAL, FISHEYE = ("plumb_bob", "rational_polynomial"), ("equidistant",)


def check_camera_info(info: CameraInfo, height: int, width: int) -> None:
    """Raises `ConversionError` where `info` cannot be that of an image of this size."""
    if (info.height, info.width) != (height, width):
        raise ConversionError(
            "size",
            f"it is of a camera with {info.width}x{info.height} pixels, the image has {width}x{height}; "
            "expected the same: remap camera_info to the topic beside the image's",
        )
    matrix = np.asarray(info.k, float)
    if not np.isfinite(matrix).all() or matrix[0] <= 0 or matrix[4] <= 0:
        raise ConversionError(
            "matrix",
            f"its focal lengths k[0], k[4] are {matrix[0]:g}, {matrix[4]:g}; expected pixels, above 0: the "
            "camera is not calibrated",
        )
    if info.distortion_model not in ("", *POLYNOMIAL, *FISHEYE):
        raise ConversionError(
            "distortion",
            f"its distortion_model is '{info.distortion_model}'; expected one of "
            f"{', '.join((*POLYNOMIAL, *FISHEYE))}, or none",
        )


def pixels_to_rays(pixels: np.ndarray, info: CameraInfo) -> np.ndarray:
    """(N, 3) float64: where the lines of sight of `pixels` meet the plane z = 1 of the optical frame
    (REP-103: x right, y down, z forward).

    Args:
        pixels: (N, 2) x, y in the raw image that `info` describes; the center of the first pixel is 0, 0.
        info: as `check_camera_info` lets pass.
    """
    points = np.asarray(pixels, np.float64).reshape(-1, 1, 2)
    if len(points) == 0:
        return np.zeros((0, 3))
    matrix, distortion = np.asarray(info.k, float).reshape(3, 3), np.asarray(info.d, float)
    if not distortion.any():
        distortion = np.zeros(4)
    if info.distortion_model in FISHEYE:
        plane = cv2.fisheye.undistortPoints(points, matrix, distortion[:4])
    else:
        plane = cv2.undistortPoints(points, matrix, distortion)
    return np.concatenate([plane.reshape(-1, 2), np.ones((len(points), 1))], axis=1)
