"""Questions about freshly rendered tabletops, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lens_ros.simulation.catalog import HELD_OUT_PAIRS
from lens_ros.simulation.expressions import UNSEEN_KINDS, Expression, sample_expression
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Frame

CROWDED = (10, 13)  # fewest and most objects; training shows 3 to 9

_ALL_OF_SHARE = 0.15  # of what is there, as of what is not
_PAIR_TRIES = 40  # expressions drawn in search of one that asks for a held-out pair
_SALT = 77  # keeps the questions' random numbers apart from the scenes'


Split = Literal[
    "in_distribution", "all_of", "none", "unseen_pairs", "unseen_phrasing", "crowded", "unseen_textures"
]
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
            object), so that precision and recall both mean something. Each of the others asks for one object
            and holds one thing that training never shows against ``in_distribution``: ``unseen_pairs``
            objects whose category and color never came together (``catalog.HELD_OUT_PAIRS``),
            ``unseen_phrasing`` sentences of another form (``expressions.UNSEEN_KINDS``), ``crowded`` tables
            with ``CROWDED`` objects, ``unseen_textures`` the very scenes of ``in_distribution`` on surfaces
            of other families.

    Raises:
        ValueError: fewer than one scene or expression, a negative seed, or no such split.
        SimulatorUnavailable: there is no OpenGL.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if min(scenes, expressions) < 1 or seed < 0:
        raise ValueError(
            f"scenes={scenes}, expressions={expressions}, seed={seed}: "
            "expected at least one scene and one expression, and a seed of 0 or more"
        )
    return _questions(seed, scenes, expressions, split)


def _questions(seed: int, scenes: int, expressions: int, split: Split) -> Iterator[Question]:
    with TabletopSimulator(unseen_textures=split == "unseen_textures") as simulator:
        asked = 0
        for number, (index, frame) in enumerate(_frames(simulator, seed, split)):
            due = round((number % scenes + 1) * expressions / scenes) if number < scenes else expressions
            rng = np.random.default_rng([seed, index, _SALT])
            while asked < due:
                if (said := _say(split, asked, frame, rng)) is None:
                    break
                yield Question(frame, said)
                asked += 1
            if asked == expressions:
                return


def _frames(simulator: TabletopSimulator, seed: int, split: Split) -> Iterator[tuple[int, Frame]]:
    """The split's scenes without end, each with its index."""
    index = 0
    while True:
        if split == "crowded":
            frame = simulator.frame(seed, index, count=CROWDED, depth=False)
            crowd = len(frame.objects) >= CROWDED[0]  # there is not always room for as many as drawn
        else:
            frame = simulator.frame(seed, index, held_out_pairs=split == "unseen_pairs", depth=False)
            crowd = True
        if crowd:
            yield index, frame
        index += 1


def _say(split: Split, asked: int, frame: Frame, rng: np.random.Generator) -> Expression | None:
    """The split's next question about a frame; None where the frame permits none."""
    size = (frame.rgb.shape[1], frame.rgb.shape[0])
    if split == "unseen_pairs":
        rare = {o.index for o in frame.objects if (o.category, o.color) in HELD_OUT_PAIRS}
        drawn = (sample_expression(frame.objects, size, rng) for _ in range(_PAIR_TRIES if rare else 0))
        return next((said for said in drawn if said and rare.issuperset(said.targets)), None)
    if split == "unseen_phrasing":
        # In turn, so that the rare kinds get their share; what the scene does not permit passes its turn on.
        turns = (UNSEEN_KINDS[(asked + k) % len(UNSEEN_KINDS)] for k in range(len(UNSEEN_KINDS)))
        drawn = (sample_expression(frame.objects, size, rng, kind=kind) for kind in turns)
        return next((said for said in drawn if said), None)
    return sample_expression(frame.objects, size, rng, kind=_kind(split, asked, rng))


def _kind(split: Split, asked: int, rng: np.random.Generator) -> str | None:
    """Of the next question; None for any kind of one target."""
    if split == "all_of":
        return "all_of"
    if split != "none":
        return None
    if asked % 2 == 0:
        return "none"
    return "all_of" if rng.random() < _ALL_OF_SHARE else None
