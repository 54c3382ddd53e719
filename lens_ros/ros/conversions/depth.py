"""Convert depth images (REP-118) to (H, W) float32 metres, NaN where nothing was measured."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from lens_ros.ros.conversions.common import (
    DEPTH_ENCODINGS,
    PNG_MAGIC,
    ConversionError,
    check_data,
    check_size,
    decode_file,
    image_message,
    pixels_of,
)
from lens_ros.ros.texts import shortened

_DEPTH_HEADER = struct.Struct("<iff")


def depth_to_metres(message: Image) -> np.ndarray:
    """Return a raw depth image (REP-118) as (H, W) float32 metres, NaN where nothing was measured.

    `16UC1` (and `mono16`, as some drivers call it) holds millimetres with 0 for "nothing", `32FC1` metres
    with NaN or infinity.

    Raises:
        ConversionError: the message cannot be used.
    """
    if message.encoding not in DEPTH_ENCODINGS:
        name = shortened(message.encoding)
        has = f"the encoding '{name}'" if name else "no encoding (an empty field)"
        raise ConversionError(
            "encoding",
            f"depth image has {has}; expected 16UC1 (millimetres) or 32FC1 (metres): give the node the depth "
            "topic of the camera",
        )
    dtype = np.float32 if message.encoding == "32FC1" else np.uint16
    check_size(message.width, message.height, f"depth image ({shortened(message.encoding)})")
    check_data(message, np.dtype(dtype).itemsize)
    return _metres(pixels_of(message, 1, dtype))


def compressed_depth_to_metres(message: CompressedImage) -> np.ndarray:
    """Return a `compressedDepth` image as (H, W) float32 metres, NaN where nothing was measured.

    The message's data (image_transport) is a header of 12 bytes (int32 and two float32, little-endian) and a
    16-bit PNG: millimetres for `16UC1`; for `32FC1` the inverse depth quantized by the header's two numbers.

    Raises:
        ConversionError: the message cannot be used.
    """
    data = bytes(message.data)
    described = f"compressed depth image (format '{shortened(message.format)}', {len(data)} bytes)"
    if "compressedDepth" not in message.format:
        raise ConversionError(
            "encoding",
            f"{described} does not hold depth; expected a format like '16UC1; compressedDepth png': "
            "give the node the /compressedDepth topic of the depth camera",
        )
    if message.format.rstrip().endswith("rvl"):
        raise ConversionError(
            "compressed",
            f"{described} is compressed by RVL; expected PNG: set the publisher's compressedDepth format to "
            "png",
        )
    if len(data) <= _DEPTH_HEADER.size:
        raise ConversionError(
            "data",
            f"{described} is shorter than its header; expected {_DEPTH_HEADER.size} bytes and a PNG file: "
            "look at the camera driver's log",
        )
    _, scale, offset = _DEPTH_HEADER.unpack_from(data)
    payload = data[_DEPTH_HEADER.size :]
    if not payload.startswith(PNG_MAGIC) or b"IEND" not in payload[-64:]:
        raise ConversionError(
            "data",
            f"{described} holds no whole PNG file behind its header; expected one: check that messages "
            "arrive whole",
        )
    stored = decode_file(message, cv2.IMREAD_UNCHANGED, skip=_DEPTH_HEADER.size)
    if stored.ndim != 2 or stored.dtype != np.uint16:
        raise ConversionError(
            "compressed",
            f"{described} decodes to {stored.shape} {stored.dtype}; expected one channel of 16 bits",
        )
    if not message.format.startswith("32FC1"):
        return _metres(stored)
    with np.errstate(divide="ignore"):
        metres = np.float32(scale) / (stored.astype(np.float32) - np.float32(offset))
    metres[stored == 0] = np.nan
    return metres


def depth_to_image(metres: np.ndarray, header: Header, *, encoding: str = "32FC1") -> Image:
    """Return (H, W) metres as a depth image.

    `32FC1` holds metres, `16UC1` millimetres with 0 for NaN and beyond 65.535 m.
    """
    if metres.ndim != 2:
        raise ValueError(f"expected an (H, W) array, got {metres.shape}")
    if encoding == "32FC1":
        return image_message(metres.astype("<f4"), header, encoding)
    if encoding != "16UC1":
        raise ValueError(f"expected the encoding 32FC1 or 16UC1, got '{encoding}'")
    millimetres = np.nan_to_num(metres.astype(np.float64) * 1000, nan=0.0, posinf=0.0, neginf=0.0).round()
    millimetres[(millimetres < 0) | (millimetres > 65535)] = 0
    return image_message(millimetres.astype("<u2"), header, encoding)


def _metres(stored: np.ndarray) -> np.ndarray:
    metres = stored.astype(np.float32)
    if stored.dtype == np.uint16:
        metres *= np.float32(0.001)
    metres[~np.isfinite(metres) | (metres <= 0)] = np.nan
    return metres
