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

CROWDED = (10, 13)  # fewest and most objects; training has 3 to 9

_ALL_OF_SHARE = 0.15  # share of questions about several objects, for present and absent objects alike
_PAIR_TRIES = 40  # expressions drawn to find one that asks for a held-out pair
_SALT = 77  # keeps the questions' random numbers independent of the scenes'


Split = Literal[
    "in_distribution", "all_of", "none", "unseen_pairs", "unseen_phrasing", "crowded", "unseen_textures"
]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Question:
    """One question about one frame."""

    frame: Frame
    expression: Expression


def tabletop_questions(
    seed: int, scenes: int, expressions: int, split: Split = "in_distribution"
) -> Iterator[Question]:
    """Yield ``expressions`` questions, spread evenly over ``scenes`` scenes.

    A pure function of its arguments.

    Args:
        seed: Seed of the scenes.
        scenes: Number of scenes.
        expressions: Number of questions.
        split: ``in_distribution`` asks for one object, by all kinds of expressions with one target.
            ``all_of`` asks for one or several objects. ``none`` asks alternately for absent and for present
            objects (mostly one object), so that precision and recall are both meaningful. Each of the others
            asks for one object and differs from ``in_distribution`` in one thing that training never shows:
            ``unseen_pairs`` has objects whose category and color never occurred together
            (``catalog.HELD_OUT_PAIRS``), ``unseen_phrasing`` sentences of another form
            (``expressions.UNSEEN_KINDS``), ``crowded`` tables with ``CROWDED`` objects, ``unseen_textures``
            the same scenes as ``in_distribution`` on surfaces of other families.

    Raises:
        ValueError: There is fewer than one scene or expression, the seed is negative, or the split is
            unknown.
        SimulatorUnavailable: There is no OpenGL.
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
    """Yield the split's scenes endlessly, each with its index."""
    index = 0
    while True:
        if split == "crowded":
            frame = simulator.frame(seed, index, count=CROWDED, depth=False)
            crowd = len(frame.objects) >= CROWDED[0]  # the number drawn does not always fit on the table
        else:
            frame = simulator.frame(seed, index, held_out_pairs=split == "unseen_pairs", depth=False)
            crowd = True
        if crowd:
            yield index, frame
        index += 1


def _say(split: Split, asked: int, frame: Frame, rng: np.random.Generator) -> Expression | None:
    """Return the split's next question about a frame, or None if the frame permits none."""
    size = (frame.rgb.shape[1], frame.rgb.shape[0])
    if split == "unseen_pairs":
        rare = {o.index for o in frame.objects if (o.category, o.color) in HELD_OUT_PAIRS}
        drawn = (sample_expression(frame.objects, size, rng) for _ in range(_PAIR_TRIES if rare else 0))
        return next((said for said in drawn if said and rare.issuperset(said.targets)), None)
    if split == "unseen_phrasing":
        # Rotate, so that the rare kinds get their share. A kind that the scene does not permit is skipped.
        turns = (UNSEEN_KINDS[(asked + k) % len(UNSEEN_KINDS)] for k in range(len(UNSEEN_KINDS)))
        drawn = (sample_expression(frame.objects, size, rng, kind=kind) for kind in turns)
        return next((said for said in drawn if said), None)
    return sample_expression(frame.objects, size, rng, kind=_kind(split, asked, rng))


def _kind(split: Split, asked: int, rng: np.random.Generator) -> str | None:
    """Choose the kind of the next question; None for any kind with one target."""
    if split == "all_of":
        return "all_of"
    if split != "none":
        return None
    if asked % 2 == 0:
        return "none"
    return "all_of" if rng.random() < _ALL_OF_SHARE else None
