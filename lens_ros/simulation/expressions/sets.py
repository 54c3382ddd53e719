"""Generate expressions that mean all objects that satisfy them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from lens_ros.simulation import phrases
from lens_ros.simulation.expressions.chance import choice, shuffled, weighted_order
from lens_ros.simulation.expressions.judgments import MAX_SET, affordances, askable, on_the_side
from lens_ros.simulation.expressions.singles import relation_groups
from lens_ros.simulation.expressions.view import View, forward, sayable
from lens_ros.simulation.expressions.writing import (
    Builder,
    Draft,
    all_function_goal,
    all_goal,
    all_phrase,
    all_reason,
    all_serving,
    plural_of,
    spoken_noun,
)

T = TypeVar("T")


def all_of(view: View, rng: np.random.Generator) -> Draft | None:
    for build in weighted_order(_SETS, rng):
        draft = build(view, rng)
        if draft is not None:
            return draft
    return None


def _set_choice(options: list[T], size: Callable[[T], int], rng: np.random.Generator) -> T | None:
    """Return one of the options, mostly one of several objects."""
    several = [option for option in options if size(option) > 1]
    if several and rng.random() < 0.85:
        options = several
    return choice(options, rng) if options else None


def _all_of_category(view: View, rng: np.random.Generator) -> Draft | None:
    groups = [group for group in view.by_category().values() if askable(view, group)]
    group = _set_choice(groups, len, rng)
    if group is None:
        return None
    noun = group[0].category
    return Draft(
        all_phrase("", noun, rng), group, all_goal("", noun), all_reason(len(group)), group, plural=True
    )


def _all_of_color(view: View, rng: np.random.Generator) -> Draft | None:
    groups = [group for group in view.by_color().values() if askable(view, group)]
    group = _set_choice(groups, len, rng)
    if group is None:
        return None
    color, noun = group[0].color, phrases.ANY_OBJECT[0]
    phrase, goal = all_phrase(color, noun, rng), all_goal(color, noun)
    return Draft(phrase, group, goal, all_reason(len(group)), group, plural=True)


def _all_of_colored_category(view: View, rng: np.random.Generator) -> Draft | None:
    options = []
    for group in view.by_category().values():
        for color in sorted({o.color for o in group}):
            targets = [o for o in group if o.color == color]
            if len(targets) < len(group) <= MAX_SET and askable(view, targets):
                options.append((targets, group))
    option = _set_choice(options, lambda option: len(option[0]), rng)
    if option is None:
        return None
    targets, group = option
    color, noun = targets[0].color, targets[0].category
    reason = phrases.REASONS["colors" if len(targets) > 1 else "color"].format(color=color)
    return Draft(all_phrase(color, noun, rng), targets, all_goal(color, noun), reason, group, plural=True)


def _all_of_two(view: View, rng: np.random.Generator) -> Draft | None:
    groups = shuffled((g for g in view.by_category().values() if askable(view, g)), rng)
    for first, second in zip(groups, groups[1:], strict=False):
        group = [*first, *second]
        if len(group) > MAX_SET:
            continue
        nouns = first[0].category, second[0].category
        plurals = [plural_of(spoken_noun(noun, rng)) for noun in nouns]
        phrase = choice(phrases.ALL_OF_TWO, rng).format(first=plurals[0], second=plurals[1])
        goal = phrases.ALL_GOAL.format(phrases.AND.format(*(phrases.PLURALS[noun] for noun in nouns)))
        return Draft(phrase, group, goal, phrases.REASONS["all"], group, plural=True)
    return None


def _all_of_function(view: View, rng: np.random.Generator) -> Draft | None:
    options = [option for option in affordances(view) if askable(view, option[1])]
    option = _set_choice(options, lambda option: len(option[1]), rng)
    if option is None or not (phrase := all_serving(option[0], rng)):
        return None
    affordance, group = option
    return Draft(phrase, group, all_function_goal(affordance), all_reason(len(group)), group, plural=True)


def _all_of_relation(view: View, rng: np.random.Generator) -> Draft | None:
    """Return all objects that clearly stand in a relation to an anchor, if the others clearly do not."""
    return sided(view, rng, wanted=True)


def sided(view: View, rng: np.random.Generator, *, wanted: bool) -> Draft | None:
    """Return a relation in which some of a group stand, to ask for all of them.

    If not `wanted`: one in which none of it stands.
    """
    anchors = view.anchor_names(rng)
    for color, noun, members in relation_groups(view, rng):
        for anchor, name in anchors:
            group = [o for o in members if o is not anchor]
            if anchor.category == noun or not askable(view, group):
                continue
            alike = [o for c in phrases.LOOK_ALIKES.get(noun, ()) for o in view.of_category(c)]
            similar = [o for o in alike if o is not anchor]
            for relation in shuffled(phrases.RELATIONS, rng):
                targets = on_the_side(view, group, anchor, relation)
                in_depth = relation in ("front", "behind")
                if targets is None or bool(targets) != wanted:
                    continue
                if not wanted and on_the_side(view, similar, anchor, relation) != []:
                    continue
                if in_depth and not all(sayable(o.forward) for o in (anchor, *group)):
                    continue
                plural = wanted or rng.random() < 0.25
                said = choice(phrases.RELATIONS[relation], rng)
                condition = phrases.REASONS[relation].format(anchor=name)
                if plural:
                    phrase = f"{all_phrase(color, noun, rng)} {said} {name}"
                    goal = all_goal(color, noun)
                else:
                    any_object = noun in phrases.ANY_OBJECT
                    spoken = choice(phrases.ANY_OBJECT, rng) if any_object else spoken_noun(noun, rng)
                    phrase = choice(phrases.RELATION_FORMS, rng).format(
                        noun=f"{color} {spoken}".strip(), relation=said, anchor=name
                    )
                    goal = phrases.an(f"{color} {noun}".strip())
                return Draft(
                    phrase,
                    targets,
                    goal,
                    condition if wanted else phrases.REASONS["none"].format(condition=condition),
                    group,
                    anchors=[anchor],
                    measure=forward if in_depth else None,
                    anchors_measured=in_depth,
                    plural=plural,
                )
    return None


_SETS: dict[Builder, float] = {
    _all_of_category: 0.3,
    _all_of_color: 0.2,
    _all_of_colored_category: 0.15,
    _all_of_function: 0.15,
    _all_of_relation: 0.12,
    _all_of_two: 0.08,
}
