"""Share the error, the checks of sizes and data, and the access to arrays in message fields."""

from __future__ import annotations

import array
import io
from typing import Any

import cv2
import numpy as np
import PIL.Image
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from lens_ros.ros.texts import shortened

MAX_PIXELS = 1 << 26  # 8192 x 8192: more is a corrupt header, not a robot's camera
JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
DEPTH_ENCODINGS: tuple[str, ...] = ("16UC1", "mono16", "32FC1")


class ConversionError(ValueError):
    """A message that cannot be converted.

    `kind` groups errors for throttling: "encoding", "size", "data", "compressed", "mask",
    "matrix" or "distortion".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def check_size(width: int, height: int, described: str) -> None:
    if width == 0 or height == 0:
        raise ConversionError(
            "size",
            f"{described} is {width} x {height} pixels; expected at least 1 x 1: look at the camera "
            "driver's log",
        )
    if width * height > MAX_PIXELS:
        raise ConversionError(
            "size",
            f"{described} is {width} x {height} pixels; expected at most {MAX_PIXELS} pixels: "
            "the header is damaged, or the image must be scaled down first",
        )


def check_data(message: Image, bytes_per_pixel: int) -> None:
    row = message.width * bytes_per_pixel
    described = (
        f"image ({shortened(message.encoding)}, {message.width} x {message.height}, step {message.step})"
    )
    if message.step < row:
        raise ConversionError(
            "size",
            f"{described} has too small a step; expected at least {row} bytes per row: fix `step` in the "
            "publisher",
        )
    expected = message.step * (message.height - 1) + row  # the last row may lack its padding
    if len(message.data) < expected:
        raise ConversionError(
            "data",
            f"{described} has {len(message.data)} bytes of data; expected {expected}, so it was truncated: "
            "check the publisher and, over a network, whether messages arrive whole",
        )


def pixels_of(message: Image, channels: int, dtype: type[np.generic]) -> np.ndarray:
    """Return the message's pixels, (H, W) or (H, W, channels), in native byte order.

    Without padding; a copy only if needed.
    """
    stored = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    shape = (message.height, message.width, channels)
    strides = (message.step, channels * stored.itemsize, stored.itemsize)
    view = np.ndarray(shape, stored, buffer=buffer_of(message.data), strides=strides)
    pixels = np.ascontiguousarray(view, dtype=dtype)
    return pixels[:, :, 0] if channels == 1 else pixels


def buffer_of(data: Any) -> Any:
    """Return `data` as something that numpy reads without a copy.

    A list, as a message filled by hand may hold, becomes bytes.
    """
    return data if isinstance(data, (array.array, bytes, bytearray, memoryview, np.ndarray)) else bytes(data)


def decode_file(message: CompressedImage, flags: int, *, skip: int = 0) -> np.ndarray:
    """Return what OpenCV decodes from a JPEG or PNG, after `skip` bytes.

    The size is checked first: a damaged header may ask for gigabytes.
    """
    encoded = np.frombuffer(buffer_of(message.data), np.uint8)[skip:]
    described = f"compressed image (format '{shortened(message.format)}', {len(message.data)} bytes)"
    try:
        with PIL.Image.open(io.BytesIO(encoded.data)) as opened:
            width, height = opened.size
        check_size(width, height, described)
        pixels = cv2.imdecode(encoded, flags)
    except PIL.Image.DecompressionBombError as error:
        raise ConversionError(
            "size", f"{described}: {error}; expected at most {MAX_PIXELS} pixels: the header is damaged"
        ) from error
    except (cv2.error, OSError, SyntaxError):
        pixels = None
    if pixels is None:
        raise ConversionError(
            "compressed",
            f"{described} cannot be decoded, it is damaged; expected a JPEG or PNG file: look at the camera "
            "driver's log",
        )
    return pixels


def image_message(pixels: np.ndarray, header: Header, encoding: str) -> Image:
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // max(pixels.shape[0], 1),
        data=byte_array(pixels),
    )


def byte_array(pixels: np.ndarray) -> array.array[int]:
    """Return the one form that rclpy takes without walking over each byte.

    NumPy arrays, bytes and lists cost up to a second.
    """
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    return data
