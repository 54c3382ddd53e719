"""Questions about freshly rendered tabletops, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lens_ros.simulation.expressions import Expression, sample_expression
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Frame

_SALT = 77  # keeps the questions' random numbers apart from the scenes'


@dataclass(frozen=True)
class Question:
    """What is asked about one frame."""

    frame: Frame
    expression: Expression


def tabletop_questions(seed: int, scenes: int, expressions: int) -> Iterator[Question]:
    """``expressions`` questions, spread evenly over ``scenes`` scenes; a pure function of its arguments.

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
            while asked < due and (said := sample_expression(frame.objects, size, rng)) is not None:
                yield Question(frame, said)
                asked += 1
            index += 1
