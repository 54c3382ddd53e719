"""Reading what the reasoner says: rationale, boxes, labels."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

_THINK = re.compile(r"<think>(.*?)(?:</think>|<answer>|$)", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_WHOLE = re.compile(r"\s*<think>.*?</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")


@dataclass(frozen=True)
class Box:
    """A box in fractions of the image's width and height, ``0 <= x1 <= x2 <= 1``, y alike, and its label
    ("" when none was given)."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""


@dataclass(frozen=True)
class Answer:
    """``boxes`` is empty when the reasoner found nothing, or said nothing readable; ``well_formed`` tells the
    two apart: it is true only for one rationale followed by one JSON list of proper boxes."""

    rationale: str
    boxes: tuple[Box, ...]
    well_formed: bool


def parse_answer(text: str, extent: float) -> Answer:
    """Reads any text; never raises.

    Coordinates count from 0 to ``extent`` (the side of the reasoner's picture for absolute pixels, 1000 for
    the relative convention). They are clipped to the image and put in order. Where the JSON is broken, boxes
    are still picked out of the answer part.
    """
    rationale = tidy(_first(_THINK, text))
    whole = _WHOLE.fullmatch(text)
    if whole is not None:
        boxes = _read_json(whole.group(1), extent)
        if boxes is not None:
            return Answer(rationale, boxes, well_formed=True)
    found = (_box(list(map(float, match)), extent, "") for match in _BOX.findall(_first(_ANSWER, text)))
    return Answer(rationale, tuple(box for box in found if box is not None), well_formed=False)


def tidy(text: str) -> str:
    """Text for people: no special tokens, punctuation close to its word."""
    text = re.sub(r"</?(?:think|answer)>|<\|.*?\|>", " ", text)
    text = re.sub(r"\s+([.,;:?!)\]])", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"([(\[])\s+", r"\1", text)).strip()


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match.group(1) if match else ""


def _read_json(text: str, extent: float) -> tuple[Box, ...] | None:
    """The boxes of a proper JSON list, or None."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    boxes = []
    for entry in entries:
        if not isinstance(entry, dict):
            return None
        label = entry.get("label", "")
        box = _box(entry.get("bbox_2d"), extent, label.strip() if isinstance(label, str) else "")
        if box is None:
            return None
        boxes.append(box)
    return tuple(boxes)


def _box(numbers: object, extent: float, label: str) -> Box | None:
    if not isinstance(numbers, list) or len(numbers) != 4:
        return None
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        return None
    try:
        fractions = [float(n) / extent for n in numbers]
    except OverflowError:
        return None
    if not all(math.isfinite(f) for f in fractions):
        return None
    x1, y1, x2, y2 = (min(1.0, max(0.0, f)) for f in fractions)
    return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), label)
