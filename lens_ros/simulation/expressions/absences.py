"""Generate expressions that nothing in sight satisfies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lens_ros.simulation import phrases
from lens_ros.simulation.catalog import CATEGORIES, COLORS, training_colors
from lens_ros.simulation.expressions.chance import choice, shuffled, weighted_order
from lens_ros.simulation.expressions.judgments import affordances, askable
from lens_ros.simulation.expressions.sets import sided
from lens_ros.simulation.expressions.view import View
from lens_ros.simulation.expressions.writing import (
    Builder,
    Draft,
    all_function_goal,
    all_goal,
    all_phrase,
    all_serving,
    either,
    function_goal,
    spoken_noun,
    with_article,
)

if TYPE_CHECKING:
    from lens_ros.simulation.scene import SceneObject


def nothing_there(view: View, rng: np.random.Generator) -> Draft | None:
    for build in weighted_order(_ABSENCES, rng):
        draft = build(view, rng)
        if draft is not None:
            return draft
    return None


def _absent_category(view: View, rng: np.random.Generator) -> Draft | None:
    present = view.by_category()
    absent = [
        category
        for category in CATEGORIES
        if not any(c in present for c in (category, *phrases.LOOK_ALIKES.get(category, ())))
    ]
    if not absent:
        return None
    noun = choice(absent, rng)
    color = choice(training_colors(noun), rng) if rng.random() < 0.3 else ""
    return _missing(view, color, noun, phrases.REASONS["absent"].format(goal=noun), (), rng)


def _absent_color_of_category(view: View, rng: np.random.Generator) -> Draft | None:
    for noun, group in shuffled(view.by_category().items(), rng):
        if not askable(view, group):
            continue
        similar = [*group, *(o for c in phrases.LOOK_ALIKES.get(noun, ()) for o in view.of_category(c))]
        # Of the held-out pairs nothing is ever said, not even that they are not there.
        colors = [color for color in training_colors(noun) if all(o.color != color for o in similar)]
        if colors:
            color = choice(colors, rng)
            return _missing(view, color, noun, phrases.REASONS["none"].format(condition=color), group, rng)
    return None


def _absent_color(view: View, rng: np.random.Generator) -> Draft | None:
    absent = [color for color in COLORS if color not in view.by_color()]
    if not absent:
        return None
    color, noun = choice(absent, rng), phrases.ANY_OBJECT[0]
    return _missing(view, color, noun, phrases.REASONS["absent"].format(goal=f"{color} {noun}"), (), rng)


def _absent_world(view: View, rng: np.random.Generator) -> Draft | None:
    noun = choice(phrases.STRANGE_NOUNS, rng)
    color = choice(COLORS, rng) if rng.random() < 0.2 else ""
    return _missing(view, color, noun, phrases.REASONS["strange"], (), rng)


def _missing(
    view: View, color: str, noun: str, reason: str, group: Sequence[SceneObject], rng: np.random.Generator
) -> Draft:
    """Ask for a thing that is not there, in one of the usual forms."""
    strange, any_object = noun in phrases.STRANGE_NOUNS, noun in phrases.ANY_OBJECT
    goal = phrases.STRANGE_GOAL if strange else phrases.an(f"{color} {noun}".strip())
    draw = rng.random()
    if draw < 0.15:
        goal = goal if strange else all_goal(color, noun)
        return Draft(all_phrase(color, noun, rng), (), goal, reason, group, plural=True)
    spoken = choice(phrases.ANY_OBJECT, rng) if any_object else spoken_noun(noun, rng)
    anchors = view.anchor_names(rng) if draw < 0.35 else []
    anchors = [(anchor, name) for anchor, name in anchors if anchor not in group]
    if anchors:
        spoken = f"{color} {spoken}".strip()
        anchor, name = anchors[0]
        relation = choice(phrases.RELATIONS[choice(tuple(phrases.RELATIONS), rng)], rng)
        form = choice((*phrases.RELATION_FORMS, *phrases.NEAREST), rng)
        phrase = form.format(noun=spoken, relation=relation, anchor=name)
        return Draft(phrase, (), goal, reason, group, anchors=[anchor])
    if draw < 0.47:
        words = [w for w in phrases.SUPERLATIVES if not any_object or w not in ("largest", "smallest")]
        form = choice(phrases.SUPERLATIVES[choice(words, rng)], rng)
        return Draft(form.format(noun=f"{color} {spoken}".strip()), (), goal, reason, group)
    if color:
        forms = ("{color} {noun}",) if any_object else phrases.COLORED_NOUNS
        spoken = choice(forms, rng).format(color=color, noun=spoken)
    return Draft(with_article(spoken, rng), (), goal, reason, group)


def _absent_function(view: View, rng: np.random.Generator) -> Draft | None:
    present = view.by_category()
    absent = [
        affordance
        for affordance in phrases.AFFORDANCES
        if not any(c in present for c in affordance.categories + affordance.arguable + affordance.makeshift)
    ]
    if not absent:
        return None
    affordance = choice(absent, rng)
    reason = phrases.REASONS["absent"].format(goal=either(affordance))
    draw = rng.random()
    if draw < 0.15 and (phrase := all_serving(affordance, rng)):
        return Draft(phrase, (), all_function_goal(affordance), reason, (), plural=True)
    goal = function_goal(affordance)
    if draw < 0.3 and affordance.questions:
        return Draft(choice(affordance.questions, rng), (), goal, reason, (), sentence=True)
    phrase = choice(affordance.phrases, rng)
    if draw > 0.85:
        modifier = choice(("leftmost", "rightmost", "closest", "farthest"), rng)
        phrase = choice(phrases.FUNCTION_MODIFIERS[modifier], rng).format(f=phrase)
    return Draft(phrase, (), goal, reason, ())


def _absent_color_of_function(view: View, rng: np.random.Generator) -> Draft | None:
    for affordance, group in shuffled(affordances(view), rng):
        makeshift = any(c in affordance.makeshift for c in view.by_category())
        if makeshift or not askable(view, group):
            continue
        common = set.intersection(*(set(training_colors(c)) for c in affordance.categories))
        colors = sorted(common - {o.color for o in group})
        if colors:
            color = choice(colors, rng)
            phrase = choice(phrases.FUNCTION_MODIFIERS["color"], rng).format(
                f=choice(affordance.phrases, rng), color=color
            )
            reason = phrases.REASONS["none"].format(condition=color)
            return Draft(phrase, (), function_goal(affordance), reason, group)
    return None


def _absent_relation(view: View, rng: np.random.Generator) -> Draft | None:
    return sided(view, rng, wanted=False)


_ABSENCES: dict[Builder, float] = {
    _absent_category: 0.25,
    _absent_color_of_category: 0.25,
    _absent_color: 0.12,
    _absent_world: 0.06,
    _absent_function: 0.12,
    _absent_color_of_function: 0.06,
    _absent_relation: 0.14,
}
