"""Sample an expression about a frame, of a given or a random kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from lens_ros.simulation import phrases
from lens_ros.simulation.expressions.absences import nothing_there
from lens_ros.simulation.expressions.judgments import MAX_SET
from lens_ros.simulation.expressions.sets import all_of
from lens_ros.simulation.expressions.singles import SINGLES
from lens_ros.simulation.expressions.unseen import UNSEEN
from lens_ros.simulation.expressions.view import MAX_NUMBER, View
from lens_ros.simulation.expressions.writing import Builder, Expression, write

if TYPE_CHECKING:
    from lens_ros.simulation.scene import SceneObject

SINGLE_KINDS = tuple(SINGLES)
KINDS = (*SINGLE_KINDS, "all_of", "none")
UNSEEN_KINDS = tuple(UNSEEN)
SIMPLE_KINDS = ("category", "attribute", "color")
MAX_CANDIDATES = 4

_KIND_WEIGHTS = {"relation": 1.5, "nearest": 1.5, "superlative": 1.5, "size": 1.5}
_BUILDERS: dict[str, Builder] = {**SINGLES, "all_of": all_of, "none": nothing_there, **UNSEEN}


def vocabulary() -> tuple[str, ...]:
    """Return every word that a text or a rationale can contain, sorted.

    Without numbers and punctuation.

    Punctuation is `, ; . ( )`; numbers are 0..255 (see `sample_expression`).
    """
    return phrases.words()


def sample_expression(
    objects: Iterable[SceneObject],
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    coordinate_extent: int = 224,
) -> Expression | None:
    """Say something about a frame.

    Args:
        objects: the frame's objects, as its camera sees them.
        size: width and height of the image, pixels.
        rng: source of all chance; the same state gives the same expression.
        kind: one of `KINDS` or, for evaluation only, of `UNSEEN_KINDS`; without it one of `SINGLE_KINDS`,
            drawn evenly (the harder ones slightly more often) among those that the scene permits.
        coordinate_extent: points in the rationale are integers 0..coordinate_extent-1 along both axes,
            whatever the image's shape; x = round(pixel * coordinate_extent / width), y likewise.

    Returns:
        The expression, or None when the scene permits none (of this kind).

    Raises:
        ValueError: unknown kind, empty image, or coordinate_extent outside 1..256.
    """
    if kind is not None and kind not in _BUILDERS:
        raise ValueError(f"unknown kind of expression {kind!r}: expected one of {', '.join(_BUILDERS)}")
    if min(size) < 1:
        raise ValueError(f"image size is {size}: expected width and height in pixels, both positive")
    if not 1 <= coordinate_extent <= MAX_NUMBER + 1:
        raise ValueError(f"coordinate_extent is {coordinate_extent}: expected 1..{MAX_NUMBER + 1}")
    view = View(tuple(objects), size, coordinate_extent)
    for candidate in (kind,) if kind else _kinds_in_random_order(rng):
        draft = _BUILDERS[candidate](view, rng)
        if draft is not None:
            most_listed = MAX_SET if candidate in ("all_of", "none") else MAX_CANDIDATES
            return write(candidate, draft, view, rng, most_listed=most_listed)
    return None


def _kinds_in_random_order(rng: np.random.Generator) -> list[str]:
    """Return the kinds of one target in random order.

    Each next one is drawn by weight from those that remain (exponential order statistics).
    """
    waits = rng.standard_exponential(len(SINGLE_KINDS))
    ranked = sorted((w / _KIND_WEIGHTS.get(k, 1.0), k) for w, k in zip(waits, SINGLE_KINDS, strict=True))
    return [k for _, k in ranked]
