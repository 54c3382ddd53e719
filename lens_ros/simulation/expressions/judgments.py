"""Decide which of several objects an instruction means, if that is clear by a margin.

Every function here answers None (or nothing) where two people could differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lens_ros.simulation import phrases
from lens_ros.simulation.expressions.chance import choice, shuffled
from lens_ros.simulation.expressions.view import (
    Measure,
    View,
    centimeters,
    distance,
    distance_to,
    extent,
    sayable,
)

if TYPE_CHECKING:
    from lens_ros.simulation.scene import SceneObject

DEPTH_MARGIN = 0.04  # meters, in front and behind
NEAREST_MARGIN = 0.05  # meters between the nearest and the next
NEXT_TO_DISTANCE = 0.2  # meters, the farthest that is still "next to"
NEXT_TO_RATIO = 1.6  # how much farther the second nearest is, so that it is not "next to" as well
PREVAILING = 0.7  # how far along a relation's direction, over how far across it, an answer must lie
DISTANCE_MARGIN = 0.035  # meters, closest and farthest
SIZE_MARGIN = 0.12  # of the smaller extent
MIN_JUDGED_FRACTION = 0.3  # visible fraction below which nobody can judge a size
MAX_SET = 6  # objects that "all of" names or chooses from, and of which "none" fits


def related(
    view: View, group: Sequence[SceneObject], anchor: SceneObject, relation: str
) -> SceneObject | None:
    """Return the group's only member that stands in the relation, the others clearly on the other side."""
    if not group:
        return None
    leads = leads_of(view, group, anchor, relation)
    margin = view.side_margin if relation in ("left", "right") else DEPTH_MARGIN
    lead, target = max(zip(leads, group, strict=True), key=lambda pair: pair[0])
    if lead < margin or sum(value > -margin for value in leads) > 1 or not view.is_clear(target):
        return None
    return target if prevails(view, target, anchor, relation) else None


def prevails(view: View, target: SceneObject, anchor: SceneObject, relation: str) -> bool:
    """Return whether people would say it: the relation's own direction prevails.

    It does not for something far off to the side.
    """
    if relation in ("left", "right"):
        across = abs(view.center[anchor.index][1] - view.center[target.index][1])
    else:
        across = abs(anchor.lateral - target.lateral)
    return leads_of(view, [target], anchor, relation)[0] >= PREVAILING * across


def leads_of(view: View, group: Sequence[SceneObject], anchor: SceneObject, relation: str) -> list[float]:
    """Return how far each of the group stands on the relation's side of the anchor.

    Pixels or meters, negative on the other side.
    """
    if relation in ("left", "right"):
        sign = 1 if relation == "left" else -1
        return [sign * (view.x(anchor) - view.x(o)) for o in group]
    sign = 1 if relation == "front" else -1
    return [sign * (anchor.forward - o.forward) for o in group]


def on_the_side(
    view: View, group: Sequence[SceneObject], anchor: SceneObject, relation: str
) -> list[SceneObject] | None:
    """Return the group's members that stand in the relation; None if that is not clear of each."""
    leads = leads_of(view, group, anchor, relation)
    margin = view.side_margin if relation in ("left", "right") else DEPTH_MARGIN
    if any(abs(lead) < margin for lead in leads):
        return None
    return [o for o, lead in zip(group, leads, strict=True) if lead > 0]


def nearest_first(view: View, group: Sequence[SceneObject], anchor: SceneObject) -> list[SceneObject] | None:
    """Return the group by distance from the anchor, if the first is clearly the nearest."""
    if len(group) < 2:
        return None
    to_anchor = distance_to(anchor)
    ranked = sorted(group, key=to_anchor)
    gap = to_anchor(ranked[1]) - to_anchor(ranked[0])
    if gap < NEAREST_MARGIN or not view.is_clear(ranked[0]) or not sayable(to_anchor(ranked[-1])):
        return None
    return ranked


def betweenness(
    view: View, pairs: Sequence[tuple[SceneObject, SceneObject]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what stands between the two of each pair: clearly so, and arguably so.

    Two bool arrays `(pairs, view.seen)`; a pair's own objects have no meaning there. Judged on the table; see
    also `between_in_image`.
    """
    first, second = (np.array([o.position[:2] for o in side]) for side in zip(*pairs, strict=True))
    # Where each object lies along (0 at one anchor, 1 at the other) and off (meters) each pair's segment.
    segment = second - first
    length = np.maximum(np.hypot(segment[:, 0], segment[:, 1]), 1e-6)
    offset = np.array([o.position[:2] for o in view.seen])[None] - first[:, None]
    along = (offset * segment[:, None]).sum(-1) / length[:, None] ** 2
    off = (
        np.abs(segment[:, None, 0] * offset[..., 1] - segment[:, None, 1] * offset[..., 0]) / length[:, None]
    )
    inside = (np.abs(along - 0.5) <= 0.3) & (off <= np.minimum(0.2 * length, 0.08)[:, None])
    inside &= (length > 0.15)[:, None]
    arguable = (np.abs(along - 0.5) < 0.48) & (off < 0.4 * length[:, None])
    return inside, arguable


def between_in_image(view: View, a: SceneObject, target: SceneObject, b: SceneObject) -> bool:
    (ax, ay), (tx, ty), (bx, by) = (view.center[o.index] for o in (a, target, b))
    length = (bx - ax) ** 2 + (by - ay) ** 2
    return length > 0 and 0.1 <= ((tx - ax) * (bx - ax) + (ty - ay) * (by - ay)) / length <= 0.9


def extreme_first(view: View, group: Sequence[SceneObject], word: str) -> list[SceneObject] | None:
    """Return the group from the most to the least `word` ("leftmost"...) if the first is clear."""
    if len(group) < 2:
        return None
    key: Measure
    if word in ("leftmost", "rightmost"):
        key, margin = view.x, view.side_margin
    elif word in ("closest", "farthest"):
        key, margin = distance, DISTANCE_MARGIN
        if not all(sayable(o.distance) for o in group):
            return None
    else:
        key = extent
        if any(o.visible_fraction < MIN_JUDGED_FRACTION or not sayable(o.extent) for o in group):
            return None
        margin = 0.0
    ranked = sorted(group, key=key, reverse=word in ("rightmost", "farthest", "largest"))
    best, second = key(ranked[0]), key(ranked[1])
    if word in ("largest", "smallest"):
        margin = SIZE_MARGIN * min(best, second)
        if centimeters(best) == centimeters(second):
            return None
    return ranked if abs(best - second) >= margin and view.is_clear(ranked[0]) else None


def measure_of(word: str) -> Measure | None:
    if word in ("leftmost", "rightmost"):
        return None
    return distance if word in ("closest", "farthest") else extent


def only_of_its_color(
    view: View, group: Sequence[SceneObject], rng: np.random.Generator
) -> SceneObject | None:
    colors = [o.color for o in group]
    options = [o for o in group if colors.count(o.color) == 1 and view.is_clear(o)]
    return choice(options, rng) if options else None


def odd_one(
    view: View, group: Sequence[SceneObject], trait: Callable[[SceneObject], str], rng: np.random.Generator
) -> tuple[SceneObject, str] | None:
    """Return the group's only member that lacks a trait all others share, and that trait."""
    for target in shuffled(group, rng):
        others = {trait(o) for o in group if o is not target}
        if len(others) == 1 and trait(target) not in others and view.is_clear(target):
            return target, others.pop()
    return None


def askable(view: View, group: Sequence[SceneObject]) -> bool:
    """Return whether the group can be asked for as a whole."""
    return 1 <= len(group) <= MAX_SET and all(view.is_clear(o) for o in group)


def affordances(view: View) -> list[tuple[phrases.Affordance, list[SceneObject]]]:
    """Return the purposes that can be asked for without argument, and the objects that serve them."""
    present = view.by_category()
    options = []
    for affordance in phrases.AFFORDANCES:
        if not any(category in present for category in affordance.arguable):
            group = [o for category in affordance.categories for o in present.get(category, ())]
            if group:
                options.append((affordance, group))
    return options
