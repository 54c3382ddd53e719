"""Convert color images between raw or compressed messages and (H, W, 3) uint8 RGB.

Encodings follow sensor_msgs/image_encodings.hpp. `8UC1`, `8UC3`, `8UC4`, `16UC3` and `16UC4` do not say
what their channels mean; they are read as OpenCV writes them: gray, BGR, BGRA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from lens_ros.channels import contiguous
from lens_ros.ros.conversions.common import (
    DEPTH_ENCODINGS,
    JPEG_MAGIC,
    PNG_MAGIC,
    ConversionError,
    buffer_of,
    byte_array,
    check_data,
    check_size,
    decode_file,
    image_message,
    pixels_of,
)
from lens_ros.ros.conversions.tones import Tones
from lens_ros.ros.texts import shortened


@dataclass(frozen=True)
class _Layout:
    """Memory layout of an encoding's pixels, and their conversion to RGB once they have 8 bits."""

    channels: int
    dtype: type[np.generic]
    to_rgb: Callable[[np.ndarray], np.ndarray]


def _by_opencv(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: cv2.cvtColor(pixels, code)


_GRAY = _by_opencv(cv2.COLOR_GRAY2RGB)
_BGRA = _by_opencv(cv2.COLOR_BGRA2RGB)
_RGBA = _by_opencv(cv2.COLOR_RGBA2RGB)
_UYVY = _by_opencv(cv2.COLOR_YUV2RGB_UYVY)
_YUYV = _by_opencv(cv2.COLOR_YUV2RGB_YUY2)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _bgr(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., ::-1]


_COLOR_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(3, np.uint8, _rgb),
    "bgr8": _Layout(3, np.uint8, _bgr),
    "rgba8": _Layout(4, np.uint8, _RGBA),
    "bgra8": _Layout(4, np.uint8, _BGRA),
    "mono8": _Layout(1, np.uint8, _GRAY),
    "8UC1": _Layout(1, np.uint8, _GRAY),
    "8UC3": _Layout(3, np.uint8, _bgr),
    "8UC4": _Layout(4, np.uint8, _BGRA),
    "rgb16": _Layout(3, np.uint16, _rgb),
    "bgr16": _Layout(3, np.uint16, _bgr),
    "rgba16": _Layout(4, np.uint16, _RGBA),
    "bgra16": _Layout(4, np.uint16, _BGRA),
    "mono16": _Layout(1, np.uint16, _GRAY),
    "16UC3": _Layout(3, np.uint16, _bgr),
    "16UC4": _Layout(4, np.uint16, _BGRA),
    "uyvy": _Layout(2, np.uint8, _UYVY),
    "yuv422": _Layout(2, np.uint8, _UYVY),
    "yuyv": _Layout(2, np.uint8, _YUYV),
    "yuv422_yuy2": _Layout(2, np.uint8, _YUYV),
    # Only the luma plane; chroma is added by `_semi_planar`.
    **{name: _Layout(1, np.uint8, _rgb) for name in ("nv12", "nv21", "nv24")},
    # OpenCV names a Bayer pattern after its second row and column, ROS after its first: RGGB is OpenCV's BG.
    **{
        f"bayer_{pattern}{bits}": _Layout(1, dtype, _by_opencv(code))
        for bits, dtype in ((8, np.uint8), (16, np.uint16))
        for pattern, code in (
            ("rggb", cv2.COLOR_BayerBG2RGB),
            ("bggr", cv2.COLOR_BayerRG2RGB),
            ("gbrg", cv2.COLOR_BayerGR2RGB),
            ("grbg", cv2.COLOR_BayerGB2RGB),
        )
    },
}
_HORIZONTALLY_SUBSAMPLED = frozenset({"uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"})
_VERTICALLY_SUBSAMPLED = frozenset({"nv12", "nv21"})
_SEMI_PLANAR = frozenset({"nv12", "nv21", "nv24"})

COLOR_ENCODINGS: tuple[str, ...] = tuple(_COLOR_LAYOUTS)


def check_image(message: Image) -> None:
    """Check everything about a raw color image that its pixels are not needed for (microseconds).

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
        name = shortened(message.encoding)
        has = f"the encoding '{name}'" if name else "no encoding (an empty field)"
        raise ConversionError(
            "encoding",
            f"image has {has}; expected one of {', '.join(COLOR_ENCODINGS)}{hint}",
        )
    check_size(message.width, message.height, f"image ({shortened(message.encoding)})")
    if message.encoding in _HORIZONTALLY_SUBSAMPLED and message.width % 2:
        raise ConversionError(
            "size",
            f"image is {message.width} pixels wide in the encoding '{shortened(message.encoding)}', "
            "which stores pixels in pairs; "
            "expected an even width: crop the image or change the camera's encoding",
        )
    if message.encoding in _VERTICALLY_SUBSAMPLED and message.height % 2:
        raise ConversionError(
            "size",
            f"image is {message.height} pixels high in the encoding '{shortened(message.encoding)}', "
            "which stores two rows with one row of color; "
            "expected an even height: crop the image or change the camera's encoding",
        )
    if message.encoding.startswith("bayer") and (message.width < 2 or message.height < 2):
        raise ConversionError(
            "size",
            f"image is {message.width} x {message.height} in the encoding '{shortened(message.encoding)}'; "
            "expected at least 2 x 2 pixels, one whole color pattern",
        )
    check_data(message, layout.channels * np.dtype(layout.dtype).itemsize)
    if message.encoding in _SEMI_PLANAR:
        _semi_planar_step(message)


def image_to_rgb(message: Image, tones: Tones | None = None) -> np.ndarray:
    """Return a raw color image as (H, W, 3) uint8 RGB.

    If the encoding is RGB or BGR this is a read-only view of the message's data (:mod:`lens_ros.channels`).
    Row padding (`step`) and byte order (`is_bigendian`) are respected. Of 16-bit channels, the upper 8 of the
    bits in use are kept; `tones` remembers from image to image how many these are.

    Raises:
        ConversionError: see `check_image`.
    """
    check_image(message)
    layout = _COLOR_LAYOUTS[message.encoding]
    if message.encoding in _SEMI_PLANAR:
        rgb = _semi_planar(message)
    else:
        pixels = pixels_of(message, layout.channels, layout.dtype)
        if layout.dtype is np.uint16:
            colors = 3 if layout.channels == 4 else None
            tones = Tones() if tones is None else tones
            pixels = tones.reduced(pixels, message.encoding, message.header.frame_id, colors)
        rgb = layout.to_rgb(pixels)
    rgb.flags.writeable = False
    return rgb


def _semi_planar_step(message: Image) -> int:
    """Return bytes from row to row of both planes; chroma rows are twice as far apart in nv24.

    Some drivers count the bytes of both planes in `step` although rows follow each other without a gap.

    Raises `ConversionError` if the data end before the planes do.
    """
    height, width, step = message.height, message.width, message.step
    if message.encoding == "nv24":
        whole, needed = 3 * width * height, step * (3 * height - 2) + 2 * width
    else:
        whole, needed = width * height * 3 // 2, step * (height * 3 // 2 - 1) + width
    if len(message.data) >= needed:
        return step
    if len(message.data) == whole:
        return width
    raise ConversionError(
        "data",
        f"image ({shortened(message.encoding)}, {message.width} x {message.height}, step {message.step}) has "
        f"{len(message.data)} bytes of data; expected {needed}, luma and then chroma: "
        "check the publisher and, over a network, whether messages arrive whole",
    )


def _semi_planar(message: Image) -> np.ndarray:
    """Convert a luma plane and a plane of chroma pairs to RGB, by BT.601 as the other YUV encodings."""
    step, height, width = _semi_planar_step(message), message.height, message.width
    rows = height * 3 if message.encoding == "nv24" else height * 3 // 2
    planes = np.ndarray((rows, width), np.uint8, buffer=buffer_of(message.data), strides=(step, 1))
    if message.encoding != "nv24":
        code = cv2.COLOR_YUV2RGB_NV12 if message.encoding == "nv12" else cv2.COLOR_YUV2RGB_NV21
        return cv2.cvtColor(np.ascontiguousarray(planes), code)
    # OpenCV has no nv24. Its chroma is that of an nv12 image of twice the size, of which each luma is there
    # four times.
    chroma = np.ndarray(
        (height, 2 * width),
        np.uint8,
        buffer=buffer_of(message.data),
        offset=step * height,
        strides=(2 * step, 1),
    )
    luma = planes[:height].repeat(2, axis=0).repeat(2, axis=1)
    return np.ascontiguousarray(cv2.cvtColor(np.vstack([luma, chroma]), cv2.COLOR_YUV2RGB_NV12)[::2, ::2])


def check_compressed_image(message: CompressedImage) -> None:
    """Check everything about a compressed color image that needs no decoding (microseconds).

    Raises `ConversionError` for compressed depth, data that is neither JPEG nor PNG, and files that end too
    early.
    """
    if "compressedDepth" in message.format:
        raise ConversionError(
            "encoding",
            f"compressed image has the format '{shortened(message.format)}', which holds depth; "
            "expected a color image: subscribe to the color camera's /compressed topic",
        )
    data = bytes(message.data)
    described = f"compressed image (format '{shortened(message.format)}', {len(data)} bytes)"
    if not data:
        raise ConversionError(
            "size", f"{described} is empty; expected a JPEG or PNG file: look at the camera driver's log"
        )
    if data.startswith(JPEG_MAGIC):
        # Inside the coded pixels the byte 0xFF is always stuffed, so the last end-of-image marker is a true
        # one, and a file cut off after its start-of-scan marker has none behind it.
        complete = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") > 0
    elif data.startswith(PNG_MAGIC):
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


def compressed_to_rgb(message: CompressedImage, tones: Tones | None = None) -> np.ndarray:
    """Return a JPEG or PNG color image as (H, W, 3) uint8 RGB; for `tones` see `image_to_rgb`.

    Raises:
        ConversionError: see `check_compressed_image`.
    """
    check_compressed_image(message)
    # A camera's pixels are used as they are: an EXIF orientation would part the picture from its depth and
    # camera_info.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH
    pixels = decode_file(message, flags)
    if pixels.dtype == np.uint16:
        tones = Tones() if tones is None else tones
        pixels = tones.reduced(pixels, f"16-bit '{shortened(message.format)}'", message.header.frame_id)
    return _bgr(pixels)


def rgb_to_image(rgb: np.ndarray, header: Header, *, encoding: str = "rgb8") -> Image:
    """Return (H, W, 3) uint8 RGB as a raw image in the encoding `rgb8` or `bgr8`.

    Raises:
        ValueError: the array or the encoding is another.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an (H, W, 3) uint8 array, got {rgb.shape} {rgb.dtype}")
    if encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"expected the encoding rgb8 or bgr8, got '{encoding}'")
    pixels = contiguous(rgb) if encoding == "rgb8" else contiguous(rgb[..., ::-1])
    return image_message(pixels, header, encoding)


def rgb_to_compressed(
    rgb: np.ndarray, header: Header, *, format: str = "jpeg", quality: int = 90
) -> CompressedImage:
    """Encode (H, W, 3) uint8 RGB as a JPEG (`quality` 1..100) or PNG image message."""
    extension = {"jpeg": ".jpg", "png": ".png"}.get(format)
    if extension is None:
        raise ValueError(f"expected the format jpeg or png, got '{format}'")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpeg" else []
    _, encoded = cv2.imencode(extension, contiguous(rgb[..., ::-1]), options)
    return CompressedImage(header=header, format=f"rgb8; {format} compressed bgr8", data=byte_array(encoded))
