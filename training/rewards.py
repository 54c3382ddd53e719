"""What an answer and its mask are worth: the unified rewards of LENS (arXiv 2508.14153) on sentence, box and
segment, carried on to several targets and to none.

Each is a pure function with values in 0..1, where 1 is a perfect answer. An answer that cannot be read earns
nothing, whatever is true: LENS scores it as the box ``0, 0, 0, 0``, which a scene without targets may match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from lens_ros.instances import box_iou
from lens_ros.model.answer_parsing import Answer, Box
from training.losses import upsampled


@dataclass(frozen=True)
class RewardWeights:
    """What a perfect format, box and segment add to the total. LENS adds them up as they are; it leaves the
    format out (0) where no thinking is asked for."""

    format: float = 1.0
    box: float = 1.0
    segment: float = 1.0


def format_reward(answer: Answer, *, thinking: bool = True) -> float:
    """1 if the answer has the form that was asked for, else 0 (sentence level).

    LENS asks no more than that the text opens like the form; here it must be the form from end to end
    (:class:`Answer`), or a run-on answer would be as good. A rationale must be there exactly when it was
    asked for: a reasoner must not earn this by leaving out its thinking, nor by thinking in the fast mode.
    """
    return float(answer.well_formed and bool(answer.rationale) == thinking)


def box_reward(answer: Answer, true: Sequence[Box]) -> float:
    """How well the answer's boxes fit the true ones (box level).

    One box for one target: IoU squared, as in LENS. Several, on either side: they are paired so that the sum
    of these squares is greatest, and the sum is divided by the larger number of boxes; a missing and a
    superfluous box cost the same, and the order does not matter. The squares stay for each pair, so that one
    target is nothing but a set of one. LENS takes the first box of an answer and overlooks the rest; to a
    robot, the rest are wrong targets.

    Nothing there: 1 for an empty, well-formed answer. An empty answer where something is there earns 0, as
    does any box where nothing is.

    Args:
        true: boxes of all targets, in fractions of the image as those of ``answer``.
    """
    if not true:
        return float(answer.well_formed and not answer.boxes)
    if not answer.boxes:
        return 0.0
    squares = np.array([[_iou(found, target) ** 2 for target in true] for found in answer.boxes])
    best = squares[linear_sum_assignment(squares, maximize=True)].sum()
    return min(1.0, float(best) / max(squares.shape))


def segment_reward(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """IoU squared of mask and true mask at the true mask's resolution (segment level).

    Nothing there: 1 for a mask without a pixel, else 0. A graded form (such as one minus the share of the
    image that is covered) would tell masks of a few stray pixels apart by a thousandth, and the division by
    the group's standard deviation would blow that up to a full advantage; like this, equally right answers
    are a group without a signal.

    Args:
        logits: ``(N, h, w)``, any float type; the mask is where they are above 0 after bilinear upsampling.
        true: ``(N, H, W)``, an object wherever it is not 0; ``mask.expand(N, -1, -1)`` gives a group its one
            mask without a copy.

    Returns:
        ``(N,)`` float32, without gradient.
    """
    predicted = upsampled(logits.detach(), true.shape[-2:]) > 0
    true = true.bool()  # overlapping polygons can count 2, which would match no pixel of a mask
    overlap = (predicted & true).sum(dim=(-2, -1))
    union = (predicted | true).sum(dim=(-2, -1))
    return torch.where(union > 0, (overlap / (union + 1e-6)) ** 2, 1.0)


def combine(
    weights: RewardWeights, format: torch.Tensor, box: torch.Tensor, segment: torch.Tensor
) -> torch.Tensor:
    """The weighted sum of the three rewards, each ``(N,)``."""
    return weights.format * format + weights.box * box + weights.segment * segment


def _iou(a: Box, b: Box) -> float:
    return box_iou((a.x1, a.y1, a.x2, a.y2), (b.x1, b.y1, b.x2, b.y2))
