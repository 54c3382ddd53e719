"""A model that takes no time: it answers every instruction with the same words and masks.

An answer contains the times when the model was called and when it returned, in seconds of
`time.perf_counter`, which is one clock for all processes of a Linux machine.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from lens_ros.lens import Instance
from lens_ros.segmentation import Segmentation

TOKENS = 20
OBJECTS = 3
REASONING = "looking for a mug . red mug ( 63 120 ) ; blue mug ( 141 92 ) . so the blue mug"


class InstantModel:
    """Stand-in for a `Lens` in the node: three ellipses, after twenty tokens of reasoning."""

    model_id = "instant"

    def __init__(self, height: int, width: int) -> None:
        self._answer = answer(height, width)

    def segment_all(
        self,
        rgb: np.ndarray,
        instructions: Sequence[str],
        *,
        on_text: Callable[[int, str], None],
        on_decode: Callable[[], None],
        cancelled: Callable[[], bool],
        **_: object,
    ) -> list[Segmentation]:
        """See `Lens.segment_all`."""
        called = time.perf_counter()
        words = REASONING.split()
        for count in range(1, TOKENS + 1):
            if cancelled():
                raise RuntimeError("cancelled")
            for row in range(len(instructions)):
                on_text(row, " ".join(words[:count]))
        on_decode()
        times = json.dumps([called, time.perf_counter()])
        return [dataclasses.replace(self._answer, instruction=each, answer=times) for each in instructions]


def answer(height: int, width: int) -> Segmentation:
    """Return the constant answer: objects of the usual size on a tabletop."""
    instances = []
    for number in range(OBJECTS):
        centre, axes = (width * (number + 1) // (OBJECTS + 1), height // 2), (width // 18, height // 8)
        drawn = cv2.ellipse(np.zeros((height, width), np.uint8), centre, axes, 20, 0, 360, 1, cv2.FILLED)
        rows, cols = np.nonzero(drawn)
        box = (float(cols.min()), float(rows.min()), float(cols.max() + 1), float(rows.max() + 1))
        instances.append(Instance(drawn.astype(bool), box, 0.9, "blue mug", 0.9))
    return Segmentation(
        instruction="", instances=tuple(instances), mask=np.logical_or.reduce([i.mask for i in instances]),
        reasoning=REASONING, answer="", well_formed=True, reason="", preprocess_ms=0.0, reason_ms=0.0,
        decode_ms=0.0, tokens=TOKENS, model=InstantModel.model_id,
    )  # fmt: skip
