"""Check pictures, instructions and devices from outside, and make them usable."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from lens_ros.tones import significant_bits, to_8_bits

if TYPE_CHECKING:
    import torch

MAX_INSTRUCTION = 1000  # characters
MIN_SIDE, MAX_SIDE = 16, 16384  # pixels
BACKGROUND = (255, 255, 255)  # RGB behind transparent pixels: white, as in most viewers


class ImageError(ValueError):
    """An image that cannot be segmented; the message says what was expected."""


class InstructionError(ValueError):
    """An instruction that cannot be followed; the message says what was expected."""


class DeviceError(ValueError):
    """A device that torch does not know or that is not there; the message says what there is."""


class PathError(ValueError):
    """A path that cannot be used; the message names the setting that holds it."""


def as_rgb(image: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    """Return an array, a PIL image or a file (:func:`read_picture`) as ``(H, W, 3)`` uint8 RGB.

    Raises:
        ImageError: it is none of these, or too small or large.
    """
    rgb = read_picture(image) if isinstance(image, str | Path | Image.Image) else image
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"expected an RGB image as uint8 of shape (height, width, 3), got {found}")
    height, width = rgb.shape[:2]
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise ImageError(
            f"the image is {width}x{height} pixels; each side must have {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    return rgb


def read_picture(picture: str | Path | Image.Image) -> np.ndarray:
    """Return the picture in a file, or a PIL image, as people see it: ``(H, W, 3)`` uint8 RGB.

    It is turned as its EXIF orientation says. What is transparent shows a white background. Gray with more
    than 8 bits keeps its tones (:func:`~lens_ros.tones.significant_bits`). Of several frames or pages the
    first one is read.

    Raises:
        ImageError: there is no such file, it is damaged, or it has more pixels than Pillow opens.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from half of its limit on; a picture of that size is still read.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if isinstance(picture, Image.Image):
                return _upright_rgb(picture)
            with Image.open(picture) as opened:
                return _upright_rgb(opened)
    except FileNotFoundError as error:
        raise ImageError(f"no such file: {_named(picture)}. Give the path of a picture.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{_named(picture)} has too many pixels ({error}): scale it down first") from error
    except Exception as error:  # Pillow's readers of damaged files raise many kinds
        raise ImageError(
            f"{_named(picture)} is not a readable picture ({error}). PNG and JPEG work."
        ) from error


def expand_path(path: str | Path, setting: str) -> Path:
    """Return a path with `~` and `~user` replaced by a home folder.

    Args:
        setting: what holds the path, for the message, such as ``parameter engine_cache_dir``.

    Raises:
        PathError: there is no such user, or the user has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0]
        raise PathError(
            f"{setting}: '{printable(path)}' begins with {user}, and there is no such user or home folder "
            "here; expected a path from the root on, such as /home/me/models, or ~ for your own home folder"
        ) from error


def writable_folder(path: str | Path, setting: str) -> Path:
    """Return a folder's path as `expand_path` does; the folder need not exist.

    Raises:
        PathError: it cannot be expanded, or cannot exist: it, or what should hold it, is a file.
    """
    folder = expand_path(path, setting)
    there = next((each for each in (folder, *folder.parents) if each.exists()), None)
    if there is not None and not there.is_dir():
        raise PathError(
            f"{setting}: '{printable(folder)}' cannot be a folder, because {printable(there)} is a file; "
            "expected a folder, or the path of one that can be created"
        )
    return folder


def printable(path: str | Path) -> str:
    """Return a path as text that can be encoded: names of files need not be UTF-8."""
    return str(path).encode(errors="backslashreplace").decode()


def _named(picture: str | Path | Image.Image) -> str:
    return "the image" if isinstance(picture, Image.Image) else printable(picture)


def _upright_rgb(picture: Image.Image) -> np.ndarray:
    picture.load()
    try:
        upright = ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF data, behind a picture that is not
        upright = picture
    if upright.mode == "F" or upright.mode.startswith("I"):
        return np.repeat(_gray(np.asarray(upright))[..., None], 3, axis=2)
    if upright.mode in ("La", "RGBa"):
        upright = upright.convert({"La": "LA", "RGBa": "RGBA"}[upright.mode])
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKGROUND, 255)), layer)
    return np.asarray(upright.convert("RGB"))


def _gray(values: np.ndarray) -> np.ndarray:
    """Return ``(H, W)`` uint8 of gray in 16-bit or 32-bit integers or in floats.

    Floats up to 1 are shares of white. Negative values and NaN are black.
    """
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float64)
        values = np.rint(values * 255 if values.max(initial=0) <= 1 else values)
    values = values.clip(0, 2**32 - 1).astype(np.uint32)
    return to_8_bits(values, significant_bits(values))


def check_instruction(instruction: str) -> str:
    """Return the instruction without surrounding blanks and without text that reads as a special token.

    Raises:
        InstructionError: empty, not text, not Unicode, or longer than 1000 characters.
    """
    if not isinstance(instruction, str) or not instruction.strip():
        raise InstructionError("the instruction is empty; say what to look for, such as 'the red mug'")
    instruction = instruction.strip()
    try:
        instruction.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which is how Python keeps bytes that are no UTF-8
        raise InstructionError(
            f"the instruction is not UTF-8 at character {error.start + 1} "
            f"({ascii(instruction[error.start])}); send it as UTF-8 text"
        ) from error
    if len(instruction) > MAX_INSTRUCTION:
        raise InstructionError(
            f"the instruction has {len(instruction)} characters; at most {MAX_INSTRUCTION} are read. "
            "Name the object in a sentence."
        )
    # Special tokens belong to the prompt's form, never to what a person says.
    return instruction.replace("<", "< ")


def check_device(name: str) -> torch.device:
    """Return the device that torch calls ``name``: the CPU, or a GPU or other accelerator that is there.

    Raises:
        DeviceError: torch knows no such device, or there is none.
    """
    import torch

    there = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        there += [kind, *(f"{kind}:{k}" for k in range(torch.accelerator.device_count()))]
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        device = None
    if device is None or str(device) not in (*there, "cpu:0"):
        hint = ""
        if device is not None and device.type == "cuda" and len(there) == 1:
            hint = f"; torch {torch.__version__} sees no CUDA GPU: check driver and installation, or use cpu"
        raise DeviceError(
            f"the device {name!a} is not available here; expected one of {', '.join(there)}{hint}"
        )
    return device
