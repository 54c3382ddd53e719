"""Draw pictures of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lens_ros.channels import contiguous
from lens_ros.geometry.cameras import Camera
from lens_ros.segmentation import Segmentation

_ACCEPTED = (40, 220, 90)  # RGB
_REJECTED = (230, 60, 50)
_BOX = (255, 210, 40)  # of a box in three dimensions
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MARGIN = 8  # pixels, around tiles and text
_LINE = 18  # pixels, a line of text


def overlay(rgb: np.ndarray, segmentation: Segmentation) -> np.ndarray:
    """Return the image with every instance tinted, outlined, boxed and named.

    Accepted instances are green, rejected ones red.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        segmentation: of the same size.

    Returns:
        ``(H, W, 3)`` uint8, a new array.

    Raises:
        ValueError: the sizes differ.
    """
    if segmentation.mask.shape != rgb.shape[:2]:
        raise ValueError(
            f"the masks are {segmentation.mask.shape}, the image {rgb.shape[:2]}: "
            "overlay the image that was segmented"
        )
    picture = contiguous(rgb).copy()
    thickness = max(1, round(max(rgb.shape[:2]) / 320))
    for instance in segmentation.instances:
        color = _REJECTED if instance.rejected else _ACCEPTED
        tint = 0.5 * picture[instance.mask] + 0.5 * np.array(color)
        picture[instance.mask] = tint.astype(np.uint8)
        outline, _ = cv2.findContours(instance.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, color, thickness)
        x1, y1, x2, y2 = (round(v) for v in instance.box)
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), color, thickness)
        _name(picture, f"{instance.label} {instance.score:.2f}", (x1, y1), color)
    return picture


def draw_box(picture: np.ndarray, camera: Camera, corners: np.ndarray) -> None:
    """Draw the edges of a box in three dimensions into a picture.

    Args:
        picture: ``(H, W, 3)`` uint8 RGB, changed in place.
        camera: of the picture.
        corners: ``(8, 3)`` metres in the camera's frame; two that differ in one bit of their index share an
            edge.
    """
    pixels = camera.pixels(corners)
    thickness = max(1, round(max(picture.shape[:2]) / 480))
    for first in range(8):
        for second in (first ^ 1, first ^ 2, first ^ 4):
            ends = pixels[[first, second]]
            if first < second and np.isfinite(ends).all() and np.abs(ends).max() < 1e5:
                start, end = (tuple(int(v) for v in each.round()) for each in ends)
                cv2.line(picture, start, end, _BOX, thickness, cv2.LINE_AA)


def _name(picture: np.ndarray, text: str, corner: tuple[int, int], color: tuple[int, int, int]) -> None:
    scale = max(0.4, picture.shape[0] / 900)
    (width, height), below = cv2.getTextSize(text, _FONT, scale, 1)
    x = max(0, min(corner[0], picture.shape[1] - width - 4))
    y = max(height + below + 2, corner[1])
    cv2.rectangle(picture, (x, y - height - below - 2), (x + width + 4, y), color, cv2.FILLED)
    cv2.putText(picture, text, (x + 2, y - below), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)


@dataclass(frozen=True)
class Tile:
    """A picture ``(H, W, 3)`` uint8 RGB with a title and a text below it, on a contact sheet."""

    picture: np.ndarray
    title: str
    text: str


def contact_sheet(tiles: Sequence[Tile], columns: int, width: int = 420) -> np.ndarray:
    """Return tiles in rows, each ``width`` pixels wide, text wrapped, as ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: no tiles.
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one picture")
    drawn = [_tile(tile, width) for tile in tiles]
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    return np.vstack([_row(row, min(columns, len(drawn))) for row in rows])


def _row(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    height = max(tile.shape[0] for tile in tiles)
    padded = [
        cv2.copyMakeBorder(tile, 0, height - tile.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=(255,) * 3)
        for tile in tiles
    ]
    padded += [np.full_like(padded[0], 255)] * (columns - len(padded))
    return np.hstack(padded)


def _tile(tile: Tile, width: int) -> np.ndarray:
    height = round(tile.picture.shape[0] * width / tile.picture.shape[1])
    picture = cv2.resize(tile.picture, (width, height), interpolation=cv2.INTER_AREA)
    lines = [(line, 0.5, (20, 20, 20)) for line in _wrap(tile.title, 0.5, width)]
    lines += [(line, 0.42, (90, 90, 90)) for line in _wrap(tile.text, 0.42, width)]
    panel = np.full((len(lines) * _LINE + _MARGIN, width, 3), 255, dtype=np.uint8)
    for row, (line, scale, color) in enumerate(lines):
        cv2.putText(panel, line, (2, (row + 1) * _LINE - 3), _FONT, scale, color, 1, cv2.LINE_AA)
    return cv2.copyMakeBorder(
        np.vstack([picture, panel]), *(_MARGIN,) * 4, cv2.BORDER_CONSTANT, value=(255,) * 3
    )


def _wrap(text: str, scale: float, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and cv2.getTextSize(longer, _FONT, scale, 1)[0][0] > width - 4:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
