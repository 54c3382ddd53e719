"""Compute the metrics of referring segmentation, as the field defines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Score:
    """Comparison of one answer with the truth.

    Attributes:
        kind: of expression.
        intersection, union: pixels, of the predicted and the true mask.
        box_iou: of the answer's box and the true box. Where several or none may be asked for: the least IoU
            of any of the answer's or of the true boxes with the other side's that fits it best; 0 where their
            numbers differ, 1 where there are none on both sides.
        right_object: of all objects in view, the asked one is the one that the answer's box fits best. Where
            several or none may be asked for: that ``box_iou`` is above 0.5, so every box of the answer
            matches a target and every target a box.
        well_formed: the answer has the form that it was asked to have.
        accepted: the answer holds a mask that may be acted upon.
        seconds: from instruction to mask.
        nothing_there: nothing in view was what was asked for.
        nothing_said: the answer is well-formed and holds no box.
    """

    kind: str
    intersection: int
    union: int
    box_iou: float
    right_object: bool
    well_formed: bool
    accepted: bool
    seconds: float
    nothing_there: bool = False
    nothing_said: bool = False

    @property
    def iou(self) -> float:
        """IoU of the masks; 1 where both are empty (the convention of the paper's evaluation)."""
        return self.intersection / self.union if self.union else 1.0


def overlap(predicted: np.ndarray, true: np.ndarray) -> tuple[int, int]:
    """Return intersection and union, in pixels, of two ``(H, W)`` bool masks."""
    return int(np.count_nonzero(predicted & true)), int(np.count_nonzero(predicted | true))


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two ``(H, W)`` bool masks; 1 where both are empty."""
    intersection, union = overlap(a, b)
    return intersection / union if union else 1.0


def summarize(scores: Sequence[Score]) -> dict[str, float]:
    """Return means over ``scores`` (at least one).

    ``ciou``: summed intersections over summed unions; ``giou``: mean IoU per answer; both and the rates in
    percent. ``pr50`` to ``pr90``: Pr@0.5 to Pr@0.9, answers whose mask has an IoU above that threshold.
    ``box_acc50``: box IoU > 0.5. ``median_seconds``, ``p95_seconds``: instruction to mask.

    Raises:
        ValueError: no scores.
    """
    if not scores:
        raise ValueError("there is nothing to summarise: no expression was evaluated")
    union = sum(s.union for s in scores)

    def percent(values: list[bool] | list[float]) -> float:
        return round(100 * float(np.mean(values)), 2)

    seconds = [s.seconds for s in scores]
    return {
        "n": len(scores),
        "ciou": round(100 * sum(s.intersection for s in scores) / union, 2) if union else 100.0,
        "giou": percent([s.iou for s in scores]),
        **{f"pr{round(100 * t)}": percent([s.iou > t for s in scores]) for t in PRECISION_THRESHOLDS},
        "box_acc50": percent([s.box_iou > 0.5 for s in scores]),
        "right_object": percent([s.right_object for s in scores]),
        "format_rate": percent([s.well_formed for s in scores]),
        "accepted_rate": percent([s.accepted for s in scores]),
        "median_seconds": round(float(np.median(seconds)), 4),
        "p95_seconds": round(float(np.percentile(seconds, 95)), 4),
    }


def summarize_nothing(scores: Sequence[Score]) -> dict[str, float | None]:
    """Return precision and recall of the answer "nothing there".

    ``precision``: of the answers that say so, those that are right, in percent (None where no answer says
    so). ``recall``: of the questions about absent objects, those that are answered so, in percent (None
    where there is no such question). ``questions`` and ``answers``: how many of them there are.
    """
    there, said = sum(s.nothing_there for s in scores), sum(s.nothing_said for s in scores)
    right = sum(s.nothing_there and s.nothing_said for s in scores)
    return {
        "precision": round(100 * right / said, 2) if said else None,
        "recall": round(100 * right / there, 2) if there else None,
        "questions": there,
        "answers": said,
    }


def summarize_by_kind(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Return :func:`summarize` for each kind of expression, sorted by name."""
    kinds = sorted({s.kind for s in scores})
    return {kind: summarize([s for s in scores if s.kind == kind]) for kind in kinds}
