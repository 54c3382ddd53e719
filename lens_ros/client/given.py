"""Turn what a caller gives as an image or an instruction into a message, or say what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from lens_ros.client.errors import LensInputError
from lens_ros.inputs import ImageError, as_rgb
from lens_ros.ros import conversions

Picture: TypeAlias = Image | CompressedImage | np.ndarray | PIL.Image.Image | str | Path
_EXPECTED = (
    "expected sensor_msgs/Image, sensor_msgs/CompressedImage, a path, a PIL image, or an array: (H, W, 3) "
    "RGB or (H, W) gray, as uint8 or as floating-point numbers 0..1"
)


def image_message(image: Picture) -> Image:
    """Return an image as a message.

    Args:
        image: a message, the path of a picture, a PIL image, or an array (H, W, 3) RGB or (H, W) gray, uint8
            or floating-point 0..1.

    Raises:
        LensInputError: it is none of these, or not usable; says what was expected.
    """
    if isinstance(image, Image):
        return image
    header = Header()
    try:
        if isinstance(image, CompressedImage):
            header, rgb = image.header, conversions.compressed_to_rgb(image)
        elif isinstance(image, np.ndarray):
            rgb = as_rgb(_pixels(image))
        elif isinstance(image, PIL.Image.Image | str | Path):
            rgb = as_rgb(image)
        else:
            raise LensInputError(f"the image is {type(image).__name__}; {_EXPECTED}")
        return conversions.rgb_to_image(rgb, header)
    except (ImageError, conversions.ConversionError) as error:
        raise LensInputError(str(error)) from error


def checked_instruction(instruction: str) -> str:
    """Return the instruction, if a message can hold it; what it says is for the node to judge.

    Raises:
        LensInputError: it is not text, or cannot be encoded as UTF-8.
    """
    if not isinstance(instruction, str):
        raise LensInputError(
            f"the instruction is {type(instruction).__name__}; expected text, such as 'the red bottle'"
        )
    try:
        instruction.encode()
    except UnicodeEncodeError as error:
        raise LensInputError(f"the instruction {instruction!a} is not UTF-8 text") from error
    return instruction


def _pixels(array: np.ndarray) -> np.ndarray:
    """Return ``(H, W, 3)`` uint8 of an array that has one meaning as a picture."""
    gray = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    right = array.size > 0 and (gray or (array.ndim == 3 and array.shape[2] == 3))
    floating = np.issubdtype(array.dtype, np.floating)
    if not right or not (floating or array.dtype == np.uint8):
        raise LensInputError(f"the image is an array of shape {array.shape}, {array.dtype}; {_EXPECTED}")
    if floating:
        low, high = float(array.min()), float(array.max())
        if not 0.0 <= low <= high <= 1.0:  # also where one is not a number
            raise LensInputError(
                f"the image is a floating-point array with values from {low:g} to {high:g}; {_EXPECTED}"
            )
        array = np.round(255.0 * array.astype(np.float64)).astype(np.uint8)
    return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if gray else array
