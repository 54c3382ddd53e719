"""Tabletops in motion with an instruction about one of their objects, for the evaluation of tracking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lens_ros.simulation.expressions import sample_expression
from lens_ros.simulation.motion import MOTIONS, Motion, moments, moving_frames
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Frame

# Kinds that stay true wherever the camera moves; "the leftmost" may become another object.
_LASTING = ("category", "attribute", "color", "function")
_SALT = 78  # keeps these random numbers independent of the scenes'


@dataclass(frozen=True)
class MovingScene:
    """Frames of a moving tabletop, with an instruction about the first one.

    ``target`` is the index of the object that ``instruction`` asks for in the first frame.
    """

    index: int
    motion: Motion
    instruction: str
    target: int
    frames: list[Frame]


def moving_scenes(
    seed: int, count: int, frames: int, accepts: Callable[[Frame, str, int], bool]
) -> Iterator[MovingScene]:
    """Yield ``count`` sequences, cycling through the motions; a pure function of its arguments.

    Args:
        seed: Seed of the scenes.
        count: Number of sequences.
        frames: Frames per sequence.
        accepts: Called with the first frame, the instruction and the target. If it returns false, the next
            scene is used instead.
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
