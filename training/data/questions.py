"""Questions about freshly rendered tabletops, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lens_ros.simulation.expressions import Expression, sample_expression
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Frame

_ALL_OF_SHARE = 0.15  # of what is there, as of what is not
_SALT = 77  # keeps the questions' random numbers apart from the scenes'


Split = Literal["in_distribution", "all_of", "none"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Question:
    """What is asked about one frame."""

    frame: Frame
    expression: Expression


def tabletop_questions(
    seed: int, scenes: int, expressions: int, split: Split = "in_distribution"
) -> Iterator[Question]:
    """``expressions`` questions, spread evenly over ``scenes`` scenes; a pure function of its arguments.

    Args:
        split: ``in_distribution`` asks for one object, by all kinds of expressions of one target; ``all_of``
            for one or several objects; ``none`` alternately for what is not there and for what is (mostly one
            object), so that precision and recall both mean something.

    Raises:
        SimulatorUnavailable: there is no OpenGL.
    """
    with TabletopSimulator() as simulator:
        asked, index = 0, 0
        while asked < expressions:
            due = round((index % scenes + 1) * expressions / scenes) if index < scenes else expressions
            frame = simulator.frame(seed, index, depth=False)
            rng = np.random.default_rng([seed, index, _SALT])
            size = (frame.rgb.shape[1], frame.rgb.shape[0])
            while asked < due:
                kind = _kind(split, asked, rng)
                if (said := sample_expression(frame.objects, size, rng, kind=kind)) is None:
                    break
                yield Question(frame, said)
                asked += 1
            index += 1


def _kind(split: Split, asked: int, rng: np.random.Generator) -> str | None:
    """Of the next question; None for any kind of one target."""
    if split == "in_distribution":
        return None
    if split == "all_of":
        return "all_of"
    if asked % 2 == 0:
        return "none"
    return "all_of" if rng.random() < _ALL_OF_SHARE else None
