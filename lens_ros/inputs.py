"""What may be asked about: pictures and instructions, made usable or refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_INSTRUCTION = 1000  # characters
MIN_SIDE, MAX_SIDE = 16, 16384  # pixels


class ImageError(ValueError):
    """An image that cannot be segmented; the message says what was expected."""


class InstructionError(ValueError):
    """An instruction that cannot be followed; the message says what was expected."""


def as_rgb(image: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB of an array, a PIL image or a file.

    Raises:
        ImageError: it is none of these, or too small or large.
    """
    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                image = opened.convert("RGB")
        except FileNotFoundError as error:
            raise ImageError(f"no such file: {image}. Give the path of a picture.") from error
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"{image} is not a readable picture ({error}). PNG and JPEG work.") from error
    rgb = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"expected an RGB image as uint8 of shape (height, width, 3), got {found}")
    height, width = rgb.shape[:2]
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise ImageError(
            f"the image is {width}x{height} pixels; each side must have {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    return rgb


def check_instruction(instruction: str) -> str:
    """The instruction without surrounding blanks, and with no text that reads as a special token.

    Raises:
        InstructionError: empty, not text, or longer than 1000 characters.
    """
    if not isinstance(instruction, str) or not instruction.strip():
        raise InstructionError("the instruction is empty; say what to look for, such as 'the red mug'")
    instruction = instruction.strip()
    if len(instruction) > MAX_INSTRUCTION:
        raise InstructionError(
            f"the instruction has {len(instruction)} characters; at most {MAX_INSTRUCTION} are read. "
            "Name the object in a sentence."
        )
    # Special tokens belong to the prompt's form, never to what a person says.
    return instruction.replace("<", "< ")
