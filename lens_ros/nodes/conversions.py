"""Between ROS messages and arrays.

Conventions: images are (H, W, 3) uint8 RGB, depth is (H, W) float32 metres along the optical axis with NaN
where nothing was measured, masks are (H, W) bool; row 0 is the upper edge. Whatever is wrong with a message
ends in a `ConversionError` that says what was found, what was expected and what to do.

Encodings follow sensor_msgs/image_encodings.hpp, depth REP-118. `8UC1`, `8UC3` and `8UC4` do not say what
their channels mean; they are read as OpenCV writes them: gray, BGR, BGRA.
"""

from __future__ import annotations

import array
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from lens_ros.msg import Instance as InstanceMessage
from lens_ros.msg import Mask as MaskMessage
from lens_ros.msg import Segmentation as SegmentationMessage

if TYPE_CHECKING:
    from lens_ros.lens import Segmentation

MAX_PIXELS = 1 << 26  # 8192 x 8192: more is a corrupt header, not a robot's camera


class ConversionError(ValueError):
    """A message that cannot be converted.

    `kind` groups errors for throttling: "encoding", "size", "data", "compressed" or "mask".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class _Layout:
    """How the pixels of an encoding lie in memory, and how they become RGB."""

    channels: int
    dtype: type[np.generic]
    to_rgb: Callable[[np.ndarray], np.ndarray]


def _by_opencv(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: cv2.cvtColor(pixels, code)


def _upper_byte(to_rgb: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: to_rgb((pixels >> 8).astype(np.uint8))


_GRAY = _by_opencv(cv2.COLOR_GRAY2RGB)
_BGR = _by_opencv(cv2.COLOR_BGR2RGB)
_BGRA = _by_opencv(cv2.COLOR_BGRA2RGB)
_RGBA = _by_opencv(cv2.COLOR_RGBA2RGB)
_UYVY = _by_opencv(cv2.COLOR_YUV2RGB_UYVY)
_YUYV = _by_opencv(cv2.COLOR_YUV2RGB_YUY2)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return np.array(pixels)  # a copy of its own: the message's buffer may be reused


_COLOR_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(3, np.uint8, _rgb),
    "bgr8": _Layout(3, np.uint8, _BGR),
    "rgba8": _Layout(4, np.uint8, _RGBA),
    "bgra8": _Layout(4, np.uint8, _BGRA),
    "mono8": _Layout(1, np.uint8, _GRAY),
    "8UC1": _Layout(1, np.uint8, _GRAY),
    "8UC3": _Layout(3, np.uint8, _BGR),
    "8UC4": _Layout(4, np.uint8, _BGRA),
    "rgb16": _Layout(3, np.uint16, _upper_byte(_rgb)),
    "bgr16": _Layout(3, np.uint16, _upper_byte(_BGR)),
    "rgba16": _Layout(4, np.uint16, _upper_byte(_RGBA)),
    "bgra16": _Layout(4, np.uint16, _upper_byte(_BGRA)),
    "mono16": _Layout(1, np.uint16, _upper_byte(_GRAY)),
    "uyvy": _Layout(2, np.uint8, _UYVY),
    "yuv422": _Layout(2, np.uint8, _UYVY),
    "yuyv": _Layout(2, np.uint8, _YUYV),
    "yuv422_yuy2": _Layout(2, np.uint8, _YUYV),
    # OpenCV names a Bayer pattern after its second row and column, ROS after its first: RGGB is OpenCV's BG.
    "bayer_rggb8": _Layout(1, np.uint8, _by_opencv(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": _Layout(1, np.uint8, _by_opencv(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": _Layout(1, np.uint8, _by_opencv(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": _Layout(1, np.uint8, _by_opencv(cv2.COLOR_BayerGB2RGB)),
}
_HORIZONTALLY_SUBSAMPLED = frozenset({"uyvy", "yuv422", "yuyv", "yuv422_yuy2"})

COLOR_ENCODINGS: tuple[str, ...] = tuple(_COLOR_LAYOUTS)
DEPTH_ENCODINGS: tuple[str, ...] = ("16UC1", "mono16", "32FC1")


# ------------------------------------------------------------------------------------------------------------
# Color images


def check_image(message: Image) -> None:
    """Everything about a raw color image that can be judged without touching its pixels (microseconds).

    Raises `ConversionError` for an unknown encoding, a size of zero or beyond `MAX_PIXELS`, a step that is
    too small for the width, and `data` shorter than height and step demand.
    """
    layout = _COLOR_LAYOUTS.get(message.encoding)
    if layout is None:
        hint = (
            "; this is a depth image: give the node a color topic"
            if message.encoding in DEPTH_ENCODINGS
            else "; set the camera driver, or a converting node, to one of these"
        )
        raise ConversionError(
            "encoding",
            f"image has the encoding '{message.encoding}'; expected one of "
            f"{', '.join(COLOR_ENCODINGS)}{hint}",
        )
    _check_size(message.width, message.height, f"image ({message.encoding})")
    if message.encoding in _HORIZONTALLY_SUBSAMPLED and message.width % 2:
        raise ConversionError(
            "size",
            f"image is {message.width} pixels wide in the encoding '{message.encoding}', which stores "
            "pixels in pairs; "
            "expected an even width: crop the image or change the camera's encoding",
        )
    if message.encoding.startswith("bayer") and (message.width < 2 or message.height < 2):
        raise ConversionError(
            "size",
            f"image is {message.width} x {message.height} in the encoding '{message.encoding}'; "
            "expected at least 2 x 2 pixels, one whole color pattern",
        )
    _check_data(message, layout.channels * np.dtype(layout.dtype).itemsize)


def image_to_rgb(message: Image) -> np.ndarray:
    """A raw color image as (H, W, 3) uint8 RGB, an array of its own.

    Row padding (`step`) and byte order (`is_bigendian`) are respected; 16-bit channels keep their upper byte.
    Raises `ConversionError` (see `check_image`).
    """
    check_image(message)
    layout = _COLOR_LAYOUTS[message.encoding]
    return layout.to_rgb(_pixels(message, layout.channels, layout.dtype))


def check_compressed_image(message: CompressedImage) -> None:
    """Everything about a compressed color image that can be judged without decoding it (microseconds).

    Raises `ConversionError` for compressed depth, data that is neither JPEG nor PNG, and files that end too
    early.
    """
    if "compressedDepth" in message.format:
        raise ConversionError(
            "encoding",
            f"compressed image has the format '{message.format}', which holds depth; "
            "expected a color image: subscribe to the color camera's /compressed topic",
        )
    data = bytes(message.data)
    described = f"compressed image (format '{message.format}', {len(data)} bytes)"
    if not data:
        raise ConversionError(
            "size", f"{described} is empty; expected a JPEG or PNG file: look at the camera driver's log"
        )
    if data.startswith(_JPEG_MAGIC):
        # Inside the coded pixels the byte 0xFF is always stuffed, so the last end-of-image marker is a true
        # one, and a file cut off after its start-of-scan marker has none behind it.
        complete = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") > 0
    elif data.startswith(_PNG_MAGIC):
        complete = b"IEND" in data[-64:]
    else:
        raise ConversionError(
            "compressed",
            f"{described} begins with {data[:8].hex(' ')}; expected a JPEG or PNG file: "
            "set the publisher's compression format to jpeg or png",
        )
    if not complete:
        raise ConversionError(
            "data",
            f"{described} ends before its end marker, so it was truncated; expected the whole file: "
            "check the camera driver and, over a network, whether large messages are lost",
        )


def compressed_to_rgb(message: CompressedImage) -> np.ndarray:
    """A JPEG or PNG color image as (H, W, 3) uint8 RGB. Raises `ConversionError` (see
    `check_compressed_image`).
    """
    check_compressed_image(message)
    # A camera's pixels are used as they are: an EXIF orientation would part the picture from its depth and
    # camera_info.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = _decode(message, flags)
    _check_size(bgr.shape[1], bgr.shape[0], f"compressed image ({message.format})")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def rgb_to_image(rgb: np.ndarray, header: Header, *, encoding: str = "rgb8") -> Image:
    """(H, W, 3) uint8 RGB as a raw image in the encoding `rgb8` or `bgr8`. Raises `ValueError` for anything
    else.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an (H, W, 3) uint8 array, got {rgb.shape} {rgb.dtype}")
    if encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"expected the encoding rgb8 or bgr8, got '{encoding}'")
    pixels = rgb if encoding == "rgb8" else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _image(pixels, header, encoding)


def rgb_to_compressed(
    rgb: np.ndarray, header: Header, *, format: str = "jpeg", quality: int = 90
) -> CompressedImage:
    """(H, W, 3) uint8 RGB as a JPEG (`quality` 1..100) or PNG image message."""
    extension = {"jpeg": ".jpg", "png": ".png"}.get(format)
    if extension is None:
        raise ValueError(f"expected the format jpeg or png, got '{format}'")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpeg" else []
    _, encoded = cv2.imencode(extension, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    return CompressedImage(header=header, format=f"rgb8; {format} compressed bgr8", data=_byte_array(encoded))


# ------------------------------------------------------------------------------------------------------------
# Depth


def depth_to_metres(message: Image) -> np.ndarray:
    """A raw depth image (REP-118) as (H, W) float32 metres, NaN where nothing was measured.

    `16UC1` (and `mono16`, as some drivers call it) holds millimetres with 0 for "nothing", `32FC1` metres
    with NaN or infinity. Raises `ConversionError`.
    """
    if message.encoding not in DEPTH_ENCODINGS:
        raise ConversionError(
            "encoding",
            f"depth image has the encoding '{message.encoding}'; expected 16UC1 (millimetres) or 32FC1 "
            "(metres): "
            "give the node the depth topic of the camera",
        )
    dtype = np.float32 if message.encoding == "32FC1" else np.uint16
    _check_size(message.width, message.height, f"depth image ({message.encoding})")
    _check_data(message, np.dtype(dtype).itemsize)
    return _metres(_pixels(message, 1, dtype))


def compressed_depth_to_metres(message: CompressedImage) -> np.ndarray:
    """A `compressedDepth` image (image_transport) as (H, W) float32 metres, NaN where nothing was measured.

    The message's data is a header of 12 bytes (int32 and two float32, little-endian) and a 16-bit PNG:
    millimetres for `16UC1`, for `32FC1` the inverse depth quantized by the header's two numbers. Raises
    `ConversionError`.
    """
    data = bytes(message.data)
    described = f"compressed depth image (format '{message.format}', {len(data)} bytes)"
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
    if not payload.startswith(_PNG_MAGIC) or b"IEND" not in payload[-64:]:
        raise ConversionError(
            "data",
            f"{described} holds no whole PNG file behind its header; expected one: check that messages "
            "arrive whole",
        )
    stored = _decode(message, cv2.IMREAD_UNCHANGED, skip=_DEPTH_HEADER.size)
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
    """(H, W) metres as a depth image: `32FC1` metres, or `16UC1` millimetres with 0 where NaN or beyond
    65.535 m.
    """
    if metres.ndim != 2:
        raise ValueError(f"expected an (H, W) array, got {metres.shape}")
    if encoding == "32FC1":
        return _image(metres.astype("<f4"), header, encoding)
    if encoding != "16UC1":
        raise ValueError(f"expected the encoding 32FC1 or 16UC1, got '{encoding}'")
    millimetres = np.nan_to_num(metres.astype(np.float64) * 1000, nan=0.0, posinf=0.0, neginf=0.0).round()
    millimetres[(millimetres < 0) | (millimetres > 65535)] = 0
    return _image(millimetres.astype("<u2"), header, encoding)


# ------------------------------------------------------------------------------------------------------------
# Masks


def mask_to_image(mask: np.ndarray, header: Header) -> Image:
    """(H, W) bool as a `mono8` image: 255 for the object, 0 for the rest."""
    return _image(np.where(mask, np.uint8(255), np.uint8(0)), header, "mono8")


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool as alternating run lengths, uint32, in row-major order, background first (that run may be
    0).
    """
    flat = np.asarray(mask, dtype=bool).ravel()
    if not flat.size:
        return np.zeros(0, np.uint32)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], changes, [flat.size]))
    runs = np.diff(bounds).astype(np.uint32)
    return np.concatenate((np.zeros(1, np.uint32), runs)) if flat[0] else runs


def mask_from_run_lengths(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inverse of `run_lengths`: (height, width) bool. Raises `ConversionError` unless the runs fill it
    exactly.
    """
    total = int(runs.sum(dtype=np.uint64))
    if total != height * width:
        raise ConversionError(
            "mask",
            f"the mask's runs cover {total} pixels; expected {width} x {height} = {height * width}: "
            "the message is damaged or was written in another order",
        )
    values = np.arange(runs.size) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)


def encode_mask(mask: np.ndarray) -> MaskMessage:
    """(H, W) bool as a Mask message in run-length encoding."""
    height, width = mask.shape
    data = array.array("B")
    data.frombytes(run_lengths(mask).astype("<u4").tobytes())
    return MaskMessage(height=height, width=width, encoding=MaskMessage.RLE, data=data)


def decode_mask(message: MaskMessage) -> np.ndarray:
    """A Mask message in any of its encodings as (H, W) bool. Raises `ConversionError`."""
    height, width = message.height, message.width
    data = bytes(message.data)
    described = f"mask ({message.encoding}, {width} x {height}, {len(data)} bytes)"
    if height * width > MAX_PIXELS:
        raise ConversionError("mask", f"{described} is too large; expected at most {MAX_PIXELS} pixels")
    if height == 0 or width == 0:
        return np.zeros((height, width), bool)
    if message.encoding == MaskMessage.RLE:
        if len(data) % 4:
            raise ConversionError(
                "mask", f"{described} is no whole number of uint32; the message was truncated"
            )
        return mask_from_run_lengths(np.frombuffer(data, "<u4"), height, width)
    if message.encoding == MaskMessage.MONO8:
        if len(data) != height * width:
            raise ConversionError("mask", f"{described} has the wrong size; expected {height * width} bytes")
        return np.frombuffer(data, np.uint8).reshape(height, width) > 127
    if message.encoding == MaskMessage.PNG:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
        if pixels is None or pixels.shape != (height, width):
            raise ConversionError("mask", f"{described} is no PNG file of that size; the message is damaged")
        return pixels > 127
    expected = ", ".join((MaskMessage.RLE, MaskMessage.PNG, MaskMessage.MONO8))
    raise ConversionError("mask", f"{described} has an unknown encoding; expected one of {expected}")


def segmentation_to_message(
    result: Segmentation, header: Header, *, target_id: int = 0
) -> SegmentationMessage:
    """The answer of `Lens` as a message with the camera image's header."""
    instances = []
    for number, instance in enumerate(result.instances, start=1):
        instances.append(
            InstanceMessage(
                id=number,
                label=instance.label,
                score=float(instance.score),
                consistency=float(instance.consistency),
                rejected=instance.rejected,
                box=box_to_region(instance.box, *instance.mask.shape),
                mask=encode_mask(instance.mask),
            )
        )
    return SegmentationMessage(
        header=header,
        target_id=target_id,
        instruction=result.instruction,
        instances=instances,
        reasoning=result.reasoning,
        answer=result.answer,
        reason=result.reason,
        reasoned_stamp=header.stamp,
        tokens=result.tokens,
        preprocess_ms=float(result.preprocess_ms),
        reason_ms=float(result.reason_ms),
        decode_ms=float(result.decode_ms),
        model=result.model,
    )


def box_to_region(box: Iterable[float], height: int, width: int) -> RegionOfInterest:
    """(x1, y1, x2, y2) pixels, x2 and y2 exclusive, as the smallest region of whole pixels that holds it."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return RegionOfInterest()
    left, top = min(max(math.floor(x1), 0), width), min(max(math.floor(y1), 0), height)
    right, bottom = min(max(math.ceil(x2), left), width), min(max(math.ceil(y2), top), height)
    return RegionOfInterest(x_offset=left, y_offset=top, width=right - left, height=bottom - top)


# ------------------------------------------------------------------------------------------------------------
# Shared parts

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_DEPTH_HEADER = struct.Struct("<iff")


def _check_size(width: int, height: int, described: str) -> None:
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


def _check_data(message: Image, bytes_per_pixel: int) -> None:
    row = message.width * bytes_per_pixel
    described = f"image ({message.encoding}, {message.width} x {message.height}, step {message.step})"
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


def _pixels(message: Image, channels: int, dtype: type[np.generic]) -> np.ndarray:
    """The message's pixels, (H, W) or (H, W, channels), in native byte order; without padding, a copy only if
    needed.
    """
    stored = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    shape = (message.height, message.width, channels)
    strides = (message.step, channels * stored.itemsize, stored.itemsize)
    view = np.ndarray(shape, stored, buffer=_buffer(message.data), strides=strides)
    pixels = np.ascontiguousarray(view, dtype=dtype)
    return pixels[:, :, 0] if channels == 1 else pixels


def _buffer(data: Any) -> Any:
    """`data` as something numpy reads without a copy; a list, as a message filled by hand may hold, becomes
    bytes.
    """
    return data if isinstance(data, (array.array, bytes, bytearray, memoryview, np.ndarray)) else bytes(data)


def _metres(stored: np.ndarray) -> np.ndarray:
    metres = stored.astype(np.float32)
    if stored.dtype == np.uint16:
        metres *= np.float32(0.001)
    metres[~np.isfinite(metres) | (metres <= 0)] = np.nan
    return metres


def _decode(message: CompressedImage, flags: int, *, skip: int = 0) -> np.ndarray:
    encoded = np.frombuffer(_buffer(message.data), np.uint8)[skip:]
    try:
        pixels = cv2.imdecode(encoded, flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ConversionError(
            "compressed",
            f"compressed image (format '{message.format}', {len(message.data)} bytes) cannot be decoded, it "
            "is damaged; "
            "expected a JPEG or PNG file: look at the camera driver's log",
        )
    return pixels


def _image(pixels: np.ndarray, header: Header, encoding: str) -> Image:
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // max(pixels.shape[0], 1),
        data=_byte_array(pixels),
    )


def _byte_array(pixels: np.ndarray) -> array.array[int]:
    """The one form that rclpy takes without walking over each byte: numpy, bytes and lists cost up to a
    second.
    """
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    return data
