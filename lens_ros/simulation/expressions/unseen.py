"""Generate forms of sentences that are kept for evaluation, each satisfied by exactly one object.

Training never says any of these forms, neither of what is there nor of what is not, so they measure whether a
model composes what it has learned. Answers are clear by the margins of the kinds that it has learned from. A
rationale is not made up for them: see `Expression.rationale`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lens_ros.simulation import phrases
from lens_ros.simulation.expressions.chance import choice, shuffled
from lens_ros.simulation.expressions.judgments import (
    affordances,
    between_in_image,
    betweenness,
    extreme_first,
    nearest_first,
    odd_one,
    on_the_side,
    only_of_its_color,
    prevails,
    related,
)
from lens_ros.simulation.expressions.singles import relation_groups
from lens_ros.simulation.expressions.view import View
from lens_ros.simulation.expressions.writing import Builder, Draft, spoken_noun

if TYPE_CHECKING:
    from lens_ros.simulation.scene import SceneObject

_OPPOSITE = {"left": "right", "right": "left", "front": "behind", "behind": "front"}


def _described(color: str, noun: str, rng: np.random.Generator) -> str:
    spoken = choice(phrases.ANY_OBJECT, rng) if noun in phrases.ANY_OBJECT else spoken_noun(noun, rng)
    return f"{color} {spoken}".strip()


def _placed(
    view: View, group: Sequence[SceneObject], anchor: SceneObject, rng: np.random.Generator
) -> tuple[SceneObject, str] | None:
    """Return the only one of the group with some place relative to the anchor, and that place in words."""
    for place in shuffled((*phrases.RELATIONS, "nearest"), rng):
        if place == "nearest":
            ranked = nearest_first(view, group, anchor)
            if ranked is not None:
                return ranked[0], choice(phrases.UNSEEN_NEAREST, rng)
        elif (target := related(view, group, anchor, place)) is not None:
            return target, choice(phrases.RELATIONS[place], rng)
    return None


def _before_the_noun(word: str, noun: str, several: int, rng: np.random.Generator) -> str:
    """Say 'the leftmost cup': a superlative (of two, also a comparative) with the noun at the end."""
    forms = phrases.SUPERLATIVES[word] + (phrases.COMPARATIVES[word] if several == 2 else ())
    return choice([form for form in forms if form.endswith("{noun}")], rng).format(noun=noun)


# --- a place relative to something described --------------------------------------------------------------


def _described_anchor(view: View, rng: np.random.Generator) -> Draft | None:
    """Say 'the spoon left of the smallest cup', 'the can nearest to the fruit'."""
    anchors = []
    for category, group in view.by_category().items():
        for word in phrases.SUPERLATIVES:
            ranked = extreme_first(view, group, word)
            if ranked is not None:
                anchors.append((ranked[0], _before_the_noun(word, category, len(group), rng)))
    for affordance, group in affordances(view):
        served = view.only_clear(group)
        names = [phrase for phrase in affordance.phrases if phrase.startswith("the ")]
        if served is not None and names:
            anchors.append((served, choice(names, rng)))
    anchors = shuffled(anchors, rng)
    for color, noun, members in relation_groups(view, rng):
        for anchor, name in anchors:
            if anchor.category == noun:
                continue
            placed = _placed(view, [o for o in members if o is not anchor], anchor, rng)
            if placed is not None:
                target, place = placed
                form = choice(phrases.RELATION_FORMS, rng)
                noun = _described(color, noun, rng)
                return Draft(form.format(noun=noun, relation=place, anchor=name), (target,))
    return None


def _function_related(view: View, rng: np.random.Generator) -> Draft | None:
    """Return a text such as 'something to write with, the one closest to the bowl'."""
    options = [option for option in affordances(view) if len(option[1]) > 1]
    anchors = view.anchor_names(rng)
    for affordance, group in shuffled(options, rng):
        for anchor, name in anchors:
            if anchor in group:
                continue
            placed = _placed(view, group, anchor, rng)
            if placed is not None:
                target, place = placed
                phrase = choice(phrases.UNSEEN_FUNCTION, rng).format(
                    f=choice(affordance.phrases, rng), relation=place, anchor=name
                )
                return Draft(phrase, (target,))
    return None


# --- relations turned about, joined and denied ------------------------------------------------------------


def _inverse_relation(view: View, rng: np.random.Generator) -> Draft | None:
    """Say 'the box that the banana is behind': the anchor stands in the relation to the target."""
    anchors = view.anchor_names(rng)
    for color, noun, members in relation_groups(view, rng):
        for anchor, name in anchors:
            group = [o for o in members if o is not anchor]
            if anchor.category == noun:
                continue
            for relation in shuffled(phrases.RELATIONS, rng):
                target = related(view, group, anchor, _OPPOSITE[relation])
                if target is None:
                    continue
                forms: tuple[str, ...] = phrases.UNSEEN_INVERSE
                if relation in phrases.UNSEEN_INVERSE_DEPTH:
                    forms += phrases.UNSEEN_INVERSE_DEPTH[relation]
                said = choice(phrases.RELATIONS[relation], rng)
                noun = _described(color, noun, rng)
                return Draft(choice(forms, rng).format(noun=noun, anchor=name, relation=said), (target,))
    return None


def _two_relations(view: View, rng: np.random.Generator) -> Draft | None:
    """Say 'the object left of the mug and behind the plate': neither relation alone singles it out."""
    anchors = view.anchor_names(rng)
    pairs = shuffled(((a, b) for a in anchors for b in anchors if a is not b), rng)
    for color, noun, members in relation_groups(view, rng):
        for (a, name), (b, other) in pairs:
            if noun in (a.category, b.category):
                continue
            group = [o for o in members if o is not a and o is not b]
            if len(group) < 3:
                continue
            for first, second in shuffled(
                ((r, s) for r in phrases.RELATIONS for s in phrases.RELATIONS if r != s), rng
            ):
                target = _only_in_both(view, group, (a, first), (b, second))
                if target is None:
                    continue
                phrase = choice(phrases.UNSEEN_TWO_RELATIONS, rng).format(
                    noun=_described(color, noun, rng),
                    relation=choice(phrases.RELATIONS[first], rng),
                    anchor=name,
                    second=choice(phrases.RELATIONS[second], rng),
                    other=other,
                )
                return Draft(phrase, (target,))
    return None


def _only_in_both(
    view: View, group: Sequence[SceneObject], *places: tuple[SceneObject, str]
) -> SceneObject | None:
    """Return the only one that stands in both relations, each clear of all and true of several."""
    standing = []
    for anchor, relation in places:
        fitting = on_the_side(view, group, anchor, relation)
        if fitting is None or len(fitting) < 2:
            return None
        standing.append(fitting)
    both = [o for o in standing[0] if o in standing[1]]
    if len(both) != 1 or not view.is_clear(both[0]):
        return None
    return both[0] if all(prevails(view, both[0], anchor, relation) for anchor, relation in places) else None


def _negated_relation(view: View, rng: np.random.Generator) -> Draft | None:
    """Say 'the mug that is not left of the bowl'."""
    anchors = view.anchor_names(rng)
    groups = [(noun, group) for noun, group in view.by_category().items() if len(group) > 1]
    for noun, group in shuffled(groups, rng):
        for anchor, name in anchors:
            if anchor.category == noun:
                continue
            for relation in shuffled(phrases.RELATIONS, rng):
                others = on_the_side(view, group, anchor, _OPPOSITE[relation])
                if others is None or len(others) != 1 or not view.is_clear(others[0]):
                    continue
                phrase = choice(phrases.UNSEEN_NOT_RELATED, rng).format(
                    noun=spoken_noun(noun, rng),
                    relation=choice(phrases.RELATIONS[relation], rng),
                    anchor=name,
                )
                return Draft(phrase, others)
    return None


# --- between, and more ------------------------------------------------------------------------------------


def _anchor_pairs(
    view: View, rng: np.random.Generator
) -> Iterator[tuple[tuple[tuple[SceneObject, str], tuple[SceneObject, str]], np.ndarray, np.ndarray]]:
    """Return pairs of anchors with their names, in random order, and what lies between them.

    Of all in sight, clearly and arguably, ``(n,)`` bool each.
    """
    anchors = view.anchor_names(rng)
    pairs = shuffled(((a, b) for i, a in enumerate(anchors) for b in anchors[i + 1 :]), rng)
    if pairs:
        inside, arguable = betweenness(view, [(a, b) for (a, _), (b, _) in pairs])
        yield from zip(pairs, inside, arguable, strict=True)


def _between_modified(view: View, rng: np.random.Generator) -> Draft | None:
    """Say 'the leftmost object between the bowl and the plate', 'the red cup between ...'."""
    for ((a, name), (b, other)), clearly, perhaps in _anchor_pairs(view, rng):
        known = (a.index, b.index)
        near = [o for o, is_near in zip(view.seen, perhaps, strict=True) if is_near and o.index not in known]
        sure = {o.index for o, is_sure in zip(view.seen, clearly, strict=True) if is_sure}
        sure = {o.index for o in near if o.index in sure and between_in_image(view, a, o, b)}
        picked = _picked_between(view, near, sure, (a.category, b.category), rng)
        if picked is not None:
            target, noun = picked
            return Draft(choice(phrases.BETWEEN, rng).format(noun=noun, anchor=name, other=other), (target,))
    return None


def _picked_between(
    view: View,
    near: Sequence[SceneObject],
    sure: set[int],
    anchors: tuple[str, str],
    rng: np.random.Generator,
) -> tuple[SceneObject, str] | None:
    """Return one of what stands `near` the middle of two anchors, and its name among these.

    It is named by color or, if all stand there for `sure`, as the most of something.
    """
    nouns = [phrases.ANY_OBJECT[0], *sorted({o.category for o in near} - set(anchors))]
    for noun in shuffled(nouns, rng):
        group = [o for o in near if noun in (*phrases.ANY_OBJECT, o.category)]
        spoken = _described("", noun, rng)
        if len(group) > 1 and all(o.index in sure for o in group):
            of_one_category = noun not in phrases.ANY_OBJECT
            words = [w for w in phrases.SUPERLATIVES if of_one_category or w not in ("largest", "smallest")]
            for word in shuffled(words, rng):
                ranked = extreme_first(view, group, word)
                if ranked is not None:
                    described = _before_the_noun(word, spoken, 0, rng)
                    return ranked[0], described.removeprefix("the ")
        target = only_of_its_color(view, group, rng)
        if target is not None and target.index in sure:
            return target, f"{target.color} {spoken}"
    return None


# --- comparison -------------------------------------------------------------------------------------------


def _comparison(view: View, rng: np.random.Generator) -> Draft | None:
    """Say 'the cup larger than the red one'."""
    groups = [(noun, group) for noun, group in view.by_category().items() if len(group) > 1]
    for noun, group in shuffled(groups, rng):
        for reference in shuffled(group, rng):
            if not view.is_clear(reference) or sum(o.color == reference.color for o in group) > 1:
                continue
            for word in shuffled(phrases.UNSEEN_COMPARISONS, rng):
                target = _only_beyond(view, group, reference, word)
                if target is not None:
                    phrase = choice(phrases.UNSEEN_COMPARISON_FORMS, rng).format(
                        noun=spoken_noun(noun, rng),
                        more=choice(phrases.UNSEEN_COMPARISONS[word], rng),
                        color=reference.color,
                    )
                    return Draft(phrase, (target,))
    return None


def _only_beyond(
    view: View, group: Sequence[SceneObject], reference: SceneObject, word: str
) -> SceneObject | None:
    """Return the group's only member that is more `word` than the reference; the rest is clearly less."""
    rest = [o for o in group if o is not reference]
    beyond = []
    for o in rest:
        ranked = extreme_first(view, [o, reference], word)
        if ranked is None:
            return None
        if ranked[0] is o:
            beyond.append(o)
    return beyond[0] if len(beyond) == 1 else None


# --- questions --------------------------------------------------------------------------------------------


def _question(view: View, rng: np.random.Generator) -> Draft | None:
    """Say 'what is between the cup and the bowl', 'which mug is closest to me'."""
    for ask in shuffled((_what, _what_between, _which_related, _which_most, _which_color), rng):
        draft = ask(view, rng)
        if draft is not None:
            return draft
    return None


def _what(view: View, rng: np.random.Generator) -> Draft | None:
    for anchor, name in view.anchor_names(rng):
        group = [o for o in view.seen if o is not anchor]
        for place in shuffled((*phrases.UNSEEN_WHAT_RELATIONS, "nearest"), rng):
            if place == "nearest":
                said: tuple[str, ...] = phrases.UNSEEN_NEAREST
                target = next(iter(nearest_first(view, group, anchor) or ()), None)
            else:
                said = phrases.UNSEEN_WHAT_RELATIONS[place]
                target = related(view, group, anchor, place)
            if target is not None:
                form = choice(phrases.UNSEEN_WHAT, rng)
                return _asked(form.format(relation=choice(said, rng), anchor=name), target)
    return None


def _what_between(view: View, rng: np.random.Generator) -> Draft | None:
    for ((a, name), (b, other)), clearly, perhaps in _anchor_pairs(view, rng):
        known = (a.index, b.index)
        near = [k for k, is_near in enumerate(perhaps) if is_near and view.seen[k].index not in known]
        if len(near) != 1 or not clearly[near[0]]:
            continue
        target = view.seen[near[0]]
        if view.is_clear(target) and between_in_image(view, a, target, b):
            form = choice(phrases.UNSEEN_WHAT_BETWEEN, rng)
            return _asked(form.format(anchor=name, other=other), target)
    return None


def _which_related(view: View, rng: np.random.Generator) -> Draft | None:
    anchors = view.anchor_names(rng)
    for noun, group in _several(view, rng):
        for anchor, name in anchors:
            placed = _placed(view, group, anchor, rng) if anchor.category != noun else None
            if placed is not None:
                return _which(noun, f"{placed[1]} {name}", placed[0], rng)
    return None


def _which_most(view: View, rng: np.random.Generator) -> Draft | None:
    for noun, group in _several(view, rng):
        for word in shuffled(phrases.UNSEEN_WHICH_SUPERLATIVES, rng):
            ranked = extreme_first(view, group, word)
            if ranked is not None:
                return _which(noun, choice(phrases.UNSEEN_WHICH_SUPERLATIVES[word], rng), ranked[0], rng)
    return None


def _which_color(view: View, rng: np.random.Generator) -> Draft | None:
    for noun, group in _several(view, rng):
        odd = odd_one(view, group, lambda o: o.color, rng)
        if odd is not None:
            return _which(noun, f"not {odd[1]}", odd[0], rng)
        target = only_of_its_color(view, group, rng)
        if target is not None:
            return _which(noun, target.color, target, rng)
    return None


def _several(view: View, rng: np.random.Generator) -> list[tuple[str, list[SceneObject]]]:
    return shuffled(((noun, group) for noun, group in view.by_category().items() if len(group) > 1), rng)


def _which(noun: str, condition: str, target: SceneObject, rng: np.random.Generator) -> Draft:
    form = choice(phrases.UNSEEN_WHICH, rng)
    return _asked(form.format(noun=spoken_noun(noun, rng), condition=condition), target)


def _asked(question: str, target: SceneObject) -> Draft:
    return Draft(question, (target,), sentence=True)


UNSEEN: dict[str, Builder] = {
    "described_anchor": _described_anchor,
    "function_related": _function_related,
    "inverse_relation": _inverse_relation,
    "two_relations": _two_relations,
    "negated_relation": _negated_relation,
    "between_modified": _between_modified,
    "comparison": _comparison,
    "question": _question,
}
