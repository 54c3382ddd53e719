"""What the reasoner is asked, and the form in which it is taught to answer."""

from __future__ import annotations

import json
from collections.abc import Sequence

END = "<|im_end|>"
IMAGE = "<|image_pad|>"
UNKNOWN = "<unk>"


def image_prefix(image_tokens: int) -> str:
    """The opening of every prompt: the same for all instructions on an image."""
    return f"<|im_start|>user\n<|vision_start|>{IMAGE * image_tokens}<|vision_end|>"


def question(instruction: str) -> str:
    """The rest of the prompt, up to where the answer begins."""
    return f"{instruction}{END}\n<|im_start|>assistant\n"


def answer(rationale: str, boxes: Sequence[tuple[int, int, int, int]], labels: Sequence[str]) -> str:
    """The taught answer: rationale, then a JSON list of boxes in Qwen2.5-VL's own format.

    ``boxes`` are ``x1, y1, x2, y2`` in pixels of the reasoner's picture.
    """
    found = [{"bbox_2d": list(box), "label": label} for box, label in zip(boxes, labels, strict=True)]
    return f"<think>{rationale}</think><answer>{json.dumps(found, separators=(',', ':'))}</answer>{END}"
