"""Decide when a tracked object is lost, and when to ask the reasoner again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Checks:
    """Conditions on the next mask of an object; all but the last are shares, 0..1.

    Attributes:
        likeness: least intersection of the histograms of the mask's colors and of the object's, slowly
            averaged from its start on: the check that tells an object from its neighbour.
        overlap: least IoU of the mask's box and of the box that was the prompt.
        score: least IoU that the segmenter itself expects of the mask.
        growth: most that the area may grow, or shrink, by from one image to the next, a factor.
        apart: most IoU with another instance of the same target.
        regain: ``likeness`` and ``score`` of an object that was lost, to be taken for it again.
        regain_growth: ``growth`` since before the loss, for the same.
    """

    likeness: float = 0.65
    overlap: float = 0.2
    score: float = 0.5
    growth: float = 1.8
    apart: float = 0.7
    regain: float = 0.8
    regain_growth: float = 1.4

    def __post_init__(self) -> None:
        for name in ("likeness", "overlap", "score", "apart", "regain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share, 0 to 1")
        for name in ("growth", "regain_growth"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a factor of at least 1")


@dataclass(frozen=True)
class Observation:
    """Measurements of a decoded mask against its object; meanings as in :class:`Checks`.

    ``area``: pixels; ``last_area``: of the last mask that passed.
    """

    area: int
    last_area: float
    likeness: float
    overlap: float
    score: float


def why_lost(seen: Observation, checks: Checks, *, was_lost: bool) -> str:
    """Return in words why this mask is not the object's; ``""`` if it is.

    Args:
        was_lost: the object is taken up again: likeness, score and area are asked for more strictly.
    """
    if seen.area == 0:
        return "the segmenter finds no pixels where it was"
    likeness = max(checks.likeness, checks.regain) if was_lost else checks.likeness
    score = max(checks.score, checks.regain) if was_lost else checks.score
    growth = min(checks.growth, checks.regain_growth) if was_lost else checks.growth
    if not seen.likeness >= likeness:
        return f"what is there has other colors (alike by {seen.likeness:.2f} < {likeness})"
    if not seen.score >= score:
        return f"the segmenter is not sure of the mask ({seen.score:.2f} < {score})"
    factor = seen.area / seen.last_area if seen.last_area else float("inf")
    if not 1 / growth <= factor <= growth:
        return f"the area changed by a factor of {factor:.2f} (at most {growth})"
    if not seen.overlap >= checks.overlap:
        return f"the mask does not fit its place (IoU of the boxes {seen.overlap:.2f} < {checks.overlap})"
    return ""


FIRST_WAIT_S = 0.3  # from a loss to the first question: what passes in front of the camera may pass
WAIT_FACTOR = 2.0  # of each next wait over the one before
LONGEST_WAIT_S = 30.0


class ReasonAgain:
    """Schedule of questions to the reasoner about a lost target: soon at first, then at growing intervals.

    Times are seconds of any one clock that does not run backwards.
    """

    def __init__(self) -> None:
        self._wait = FIRST_WAIT_S
        self._lost_at: float | None = None
        self._asked_at: float | None = None

    def observe(self, now: float, lost: bool) -> None:
        """Take note of the result of an update.

        The wait falls back to the first one when the target has been held for as long as the present wait.
        A target that is lost at once, again and again, is asked about ever more rarely.
        """
        if not lost:
            self._lost_at = None
            if self._asked_at is None or now - self._asked_at >= self._wait:
                self._wait = FIRST_WAIT_S
        elif self._lost_at is None:
            self._lost_at = now

    def asked(self, now: float) -> None:
        """Take note that the reasoner was asked; nothing is due before the next wait is over."""
        self._asked_at = now
        if self._lost_at is not None:
            self._wait = min(LONGEST_WAIT_S, self._wait * WAIT_FACTOR)
            self._lost_at = now

    def due(self, now: float) -> bool:
        """Tell whether to ask now."""
        return self._lost_at is not None and now - self._lost_at >= self._wait
