"""Convert masks: (H, W) bool, mono8 images, and lens_ros/Mask messages."""

from __future__ import annotations

import array

import cv2
import numpy as np
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from lens_ros.msg import Mask as MaskMessage
from lens_ros.ros.conversions.common import MAX_PIXELS, ConversionError, image_message
from lens_ros.ros.texts import shortened


def mask_to_image(mask: np.ndarray, header: Header) -> Image:
    """Convert (H, W) bool to a `mono8` image: 255 for the object, 0 elsewhere."""
    return image_message(np.where(mask, np.uint8(255), np.uint8(0)), header, "mono8")


def labels_to_image(labels: np.ndarray, header: Header) -> Image:
    """Convert (H, W) uint16, 0 for the background, to a `mono16` image."""
    return image_message(labels.astype("<u2", copy=False), header, "mono16")


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) bool as alternating run lengths, uint32, in row-major order.

    Background comes first; that run may be 0.
    """
    mask = np.asarray(mask, dtype=bool)
    flat = mask.ravel()
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return np.full(min(flat.size, 1), flat.size, np.uint32)
    # Most rows hold nothing and need no second look.
    begin = max(rows[0] * mask.shape[1] - 1, 0)
    part = flat[begin : (rows[-1] + 1) * mask.shape[1] + 1]
    changes = np.flatnonzero(part[1:] != part[:-1]) + begin + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size]))).astype(np.uint32)
    return np.concatenate((np.zeros(1, np.uint32), runs)) if flat[0] else runs


def _run_lengths_within(mask: np.ndarray, region: RegionOfInterest) -> np.ndarray:
    """Return the run lengths of a mask without pixels outside of a region.

    Only the region is read, usually a small part of the image.
    """
    height, width = mask.shape
    if region.width == width:  # a run may go on in the next row
        return run_lengths(mask)
    left, top = region.x_offset, region.y_offset
    part = np.zeros(
        (region.height, region.width + 2), dtype=bool
    )  # every row begins and ends with background
    part[:, 1:-1] = mask[top : top + region.height, left : left + region.width]
    flat = part.ravel()
    rows, columns = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), part.shape[1])
    changes = (rows + top) * width + columns + left
    if changes.size and changes[-1] == mask.size:  # the last run is the object's
        changes = changes[:-1]
    return np.diff(np.concatenate(([0], changes, [mask.size]))).astype(np.uint32)


def mask_from_run_lengths(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the (height, width) bool mask of `run_lengths`.

    Raises:
        ConversionError: the runs do not fill it exactly.
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


def encode_mask(mask: np.ndarray, region: RegionOfInterest | None = None) -> MaskMessage:
    """Encode (H, W) bool as a Mask message with run lengths.

    `region`, where known, holds all its pixels.
    """
    height, width = mask.shape
    runs = run_lengths(mask) if region is None else _run_lengths_within(mask, region)
    data = array.array("B")
    data.frombytes(runs.astype("<u4").tobytes())
    return MaskMessage(height=height, width=width, encoding=MaskMessage.RLE, data=data)


def decode_mask(message: MaskMessage) -> np.ndarray:
    """Return a Mask message in any of its encodings as (H, W) bool; raise `ConversionError`."""
    height, width = message.height, message.width
    data = bytes(message.data)
    described = f"mask ({shortened(message.encoding)}, {width} x {height}, {len(data)} bytes)"
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
