"""Unified rewards of LENS (arXiv 2508.14153) on sentence, box and segment.

They are extended to several targets and to none. Each reward is a pure function with values in 0..1, where 1
is a perfect answer. An answer that cannot be parsed earns nothing, whatever the truth is. LENS scores it as
the box ``0, 0, 0, 0``, which a scene without targets may match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from lens_ros.instances import box_iou
from lens_ros.model.answer_parsing import Box, ParsedAnswer
from training.losses import upsampled


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the rewards for format, box and segment in the total.

    LENS adds them unweighted. It leaves the format out (0) if no thinking is asked for.
    """

    format: float = 1.0
    box: float = 1.0
    segment: float = 1.0


def format_reward(answer: ParsedAnswer, *, thinking: bool = True) -> float:
    """Return 1 if the answer has the required form, else 0 (sentence level).

    LENS only requires that the text begins like the form. Here the whole text must have the form
    (:class:`ParsedAnswer`); otherwise a run-on answer would be as good. A rationale must be present exactly
    when it was asked for: a reasoner must not earn this by leaving out its thinking, nor by thinking in the
    fast mode.
    """
    return float(answer.well_formed and bool(answer.rationale) == thinking)


def box_reward(answer: ParsedAnswer, true: Sequence[Box]) -> float:
    """Return how well the answer's boxes fit the true ones (box level).

    One box for one target: IoU squared, as in LENS. Several boxes on either side: they are paired so that the
    sum of these squares is greatest, and the sum is divided by the larger number of boxes. So a missing box
    and a superfluous box cost the same, and the order does not matter. Each pair is squared before summing,
    so that one target is the special case of a set of one. LENS takes the first box of an answer and ignores
    the rest; to a robot, the rest are wrong targets.

    No targets: 1 for an empty, well-formed answer, 0 for any box. An empty answer earns 0 if there is a
    target.

    Args:
        answer: The parsed answer.
        true: Boxes of all targets, in fractions of the image as those of ``answer``.
    """
    if not true:
        return float(answer.well_formed and not answer.boxes)
    if not answer.boxes:
        return 0.0
    squares = np.array([[_iou(found, target) ** 2 for target in true] for found in answer.boxes])
    best = squares[linear_sum_assignment(squares, maximize=True)].sum()
    return min(1.0, float(best) / max(squares.shape))


def segment_reward(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return the squared IoU of mask and true mask at the true mask's resolution (segment level).

    No targets: 1 for a mask without a pixel, else 0. A graded form (such as one minus the covered share of
    the image) would rate masks of a few stray pixels differently by about a thousandth. The division by the
    group's standard deviation would amplify that to a full advantage. With this form, equally right answers
    make a group without a signal.

    Args:
        logits: ``(N, h, w)``, any float type; the mask is where they are above 0 after bilinear upsampling.
        true: ``(N, H, W)``, an object wherever it is not 0; ``mask.expand(N, -1, -1)`` gives a group its one
            mask without a copy.

    Returns:
        ``(N,)`` float32, without gradient.
    """
    predicted = upsampled(logits.detach(), true.shape[-2:]) > 0
    true = true.bool()  # overlapping polygons can add up to 2, which would match no pixel of a mask
    overlap = (predicted & true).sum(dim=(-2, -1))
    union = (predicted | true).sum(dim=(-2, -1))
    return torch.where(union > 0, (overlap / (union + 1e-6)) ** 2, 1.0)


def combine(
    weights: RewardWeights, format: torch.Tensor, box: torch.Tensor, segment: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the three rewards, each ``(N,)``."""
    return weights.format * format + weights.box * box + weights.segment * segment


def _iou(a: Box, b: Box) -> float:
    return box_iou((a.x1, a.y1, a.x2, a.y2), (b.x1, b.y1, b.x2, b.y2))
