"""Generate expressions that exactly one object satisfies, by a builder for each kind.

A builder makes a draft of its kind, or None where the view permits none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lens_ros.simulation import phrases
from lens_ros.simulation.expressions.chance import choice, shuffled
from lens_ros.simulation.expressions.judgments import (
    NEXT_TO_DISTANCE,
    NEXT_TO_RATIO,
    affordances,
    between_in_image,
    betweenness,
    extreme_first,
    measure_of,
    nearest_first,
    odd_one,
    only_of_its_color,
    related,
)
from lens_ros.simulation.expressions.view import View, distance_to, forward, sayable
from lens_ros.simulation.expressions.writing import (
    Builder,
    Draft,
    function_goal,
    spoken_noun,
    with_article,
)

if TYPE_CHECKING:
    from lens_ros.simulation.scene import SceneObject

# --- category, attribute, color -----------------------------------------------------------------------------


def _category(view: View, rng: np.random.Generator) -> Draft | None:
    singles = [o for group in view.by_category().values() if (o := view.only_clear(group))]
    if not singles:
        return None
    target = choice(singles, rng)
    phrase = with_article(spoken_noun(target.category, rng), rng)
    return Draft(phrase, (target,), phrases.an(target.category), phrases.REASONS["only"], [target])


def _attribute(view: View, rng: np.random.Generator) -> Draft | None:
    options = []
    for group in view.by_category().values():
        for target in group:
            if view.is_clear(target) and sum(o.color == target.color for o in group) == 1:
                options.append((target, group))
    # A color that decides teaches more than one that only describes.
    deciding = [option for option in options if len(option[1]) > 1]
    if deciding and rng.random() < 0.75:
        options = deciding
    if not options:
        return None
    target, group = choice(options, rng)
    colored = choice(phrases.COLORED_NOUNS, rng).format(
        color=target.color, noun=spoken_noun(target.category, rng)
    )
    return Draft(
        with_article(colored, rng),
        (target,),
        phrases.an(f"{target.color} {target.category}"),
        phrases.REASONS["color"].format(color=target.color),
        group,
    )


def _color(view: View, rng: np.random.Generator) -> Draft | None:
    singles = [o for group in view.by_color().values() if (o := view.only_clear(group))]
    if not singles:
        return None
    target = choice(singles, rng)
    phrase = with_article(f"{target.color} {choice(phrases.ANY_OBJECT, rng)}", rng)
    goal = phrases.an(f"{target.color} {phrases.ANY_OBJECT[0]}")
    return Draft(phrase, (target,), goal, phrases.REASONS["only"], [target])


# --- relation, nearest, between -----------------------------------------------------------------------------


def _relation(view: View, rng: np.random.Generator) -> Draft | None:
    anchors = view.anchor_names(rng)
    for color, noun, members in relation_groups(view, rng):
        for anchor, name in anchors:
            if anchor.category == noun:
                continue
            group = [o for o in members if o is not anchor]
            for relation in shuffled(phrases.RELATIONS, rng):
                target = related(view, group, anchor, relation)
                if target is None:
                    continue
                in_depth = relation in ("front", "behind")
                if in_depth and not all(sayable(o.forward) for o in (anchor, *group)):
                    continue
                of_any_category = noun in phrases.ANY_OBJECT
                spoken = choice(phrases.ANY_OBJECT, rng) if of_any_category else spoken_noun(noun, rng)
                phrase = choice(phrases.RELATION_FORMS, rng).format(
                    noun=f"{color} {spoken}".strip(),
                    relation=choice(phrases.RELATIONS[relation], rng),
                    anchor=name,
                )
                return Draft(
                    phrase,
                    (target,),
                    phrases.an(f"{color} {noun}".strip()),
                    phrases.REASONS[relation].format(anchor=name),
                    group,
                    anchors=[anchor],
                    measure=forward if in_depth else None,
                    anchors_measured=in_depth,
                )
    return None


def relation_groups(view: View, rng: np.random.Generator) -> list[tuple[str, str, list[SceneObject]]]:
    """Return what a relation can pick from, in random order: (color or "", noun, objects they cover).

    Mostly groups of several come first, so that the relation decides, then everything in sight ("object").
    """
    groups: list[tuple[str, str, list[SceneObject]]] = []
    for category, group in view.by_category().items():
        if rng.random() < 0.25:
            for color in sorted({o.color for o in group}):
                groups.append((color, category, [o for o in group if o.color == color]))
        else:
            groups.append(("", category, group))
    groups = shuffled(groups, rng)
    if rng.random() < 0.15:
        return groups
    several = [group for group in groups if len(group[2]) > 1]
    single = [group for group in groups if len(group[2]) == 1]
    everything = ("", phrases.ANY_OBJECT[0], list(view.seen))
    return [*several, everything, *single] if rng.random() < 0.6 else [*several, *single, everything]


def _nearest(view: View, rng: np.random.Generator) -> Draft | None:
    anchors = view.anchor_names(rng)
    nouns: list[str] = shuffled((c for c, group in view.by_category().items() if len(group) > 1), rng)
    nouns.insert(0 if rng.random() < 0.25 else len(nouns), phrases.ANY_OBJECT[0])
    for noun in nouns:
        of_any_category = noun in phrases.ANY_OBJECT
        for anchor, name in anchors:
            if anchor.category == noun:
                continue
            group = [o for o in view.seen if o is not anchor] if of_any_category else view.of_category(noun)
            to_anchor = distance_to(anchor)
            ranked = nearest_first(view, group, anchor)
            if ranked is None:
                continue
            forms: tuple[str, ...] = phrases.NEAREST
            first, second = to_anchor(ranked[0]), to_anchor(ranked[1])
            if first <= NEXT_TO_DISTANCE and second >= NEXT_TO_RATIO * first:
                forms += phrases.NEXT_TO
            spoken = choice(phrases.ANY_OBJECT, rng) if of_any_category else spoken_noun(noun, rng)
            return Draft(
                choice(forms, rng).format(noun=spoken, anchor=name),
                (ranked[0],),
                phrases.an(noun),
                phrases.REASONS["nearest"].format(anchor=name),
                ranked,
                anchors=[anchor],
                measure=to_anchor,
            )
    return None


def _between(view: View, rng: np.random.Generator) -> Draft | None:
    anchors = view.anchor_names(rng)
    if len(anchors) < 2 or len(view.seen) < 3:
        return None
    pairs = [(a, b) for i, a in enumerate(anchors) for b in anchors[i + 1 :]]
    inside, arguable = betweenness(view, [(a, b) for (a, _), (b, _) in pairs])
    for pair, k in shuffled(np.argwhere(inside).tolist(), rng):
        (a, name), (b, other) = pairs[pair]
        target = view.seen[k]
        if (
            target is a
            or target is b
            or not view.is_clear(target)
            or not between_in_image(view, a, target, b)
        ):
            continue
        known = {a.index, b.index, target.index}
        rivals = [
            o for o, near in zip(view.seen, arguable[pair], strict=True) if near and o.index not in known
        ]
        spoken = ""
        if target.category not in (a.category, b.category) and all(
            o.category != target.category for o in rivals
        ):
            spoken = target.category
        if not rivals and (not spoken or rng.random() < 0.4):
            spoken = phrases.ANY_OBJECT[0]
        if not spoken:
            continue
        if rng.random() < 0.5:
            (a, name), (b, other) = (b, other), (a, name)
        of_any_category = spoken in phrases.ANY_OBJECT
        noun = choice(phrases.ANY_OBJECT, rng) if of_any_category else spoken_noun(spoken, rng)
        return Draft(
            choice(phrases.BETWEEN, rng).format(noun=noun, anchor=name, other=other),
            (target,),
            phrases.an(spoken),
            phrases.REASONS["between"].format(anchor=name, other=other),
            [target] if of_any_category else view.of_category(target.category),
            anchors=[a, b],
        )
    return None


# --- superlatives, size -------------------------------------------------------------------------------------


def _superlative(view: View, rng: np.random.Generator) -> Draft | None:
    groups = shuffled(((c, group) for c, group in view.by_category().items() if len(group) > 1), rng)
    groups.insert(0 if rng.random() < 0.3 else len(groups), (phrases.ANY_OBJECT[0], list(view.seen)))
    for noun, group in groups:
        for word in shuffled(("leftmost", "rightmost", "closest", "farthest"), rng):
            ranked = extreme_first(view, group, word)
            if ranked is not None:
                return _superlative_draft(noun, ranked, word, rng)
    return None


def _size(view: View, rng: np.random.Generator) -> Draft | None:
    groups = shuffled(view.by_category().items(), rng)
    for noun, group in groups:
        for word in shuffled(("largest", "smallest"), rng):
            ranked = extreme_first(view, group, word)
            if ranked is not None:
                return _superlative_draft(noun, ranked, word, rng)
    return None


def _superlative_draft(noun: str, ranked: list[SceneObject], word: str, rng: np.random.Generator) -> Draft:
    of_any_category = noun in phrases.ANY_OBJECT
    forms = phrases.SUPERLATIVES[word]
    if len(ranked) == 2 and not of_any_category:
        forms += phrases.COMPARATIVES[word]
    spoken = choice(phrases.ANY_OBJECT, rng) if of_any_category else spoken_noun(noun, rng)
    return Draft(
        choice(forms, rng).format(noun=spoken),
        (ranked[0],),
        phrases.an(noun),
        phrases.REASONS["superlative"].format(superlative=word),
        # Which of all objects is leftmost shows at a glance; listing four of ten would not decide it.
        ranked[:1] if of_any_category and word in ("leftmost", "rightmost") else ranked,
        measure=measure_of(word),
    )


# --- functions ----------------------------------------------------------------------------------------------


def _function(view: View, rng: np.random.Generator) -> Draft | None:
    options = [(affordance, o) for affordance, group in affordances(view) if (o := view.only_clear(group))]
    if not options:
        return None
    affordance, target = choice(options, rng)
    sentence = bool(affordance.questions) and rng.random() < 0.15
    return Draft(
        choice(affordance.questions if sentence else affordance.phrases, rng),
        (target,),
        function_goal(affordance),
        phrases.REASONS["only"],
        [target],
        sentence=sentence,
    )


def _function_modified(view: View, rng: np.random.Generator) -> Draft | None:
    options = [option for option in affordances(view) if len(option[1]) > 1]
    for affordance, group in shuffled(options, rng):
        for modifier in shuffled(phrases.FUNCTION_MODIFIERS, rng):
            color, measure, ranked = "", None, group
            if modifier == "color":
                target = only_of_its_color(view, group, rng)
                if target is None:
                    continue
                color = target.color
                reason = phrases.REASONS["color"].format(color=color)
            elif modifier == "not_color":
                odd = odd_one(view, group, lambda o: o.color, rng)
                if odd is None:
                    continue
                target, color = odd
                reason = phrases.REASONS["not_color"].format(color=color)
            else:
                extreme = extreme_first(view, group, modifier)
                if extreme is None:
                    continue
                ranked, target, measure = extreme, extreme[0], measure_of(modifier)
                reason = phrases.REASONS["superlative"].format(superlative=modifier)
            phrase = choice(phrases.FUNCTION_MODIFIERS[modifier], rng).format(
                f=choice(affordance.phrases, rng), color=color
            )
            return Draft(phrase, (target,), function_goal(affordance), reason, ranked, measure=measure)
    return None


# --- negation -----------------------------------------------------------------------------------------------


def _negation(view: View, rng: np.random.Generator) -> Draft | None:
    groups = [(False, group) for group in view.by_category().values() if len(group) > 1]
    groups += [(True, group) for group in view.by_color().values() if len(group) > 1]
    groups = shuffled(groups, rng)
    # "The cup that is not red" is commoner than "the red thing that is not a cup".
    colors_first = rng.random() < 0.3
    groups.sort(key=lambda option: option[0] != colors_first)
    for of_color, group in groups:
        odd = odd_one(view, group, (lambda o: o.category) if of_color else (lambda o: o.color), rng)
        if odd is None:
            continue
        target, excluded = odd
        if of_color:
            phrase = choice(phrases.NOT_CATEGORY, rng).format(
                color=target.color, noun=choice(phrases.ANY_OBJECT, rng), category=phrases.an(excluded)
            )
            goal = phrases.an(f"{target.color} {phrases.ANY_OBJECT[0]}")
            reason = phrases.REASONS["not_category"].format(category=phrases.an(excluded))
        else:
            forms = phrases.NOT_COLOR + (phrases.NOT_COLOR_OF_TWO if len(group) == 2 else ())
            phrase = choice(forms, rng).format(color=excluded, noun=spoken_noun(target.category, rng))
            goal = phrases.an(target.category)
            reason = phrases.REASONS["not_color"].format(color=excluded)
        return Draft(phrase, (target,), goal, reason, group)
    return None


SINGLES: dict[str, Builder] = {
    "category": _category,
    "attribute": _attribute,
    "color": _color,
    "relation": _relation,
    "nearest": _nearest,
    "between": _between,
    "superlative": _superlative,
    "size": _size,
    "function": _function,
    "function_modified": _function_modified,
    "negation": _negation,
}
