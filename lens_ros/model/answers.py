"""Reading what the reasoner says: rationale, boxes, labels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# Answers can be long and broken: every pattern here takes time in proportion to the text, whatever it holds.
_TAG = re.compile(r"(</?(?:think|answer)>)")
_TAUGHT = ["<think>", "</think>", "<answer>", "</answer>"]
_FENCE = re.compile(r"```(?:json)?(.*?)```", re.DOTALL | re.IGNORECASE)
_NUMBER = r"\s*(-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*"
_PAIR = rf"\({_NUMBER},{_NUMBER}\)"
# [a,b,c,d], then (a,b,c,d), then (a,b),(c,d): the order in which LENS's reward looks for them.
_NOTATIONS = (
    re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]"),
    re.compile(r"\(" + ",".join([_NUMBER] * 4) + r"\)"),
    re.compile(rf"{_PAIR}\s*,\s*{_PAIR}"),
)
_BOX_KEYS = ("bbox_2d", "bbox", "box")  # Qwen2.5-VL's own, and what it writes now and then instead


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
    two apart. It is true for one rationale followed by one answer, in tags, and for a text without any tags;
    in both, the answer must be JSON, in a code fence or not, and nothing but JSON: a list of proper boxes,
    each an object or four bare numbers, or a single such box, or nothing as ``[]`` or ``{}``. "Nothing" in
    words is not well-formed: words can say anything."""

    rationale: str
    boxes: tuple[Box, ...]
    well_formed: bool


def extent(coordinates: Literal["absolute", "relative"], width: int, height: int) -> tuple[float, float]:
    """What coordinates written by the reasoner count up to, along x and y: the ``width`` and ``height`` of
    its own picture in pixels (Qwen2.5-VL), or 1000 whatever its shape (Qwen2-VL)."""
    return (width, height) if coordinates == "absolute" else (1000, 1000)


def parse_answer(text: str, extent: tuple[float, float]) -> Answer:
    """Reads any text; never raises.

    The boxes of the answer part are read, without one those of the text around the thinking. They are sought
    as JSON, as JSON in code fences, and as ``[a,b,c,d]``, ``(a,b,c,d)`` and ``(a,b),(c,d)`` (what Qwen2-VL
    writes between ``<|box_start|>`` and ``<|box_end|>``) within other text; all boxes of the first kind that
    occurs count.

    Numbers of the thinking never count, nor does any answer before the end of it. LENS's reward takes a box
    from there, if it is the first; but a robot must not act on a half thought.

    Boxes are clipped to the image and their corners put in order. A box that comes twice is one target. A box
    wholly outside of the image is no target, and not a proper box either. One without area stays: thin
    things can be as narrow as the rounding.

    Args:
        extent: what x and y count up to, both positive; see :func:`extent`.
    """
    finished, _, rest = text.rpartition("</think>")
    before, _, thinking = rest.partition("<think>")
    thinking, answer_tag, rest = thinking.partition("<answer>")
    outside, answer_tag, answer = (before + answer_tag + rest).partition("<answer>")
    boxes, clean = _read(answer.partition("</answer>")[0] if answer_tag else outside, extent)
    pieces = _TAG.split(text)
    tags, around = pieces[1::2], pieces[::4]  # of the taught form: before, between and behind the two parts
    in_form = not tags or (tags == _TAUGHT and not "".join(around).strip())
    return Answer(tidy(f"{finished} {thinking}"), boxes, well_formed=in_form and clean)


def tidy(text: str) -> str:
    """Text for people: no special tokens, punctuation close to its word."""
    text = re.sub(r"\s+", " ", re.sub(r"</?(?:think|answer)>|<\|\w*\|>", " ", text))
    return re.sub(r"([(\[]) ", r"\1", re.sub(r" ([.,;:?!)\]])", r"\1", text)).strip()


def _read(text: str, extent: tuple[float, float]) -> tuple[tuple[Box, ...], bool]:
    """The boxes in a text, and whether it is one JSON value of proper boxes and nothing else."""
    entries, alone = _json_entries(text), True
    if entries is None:
        blocks = [_json_entries(block) for block in _FENCE.findall(text)]
        alone = len(blocks) == 1 and not _FENCE.sub("", text).strip()
        readable = [block for block in blocks if block is not None]
        entries = [entry for block in readable for entry in block] if readable else None
    if entries is not None:
        boxes = [box for entry in entries if (box := _entry_box(entry, extent)) is not None]
        if boxes or not entries:
            return _unique(boxes), alone and len(boxes) == len(entries)
    for notation in _NOTATIONS:
        found = [_box(list(map(float, numbers)), extent, "") for numbers in notation.findall(text)]
        if found:
            return _unique(box for box in found if box is not None), False
    return (), False


def _json_entries(text: str) -> list[object] | None:
    """What may be boxes in a text of JSON; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return [value] if value else []
    if isinstance(value, list):
        return [value] if _four_numbers(value) else value
    return None


def _entry_box(entry: object, extent: tuple[float, float]) -> Box | None:
    """The box of ``{"bbox_2d": [a, b, c, d], "label": ...}`` or ``[a, b, c, d]``; None if there is none."""
    if not isinstance(entry, dict):
        return _box(entry, extent, "")
    label = entry.get("label", "")
    numbers = next((entry[key] for key in _BOX_KEYS if key in entry), None)
    return _box(numbers, extent, label.strip() if isinstance(label, str) else "")


def _four_numbers(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)
    )


def _box(numbers: object, extent: tuple[float, float], label: str) -> Box | None:
    """None if these are not four finite numbers, or if the image holds no point of the box."""
    if not (isinstance(numbers, list) and _four_numbers(numbers)):
        return None
    try:
        fractions = [float(n) / side for n, side in zip(numbers, (*extent, *extent), strict=True)]
    except OverflowError:
        return None
    if not all(math.isfinite(f) for f in fractions):
        return None
    x1, x2 = sorted(fractions[::2])
    y1, y2 = sorted(fractions[1::2])
    if max(x1, y1) > 1 or min(x2, y2) < 0:
        return None
    return Box(max(0.0, x1), max(0.0, y1), min(1.0, x2), min(1.0, y2), label)


def _unique(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Every place once, under its first label."""
    places: dict[tuple[float, ...], Box] = {}
    for box in boxes:
        places.setdefault((box.x1, box.y1, box.x2, box.y2), box)
    return tuple(places.values())
