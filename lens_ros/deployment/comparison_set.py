"""Choose the pictures and instructions on which a quantised model is compared with the full one."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lens_ros.inputs import ImageError, InstructionError, as_rgb, check_instruction
from lens_ros.recording_topics import choose
from lens_ros.recordings import Recording
from lens_ros.resources import find_demo

LIST = "instructions.jsonl"
_MOMENTS = 6  # pictures of the demo's recording
_TURNS = 3  # a text is asked about every third of them


class CalibrationError(Exception):
    """A calibration set that cannot be used; the message says what was expected."""


@dataclass(frozen=True)
class CalibrationQuestion:
    """``rgb`` ``(H, W, 3)`` uint8 and what is asked about it."""

    rgb: np.ndarray
    text: str


def read_questions(folder: Path) -> list[CalibrationQuestion]:
    """Read a folder of pictures with ``instructions.jsonl``.

    It has a line for each question, such as ``{"image": "kitchen.jpg", "text": "the red mug"}``, the image
    relative to the folder.

    Raises:
        CalibrationError: the list is missing, empty or malformed, or a picture cannot be read.
    """
    path = folder / LIST
    form = '{"image": "kitchen.jpg", "text": "the red mug"}'
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{path} cannot be read ({error}). Expected a folder of pictures with this file, each line "
            f"such as {form}"
        ) from error
    questions: list[CalibrationQuestion] = []
    seen: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            image, text = entry["image"], check_instruction(entry["text"])
            if image not in seen:
                seen[image] = as_rgb(folder / image)
        except (ValueError, KeyError, TypeError, ImageError, InstructionError) as error:
            raise CalibrationError(
                f"{path}, line {number}: {type(error).__name__}: {error}. Expected a line such as {form}"
            ) from error
        questions.append(CalibrationQuestion(seen[image], text))
    if not questions:
        raise CalibrationError(f"{path} is empty: expected lines such as {form}")
    return questions


def demo_questions() -> list[CalibrationQuestion]:
    """Return questions about the demo recording, for models that were trained on tabletops.

    They ask for what is on the table by name and by place, from several points of view. Not all of them are
    true of exactly one object, and need not be: two models are compared, neither with the truth.

    Raises:
        CalibrationError: the recording is not there.
    """
    try:
        bag = find_demo()
    except FileNotFoundError as error:
        raise CalibrationError(
            f"{error}. Name a folder of pictures with {LIST} instead: --calibration"
        ) from error
    objects = json.loads((bag.parent / "scene.json").read_text(encoding="utf-8"))["objects"]
    texts = _texts([(o["color"], o["category"]) for o in objects])
    # Every text from some of the points of view, in turn.
    return [
        CalibrationQuestion(rgb, text)
        for view, rgb in enumerate(_pictures(bag))
        for place, text in enumerate(texts)
        if (view + place) % _TURNS == 0
    ]


def _texts(objects: Sequence[tuple[str, str]]) -> list[str]:
    """Return questions about objects, each color and category."""
    names = [f"the {color} {category}" for color, category in objects]
    many = Counter(category for _, category in objects)
    nexts = [*names[1:], names[0]]
    return [
        *names,
        *(f"the {category}" for category in many if many[category] == 1),
        *(f"the thing nearest to {name}" for name in names),
        *(f"the thing between {name} and {other}" for name, other in zip(names, nexts, strict=True)),
        *(f"the {side}most thing" for side in ("left", "right")),
        *(
            f"the {category} to the left of {other}"
            for (_, category), other in zip(objects, nexts, strict=True)
        ),
    ]


def _pictures(bag: Path) -> list[np.ndarray]:
    """Return color images, spread evenly over the recording."""
    with Recording(bag) as recording:
        messages = list(recording.messages([choose(recording.topics).color]))
    chosen = np.linspace(0, len(messages) - 1, _MOMENTS).round().astype(int)
    jpegs = [bytes(messages[k].content.data) for k in chosen]
    return [as_rgb(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]
