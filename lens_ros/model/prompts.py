"""Define the prompts of the reasoner, and the form of its answers.

Wording ``"tabletop"`` is lens-nano's own, short one. ``"paper"`` is what the checkpoints of the paper were
trained on, to the byte: Qwen2.5-VL's chat format around the texts of LENS (``src/open_r1/constants.py``:
``QWEN2_SYS``, ``pr1_grounding`` and ``SAMR1_V4_TEMPLATE``). A blank that looks superfluous, or one that seems
to be missing, belongs to these texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from lens_ros.model.plain import plain_words

Wording = Literal["tabletop", "paper"]

END = "<|im_end|>"
IMAGE = "<|image_pad|>"
UNKNOWN = "<unk>"

_PAPER_SYSTEM = f"<|im_start|>system\nYou are a helpful assistant. {END}\n"


def image_prefix(image_tokens: int, wording: Wording = "tabletop") -> str:
    """Return the opening of every prompt, up to the end of the image: the same for all instructions."""
    system = _PAPER_SYSTEM if wording == "paper" else ""
    return f"{system}<|im_start|>user\n<|vision_start|>{IMAGE * image_tokens}<|vision_end|>"


def question(instruction: str, wording: Wording = "tabletop", *, think: bool = True) -> str:
    """Return the rest of the prompt, up to where the answer begins.

    The paper's wording takes ``instruction`` as it is, lens-nano's own takes its plain words
    (:func:`~lens_ros.model.plain.plain_words`).
    """
    asked = _in_the_papers_words(instruction, think) if wording == "paper" else plain_words(instruction)
    return f"{asked}{END}\n<|im_start|>assistant\n"


def opening(wording: Wording, *, think: bool) -> str:
    """Return the forced beginning of the answer: part of the prompt, and of the answer when it is read.

    With an empty thought as its beginning, lens-nano continues with the boxes. The paper's checkpoints are
    asked in other words instead.
    """
    return "<think></think><answer>" if wording == "tabletop" and not think else ""


def answer(rationale: str, boxes: Sequence[tuple[int, int, int, int]], labels: Sequence[str]) -> str:
    """Return the taught answer: rationale, then a JSON list of boxes in Qwen2.5-VL's own format.

    ``boxes`` are ``x1, y1, x2, y2`` in pixels of the reasoner's picture.
    """
    found = [{"bbox_2d": list(box), "label": label} for box, label in zip(boxes, labels, strict=True)]
    return f"<think>{rationale}</think><answer>{json.dumps(found, separators=(',', ':'))}</answer>{END}"


def _in_the_papers_words(instruction: str, think: bool) -> str:
    if not think:
        return f"Output the bounding box of the {instruction} in the image."
    return (
        f'Locate "{instruction}", report the bbox coordinates in JSON format.'
        "Compare the difference between objects and find the most closely matched one."
        "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
        "Output the one bbox inside the interested object in JSON format."
        "i.e., <think>thinking process here</think><answer>answer here</answer>"
    )
