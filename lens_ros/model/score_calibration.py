"""Estimate the probability that an instance is right, from the model's own certainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_EDGE = 1e-3  # shares are kept this far from 0 and 1, where their logit is infinite


@dataclass(frozen=True)
class Certainty:
    """Certainty of the reasoner about what it wrote, thinking included.

    These are the natural logarithms of the probability of its least probable word and number, 0 where it
    wrote none. They are separate because they mean different things: a doubtful word is a doubt about which
    object it is, a doubtful number mostly one about a few pixels.
    """

    least_word: float
    least_number: float


@dataclass(frozen=True)
class Calibration:
    """Logistic regression of the probability that an instance is right.

    Right means: an object that was asked for, with a mask IoU of at least 0.5. It is fitted by
    ``python -m training.tools.calibrate``.

    Attributes:
        bias: of the logit.
        consistency: weight of the logit of the IoU of the answer's box and the mask's box.
        least_word, least_number: weights of the :class:`Certainty` of the answer.
        threshold: probability below which an instance is rejected unless the caller says otherwise.
        precision: share of right instances among those from ``threshold`` on, that it was chosen for.
    """

    bias: float
    consistency: float
    least_word: float
    least_number: float
    threshold: float
    precision: float

    def probability(self, consistency: float, certainty: Certainty) -> float:
        """Return the probability, 0..1.

        Args:
            consistency: 0..1.
        """
        agreement, word, number = evidence_of(consistency, certainty)
        logit = self.bias + self.consistency * agreement
        logit += self.least_word * word + self.least_number * number
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))


def certainty_of(tokens: Sequence[str], log_probs: Sequence[float]) -> Certainty:
    """Return the certainty of an answer.

    Args:
        tokens: as the tokenizer spells them.
        log_probs: natural logarithms, of ``tokens`` and, where there is one more, of the one that ended them.
    """
    numeric = [token.isdigit() for token in tokens] + [False] * (len(log_probs) - len(tokens))
    told = list(zip(log_probs, numeric, strict=True))
    return Certainty(
        least_word=min((p for p, number in told if not number), default=0.0),
        least_number=min((p for p, number in told if number), default=0.0),
    )


def evidence_of(consistency: float, certainty: Certainty) -> tuple[float, float, float]:
    """Return the inputs of the regression: the logit of the consistency, and the two log-probabilities."""
    inside = min(max(consistency, _EDGE), 1 - _EDGE)
    return math.log(inside / (1 - inside)), certainty.least_word, certainty.least_number
