"""Convert and check sensor_msgs/CameraInfo."""

from __future__ import annotations

from math import ceil

import numpy as np
from sensor_msgs.msg import CameraInfo

from lens_ros.geometry.cameras import FISHEYE_LENGTHS, POLYNOMIAL_LENGTHS, Camera
from lens_ros.ros.conversions.common import ConversionError
from lens_ros.ros.texts import shortened

# sensor_msgs/distortion_models.hpp, and OpenCV's name for the last one. With the lengths of `d`.
DISTORTION_LENGTHS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": tuple(length for length in POLYNOMIAL_LENGTHS if length >= 8),
    "equidistant": FISHEYE_LENGTHS,
    "fisheye": FISHEYE_LENGTHS,
}
FISHEYE = ("equidistant", "fisheye")
RECTIFIED = "image_rect"  # how the last part of a rectified image's topic begins, as image_proc names them


def is_rectified(topic: str) -> bool:
    """Return whether an image topic, such as /camera/image_rect_color/compressed, has rectified images."""
    return topic.removesuffix("/compressed").rpartition("/")[2].startswith(RECTIFIED)


def camera_of(info: CameraInfo, height: int, width: int, *, rectified: bool = False) -> Camera:
    """Return the camera of an image of this size, published together with `info`.

    sensor_msgs/CameraInfo: `width` and `height`, K, D and P are those of the whole calibrated image. `roi` is
    a part of it, in its pixels; `binning_x` and `binning_y` divide what remains. A raw image has K and D. A
    rectified one has P and no distortion, or K where P is all zeros, as some simulators have it. Neither
    depends on `roi.do_rectify`, which says what a rectifier is to do with a raw image.

    Args:
        rectified: whether the image is a rectified one (`is_rectified`).

    Raises:
        ConversionError: `info` cannot be that of such an image, or is not usable. Its kind is "size",
            "matrix" or "distortion".
    """
    left, top, across, down = _window(info)
    _check_size(info, (across, down), height, width)
    if rectified and any(info.p):
        camera = _from_projection(info)
    else:
        camera = _from_matrix(info, () if rectified else _distortion(info), rectified=rectified)
    horizontal, vertical = _binning(info)
    return camera.cropped(left, top).binned(horizontal, vertical)


def _window(info: CameraInfo) -> tuple[int, int, int, int]:
    """Return left, top, width and height of the part of the calibrated image that is delivered."""
    roi = info.roi
    if not (roi.width or roi.height):  # all of it
        return 0, 0, info.width, info.height
    if roi.x_offset + roi.width > info.width or roi.y_offset + roi.height > info.height:
        raise ConversionError(
            "size",
            f"its roi of {roi.width}x{roi.height} pixels at {roi.x_offset}, {roi.y_offset} is not inside "
            f"its {info.width}x{info.height} pixels; expected width, height of the whole calibrated image: "
            "correct the camera's driver",
        )
    return roi.x_offset, roi.y_offset, roi.width, roi.height


def _binning(info: CameraInfo) -> tuple[int, int]:
    """Return how many pixels of the calibrated image one pixel is, across and down; 0 means 1."""
    return info.binning_x or 1, info.binning_y or 1


def _check_size(info: CameraInfo, window: tuple[int, int], height: int, width: int) -> None:
    sizes = [{length // by, ceil(length / by)} for length, by in zip(window, _binning(info), strict=True)]
    if width in sizes[0] and height in sizes[1]:
        return
    described = f"{window[0] // _binning(info)[0]}x{window[1] // _binning(info)[1]}"
    if window[0] and window[0] * height == window[1] * width:
        # A smaller image of the same shape may as well be a part of the sensor: no factor is safe.
        what_to_do = (
            "calibrate the camera at this resolution, or have whatever scales or crops the image set "
            "camera_info's binning or roi, or scale its k and p (as image_proc's resize node does)"
        )
    else:
        what_to_do = "remap camera_info to the topic beside the image's"
    raise ConversionError(
        "size",
        f"it is of an image with {described} pixels, the image has {width}x{height}; expected the same: "
        f"{what_to_do}",
    )


def _from_matrix(info: CameraInfo, distortion: tuple[float, ...], *, rectified: bool) -> Camera:
    matrix = np.asarray(info.k, float)
    _check_focal_lengths("k", matrix, 0, 4)
    fisheye = not rectified and info.distortion_model in FISHEYE
    return Camera(matrix[0], matrix[4], matrix[2], matrix[5], distortion, fisheye)


def _from_projection(info: CameraInfo) -> Camera:
    projection = np.asarray(info.p, float)
    _check_focal_lengths("p", projection, 0, 5)
    fx, cx, tx, fy, cy, ty = projection[[0, 2, 3, 5, 6, 7]]
    return Camera(fx, fy, cx, cy, offset=(-tx / fx, -ty / fy))


def _check_focal_lengths(name: str, matrix: np.ndarray, first: int, second: int) -> None:
    if not np.isfinite(matrix).all():
        raise ConversionError(
            "matrix", f"its matrix {name} holds NaN or infinity; expected numbers: calibrate the camera anew"
        )
    if matrix[first] <= 0 or matrix[second] <= 0:
        raise ConversionError(
            "matrix",
            f"its focal lengths {name}[{first}], {name}[{second}] are {matrix[first]:g}, {matrix[second]:g}; "
            "expected pixels, above 0: the camera is not calibrated",
        )


def _distortion(info: CameraInfo) -> tuple[float, ...]:
    """Return the distortion's coefficients, none where all are 0; check that they fit to the model."""
    model, coefficients = info.distortion_model, tuple(float(each) for each in info.d)
    if model not in ("", *DISTORTION_LENGTHS):
        raise ConversionError(
            "distortion",
            f"its distortion_model is '{shortened(model)}'; expected one of "
            f"{', '.join(DISTORTION_LENGTHS)}, or none",
        )
    if not np.isfinite(coefficients).all():
        raise ConversionError(
            "distortion",
            "its distortion d holds NaN or infinity; expected numbers: calibrate the camera anew",
        )
    if not any(coefficients):  # of whatever length
        return ()
    lengths = DISTORTION_LENGTHS.get(model, (0,))
    if len(coefficients) not in lengths:
        raise ConversionError(
            "distortion",
            f"its distortion d has {len(coefficients)} coefficients; expected "
            f"{' or '.join(map(str, lengths))} for the distortion_model '{model}': correct the camera's "
            "calibration file or driver",
        )
    return coefficients
