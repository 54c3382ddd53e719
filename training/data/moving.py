"""Tabletops in motion with an instruction about something in them, for the evaluation of tracking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lens_ros.simulation.expressions import sample_expression
from lens_ros.simulation.motion import MOTIONS, Motion, moments, moving_frames
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Frame

# What is true of a thing wherever the camera goes: "the leftmost" may become another one.
_LASTING = ("category", "attribute", "color", "function")
_SALT = 78  # keeps these random numbers apart from the scenes'


@dataclass(frozen=True)
class MovingScene:
    """``frames``, the first being the one that ``instruction`` was said about; ``target`` is an index of its
    objects."""

    index: int
    motion: Motion
    instruction: str
    target: int
    frames: list[Frame]


def moving_scenes(
    seed: int, count: int, frames: int, accepts: Callable[[Frame, str, int], bool]
) -> Iterator[MovingScene]:
    """``count`` sequences, the motions in turn; a pure function of its arguments.

    Args:
        accepts: told the first frame, the instruction and the target; where it is false, the next scene is
            taken instead.
    """
    made, index = 0, 0
    with TabletopSimulator() as simulator:
        while made < count:
            rng = np.random.default_rng([seed, index, _SALT])
            layout = simulator.layout(seed, index, count=(4, 9))
            first = simulator.render(seed, index, layout, depth=False)
            size = (first.rgb.shape[1], first.rgb.shape[0])
            kind = _LASTING[rng.integers(len(_LASTING))]
            said = sample_expression(first.objects, size, rng, kind=kind)
            if said is not None and accepts(first, said.text, said.targets[0]):
                motion = MOTIONS[made % len(MOTIONS)]
                pool = simulator.pool(seed, index)
                story = moments(pool, layout, said.targets[0], motion, rng, frames)
                shown = list(moving_frames(simulator, seed, index, story))
                yield MovingScene(index, motion, said.text, said.targets[0], shown)
                made += 1
            index += 1
