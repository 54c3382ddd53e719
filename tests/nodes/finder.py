"""Model that says and finds what a test wants."""

from __future__ import annotations

import threading

import numpy as np

from lens_ros import lens
from lens_ros.model.score_calibration import Certainty

TOKENS = 40  # fewer than the topic's depth, so that a reader that sleeps loses none
OWN_THRESHOLD = 0.6


class Finder:
    """Stand-in for a `Lens`: thinks in 40 tokens and finds two objects, which score 0.9 and 0.2.

    It rejects the second object at any threshold. Its own threshold is 0.6.

    Words in an instruction change its behaviour. "left" moves what it finds. "breaks" fails. "greedy" runs
    out of memory if others are asked at the same time. "blinking" waits before the first token, "slowly" at
    each token, and "late masks" before the masks, until the test lets it continue.
    """

    model_id = "finder"

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], bool | None]] = []
        self.go_on = threading.Event()

    def segment_all(
        self, image, instructions, *, think, on_text, on_decode, cancelled, max_new_tokens, score_threshold
    ) -> list[lens.Segmentation]:
        rgb = lens.as_rgb(image)
        self.asked.append((list(instructions), think))
        if any("breaks" in instruction for instruction in instructions):
            raise RuntimeError("a kernel failed")
        if any("greedy" in instruction for instruction in instructions) and len(instructions) > 1:
            np.empty(1 << 60, np.uint8)
        if any("blinking" in instruction for instruction in instructions):
            self.go_on.wait()
        for count in range(1, TOKENS + 1):
            if cancelled():
                raise lens.Cancelled
            for row, instruction in enumerate(instructions):
                on_text(row, " ".join(["so"] * count))
                if "slowly" in instruction:
                    while not self.go_on.wait(0.002) and not cancelled():
                        pass
        on_decode()
        while any("late masks" in instruction for instruction in instructions):
            if self.go_on.wait(0.002):
                break
        return [self.found(rgb, instruction, score_threshold) for instruction in instructions]

    def found(self, rgb: np.ndarray, instruction: str, score_threshold: float | None) -> lens.Segmentation:
        first, second = np.zeros((2, *rgb.shape[:2]), bool)
        x = 20 if "left" in instruction else 30
        first[10:20, x : x + 20] = True
        second[40:50, 5:8] = True
        instances = (
            lens.Instance(second, (5.0, 40.0, 8.0, 50.0), 0.2, "blue mug", 0.1, "disagrees", 0.2),
            lens.Instance(first, (x, 10.0, x + 20.0, 20.0), 0.9, "red mug", 0.8, "", 0.9),
        )
        least = OWN_THRESHOLD if score_threshold is None else score_threshold
        instances = tuple(lens.judged(instance, None, Certainty(0, 0), least) for instance in instances)
        return lens.Segmentation(
            instruction=instruction.strip(), instances=instances, mask=lens.union(instances, rgb.shape[:2]),
            reasoning="i look for a mug .", answer="[...]", well_formed=True,
            reason="; ".join(i.rejected for i in instances) if all(i.rejected for i in instances) else "",
            preprocess_ms=1.0, reason_ms=2.0, decode_ms=3.0, tokens=TOKENS, model=self.model_id,
            score_threshold=least,
        )  # fmt: skip
