"""Parse what the reasoner writes: rationale, boxes, labels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
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
# What others write instead, sought only where there is none of the above. No two parts of a pattern that
# match blanks may follow each other: a long run of blanks would take quadratic time.
_QUOTED = r"[\"']?(-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)[\"']?"
_BETWEEN = r"(?:\s*,\s*|\s+)"
_FOUR = _BETWEEN.join([_QUOTED] * 4)
_POINT = rf"[(\[]\s*{_QUOTED}{_BETWEEN}{_QUOTED}\s*[)\]]"
_TO = r"\s*(?:,|to|through|->|[-\u2013\u2014\u2192])\s*"
_SCORE = r"[\"']?(?:0?\.[0-9]+|[01](?:\.0+)?)[\"']?"  # 0 to 1
# Names of two corners; of a corner and the size.
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_SIZED = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))


def _named(names: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern of four numbers with these names in front, in JSON or in prose."""
    spelt = [re.sub("(min|max)", r"_?\1", name) for name in names]
    each = [rf"[\"']?\b{name}\b[\"']?\s*[:=]\s*{_QUOTED}" for name in spelt]
    return re.compile(r"(?:\s*[,;]\s*|\s+)".join(each), re.IGNORECASE)


def _corner(name: str) -> str:
    """Return a pattern of a corner's name and its point."""
    return rf"{name}(?:\s+corner)?[\"']?\s*(?:(?:is|at|[:=])\s*)?{_POINT}"


_RARE_NOTATIONS = (
    re.compile(rf"[(\[]\s*{_FOUR}(?:{_BETWEEN}{_SCORE})?(?:\s*,)?\s*[)\]]"),
    # More than two points are a polygon.
    re.compile(rf"{_POINT}{_TO}{_POINT}(?P<more>(?:{_TO}{_POINT.replace('(-?', '(?:-?')})*)"),
    *map(_named, _CORNERS),
    re.compile(
        rf"{_corner('top[-_ ]?left')}(?:\s*[,;]|\s+(?:and|to))?\s*(?:the\s+)?[\"']?"
        rf"{_corner('bottom[-_ ]?right')}",
        re.IGNORECASE,
    ),
    # The whole answer, perhaps with what it is of.
    re.compile(rf"\A\s*(?:[\w ]{{1,40}}[:=]\s*)?{_FOUR}\s*\.?\s*\Z"),
)
_RARE_SIZED = tuple(map(_named, _SIZED))
_LISTED = re.compile(",".join([_NUMBER] * 4))  # four numbers in a string of JSON
_BOX_KEYS = ("bbox_2d", "bbox", "box")  # Qwen2.5-VL's own, and what it writes now and then instead
# A sentence about the size of the image, up to the numbers.
_SIZE = re.compile(
    r"\b(?:(?:image|picture|photo|photograph|frame)\s+"
    r"(?:is|has|was|itself|measures|spans|covers|extends|ranges|goes)|size|resolution|dimensions?)\b"
    r"[^.!?\n]*\Z",
    re.IGNORECASE,
)
_NEARBY = 120  # characters in front of a box that are read as its sentence
_WHOLE = 0.95  # share of both sides from which on a box may be the size of the image

Numbers = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """A labelled box in fractions of the image's width and height.

    ``0 <= x1 <= x2 <= 1``, y alike; the label is "" when none was given.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""


@dataclass(frozen=True)
class ParsedAnswer:
    """Boxes that the reasoner wrote, and whether the text was well-formed.

    ``boxes`` is empty when the reasoner found nothing, or wrote nothing readable; ``well_formed``
    distinguishes the two. It is true for one rationale followed by one answer, in tags, and for a text
    without any tags. In both, the answer must be JSON, in a code fence or not, and nothing but JSON: a list
    of proper boxes, each an object or four bare numbers, or a single such box, or nothing as ``[]`` or
    ``{}``. "Nothing" in words is not well-formed: words can say anything.
    """

    rationale: str
    boxes: tuple[Box, ...]
    well_formed: bool


def extent(coordinates: Literal["absolute", "relative"], width: int, height: int) -> tuple[float, float]:
    """Return the largest coordinates that the reasoner writes, along x and y.

    These are ``width`` and ``height`` of the picture that it sees, in pixels (Qwen2.5-VL), or 1000 for any
    shape (Qwen2-VL).
    """
    return (width, height) if coordinates == "absolute" else (1000, 1000)


def parse_answer(text: str, extent: tuple[float, float]) -> ParsedAnswer:
    """Read the boxes of an answer from any text; never raise.

    The boxes of the answer part are read; without one, those of the text around the thinking. They are
    searched as JSON, as JSON in code fences, and as ``[a,b,c,d]``, ``(a,b,c,d)`` and ``(a,b),(c,d)`` (what
    Qwen2-VL writes between ``<|box_start|>`` and ``<|box_end|>``) within other text. All boxes of the first
    kind that occurs count. If there is none of these: numbers in quotes or without commas, a fifth number
    from 0 to 1 (a score), pairs of corners ``[[a,b],[c,d]]`` and ``(a,b) to (c,d)``, corners by name (``x1``,
    ``x_min``, ``left``, ``top_left``), a corner and the size by name (``x``, ``y``, ``width``, ``height``),
    and four numbers that are the whole answer. These are never well-formed.

    If all numbers of an answer are from 0 to 1, and not all of them whole, they are fractions of the image.
    Four zeros mean that there is nothing. Within other text, a box of exactly the image's size is its size
    and no target, and so is one of nearly that size in a sentence about the size of the image.

    Numbers of the thinking never count, nor does any answer before the end of it. LENS's reward takes a box
    from there, if it is the first; but a robot must not act on an unfinished thought.

    Boxes are clipped to the image and their corners put in order. A box that occurs twice is one target. A
    box wholly outside of the image is no target, and not a proper box either. One without area stays: thin
    things can be as narrow as the rounding.

    Args:
        text: what the reasoner wrote.
        extent: largest x and y, both positive; see :func:`extent`.
    """
    finished, _, rest = text.rpartition("</think>")
    before, _, thinking = rest.partition("<think>")
    thinking, answer_tag, rest = thinking.partition("<answer>")
    outside, answer_tag, answer = (before + answer_tag + rest).partition("<answer>")
    boxes, clean = _read(answer.partition("</answer>")[0] if answer_tag else outside, extent)
    pieces = _TAG.split(text)
    tags, around = pieces[1::2], pieces[::4]  # of the taught form: before, between and behind the two parts
    in_form = not tags or (tags == _TAUGHT and not "".join(around).strip())
    return ParsedAnswer(tidy(f"{finished} {thinking}"), boxes, well_formed=in_form and clean)


def tidy(text: str) -> str:
    """Return text for people: no special tokens, punctuation close to its word."""
    text = re.sub(r"\s+", " ", re.sub(r"</?(?:think|answer)>|<\|\w*\|>", " ", text))
    return re.sub(r"([(\[]) ", r"\1", re.sub(r" ([.,;:?!)\]])", r"\1", text)).strip()


def _read(text: str, extent: tuple[float, float]) -> tuple[tuple[Box, ...], bool]:
    """Return the boxes in a text, and whether it is one JSON value of proper boxes and nothing else."""
    entries, alone = _json_entries(text), True
    if entries is None:
        blocks = [_json_entries(block) for block in _FENCE.findall(text)]
        alone = len(blocks) == 1 and not _FENCE.sub("", text).strip()
        readable = [block for block in blocks if block is not None]
        entries = [entry for block in readable for entry in block] if readable else None
    if entries is not None:
        read = [_entry(entry) for entry in entries]
        written = [(numbers, label) for numbers, label, _ in read if numbers is not None]
        there = [(numbers, label) for numbers, label in written if any(numbers)]
        found = _boxes(there, extent)
        boxes = _unique(found)
        if boxes or (len(written) == len(entries) and not there):
            return boxes, alone and None not in found and all(taught for *_, taught in read)
    for notation in (*_NOTATIONS, *_RARE_NOTATIONS, *_RARE_SIZED):
        corners = _corners_of_size if notation in _RARE_SIZED else _four
        matches = [m for m in notation.finditer(text) if not m.groupdict().get("more")]
        numbers = [(m, corners(*map(float, m.groups()[:4]))) for m in matches]
        targets = [(four, "") for m, four in numbers if not _tells_size(m, four, extent)]
        if targets:
            return _unique(_boxes([t for t in targets if any(t[0])], extent)), False
    return (), False


def _tells_size(found: re.Match[str], numbers: Numbers, extent: tuple[float, float]) -> bool:
    """Return whether four numbers in a text are the size of the image, not a target."""
    x1, y1, x2, y2 = numbers
    if (x1, y1, x2, y2) == (0, 0, *extent):
        return True
    if x1 > 0 or y1 > 0 or x2 < _WHOLE * extent[0] or y2 < _WHOLE * extent[1]:
        return False
    before = found.string[max(0, found.start() - _NEARBY) : found.start()]
    return _SIZE.search(before) is not None


def _four(x1: float, y1: float, x2: float, y2: float) -> Numbers:
    return x1, y1, x2, y2


def _corners_of_size(x: float, y: float, width: float, height: float) -> Numbers:
    """Return the two corners of a box that is written as its first corner and its size."""
    # Rounded, so that fractions do not add up to more than the image.
    return x, y, round(x + width, 9), round(y + height, 9)


def _json_entries(text: str) -> list[object] | None:
    """Return what may be boxes in a JSON text; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return [value] if value else []
    if isinstance(value, list):
        return [value] if _numbers(value)[0] is not None else value
    return None


def _entry(entry: object) -> tuple[Numbers | None, str, bool]:
    """Return numbers, label and form of an entry.

    The numbers, if any, and the label of ``{"bbox_2d": [a, b, c, d], "label": ...}`` or ``[a, b, c, d]``, and
    whether it is written exactly like that.
    """
    if not isinstance(entry, dict):
        numbers, taught = _numbers(entry)
        return numbers, "", taught
    label = entry.get("label", "")
    value = next((entry[key] for key in _BOX_KEYS if key in entry), entry)
    numbers, taught = _numbers(value)
    return numbers, label.strip() if isinstance(label, str) else "", taught


def _numbers(value: object) -> tuple[Numbers | None, bool]:
    """Return four numbers in any of JSON's forms, and whether it is the plain one."""
    taught = isinstance(value, list) and len(value) == 4
    if isinstance(value, dict):
        value = _by_name(value)
    elif isinstance(value, str):
        listed = _LISTED.fullmatch(value)
        value = list(listed.groups()) if listed else None
    if not isinstance(value, list):
        return None, False
    if len(value) == 2 and all(isinstance(point, list) and len(point) == 2 for point in value):
        value = [*value[0], *value[1]]
    if len(value) not in (4, 5):
        return None, False
    numbers = [n for v in value if (n := _number(v)) is not None]
    if len(numbers) != len(value) or (len(numbers) == 5 and not 0 <= numbers.pop() <= 1):
        return None, False
    x1, y1, x2, y2 = numbers
    return (x1, y1, x2, y2), taught and not any(isinstance(v, str) for v in value)


def _by_name(entry: dict[str, object]) -> list[object] | None:
    """Return the four numbers of an entry that names each of them, as two corners; None for any other."""
    named = {name.lower().replace("_", ""): value for name, value in entry.items()}
    for names in _CORNERS:
        if set(names) <= named.keys():
            return [named[name] for name in names]
    for names in _SIZED:
        numbers = [_number(named.get(name)) for name in names]
        if all(number is not None for number in numbers):
            return list(_corners_of_size(*(n for n in numbers if n is not None)))
    return None


def _number(value: object) -> float | None:
    """Return a finite number, also one in a string; None for anything else."""
    if isinstance(value, str) and re.fullmatch(_NUMBER, value) is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _boxes(written: Sequence[tuple[Numbers, str]], extent: tuple[float, float]) -> list[Box | None]:
    """Return the boxes of one answer; None for each that is not in the image."""
    numbers = [n for four, _ in written for n in four]
    if all(0 <= n <= 1 for n in numbers) and not all(n in (0, 1) for n in numbers):
        extent = (1, 1)
    return [_box(four, extent, label) for four, label in written]


def _box(numbers: Numbers, extent: tuple[float, float], label: str) -> Box | None:
    """Return the box, or None if it is not finite or has no more than its origin in the image."""
    fractions = [n / side for n, side in zip(numbers, (*extent, *extent), strict=True)]
    if not all(math.isfinite(f) for f in fractions):
        return None
    x1, x2 = sorted(fractions[::2])
    y1, y2 = sorted(fractions[1::2])
    if max(x1, y1) > 1 or min(x2, y2) < 0 or max(x2, y2) == 0:
        return None
    return Box(max(0.0, x1), max(0.0, y1), min(1.0, x2), min(1.0, y2), label)


def _unique(boxes: Iterable[Box | None]) -> tuple[Box, ...]:
    """Return every place once, under its first label."""
    places: dict[tuple[float, ...], Box] = {}
    for box in filter(None, boxes):
        places.setdefault((box.x1, box.y1, box.x2, box.y2), box)
    return tuple(places.values())
