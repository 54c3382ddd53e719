"""Measure tracking, as pure functions of the results of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lens_ros.evaluation.metrics import mask_iou

IN_VIEW, HIDDEN = 0.2, 0.05  # visible share of a target from which, and up to which, it counts as that
CLEARLY_IN_VIEW = 0.5


@dataclass(frozen=True)
class Step:
    """Comparison of one frame of a sequence with the truth.

    Attributes:
        progress: place in the sequence, 0..1.
        visible: share of the target's silhouette that the image shows, 0..1.
        iou: of the mask and the target's visible pixels.
        masked: there is a mask.
        wrong: there is one, and it fits another object better than the target, or nothing of the target.
        asked: the reasoner was asked on this frame.
        seconds: that the update took, without the reasoner.
    """

    progress: float
    visible: float
    iou: float
    masked: bool
    wrong: bool
    asked: bool
    seconds: float


def step_of(
    mask: np.ndarray, instances: np.ndarray, target: int, *, progress: float, visible: float,
    asked: bool, seconds: float,
) -> Step:  # fmt: skip
    """Compare a mask ``(H, W)`` bool with ``instances`` ``(H, W)`` uint8.

    ``target`` is one of the instances.
    """
    masked = bool(mask.any())
    others = [k for k in np.unique(instances[mask]) if k not in (0, target)]
    iou = mask_iou(mask, instances == target)
    wrong = masked and (iou == 0 or any(mask_iou(mask, instances == k) > iou for k in others))
    return Step(progress, visible, iou, masked, wrong, asked, seconds)


def summarize_tracking(steps: Sequence[Step]) -> dict[str, float | None]:
    """Summarise all frames of all sequences (at least one).

    Rates are in percent, None where no frame counts.

    ``j``: mean IoU (DAVIS's J) of the frames with the target in view, no mask counting 0; ``j_last_quarter``
    of the last quarter; ``j_masked``: of those that have a mask. ``wrong_object``: of the masks, how many
    fit another object better, or nothing of the target. ``lost_in_view``: frames without a mask though at
    least half of the target is visible. ``lost_hidden``: frames without a mask of those with nothing to be
    seen. ``asked``: questions to the reasoner per 100 frames. ``median_ms``, ``p95_ms``: an update.

    Raises:
        ValueError: no steps.
    """
    if not steps:
        raise ValueError("there is nothing to summarise: no frame was tracked")
    in_view = [s for s in steps if s.visible >= IN_VIEW]
    clear = [s for s in steps if s.visible >= CLEARLY_IN_VIEW]
    hidden = [s for s in steps if s.visible <= HIDDEN]
    masked = [s for s in steps if s.masked]
    milliseconds = [1e3 * s.seconds for s in steps]
    return {
        "frames": len(steps),
        "j": _percent([s.iou for s in in_view]),
        "j_last_quarter": _percent([s.iou for s in in_view if s.progress >= 0.75]),
        "j_masked": _percent([s.iou for s in in_view if s.masked]),
        "wrong_object": _percent([s.wrong for s in masked]),
        "lost_in_view": _percent([not s.masked for s in clear]),
        "lost_hidden": _percent([not s.masked for s in hidden]),
        "asked": _percent([s.asked for s in steps]),
        "median_ms": round(float(np.median(milliseconds)), 1),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 1),
    }


def _percent(values: Sequence[float] | Sequence[bool]) -> float | None:
    return round(100 * float(np.mean(values)), 2) if values else None
