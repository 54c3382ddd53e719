"""Write an instruction, its chain of thought and their common phrases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lens_ros.simulation import phrases
from lens_ros.simulation.expressions.chance import choice
from lens_ros.simulation.expressions.view import Measure, View, centimeters

if TYPE_CHECKING:
    from lens_ros.simulation.scene import SceneObject


@dataclass(frozen=True)
class Expression:
    """An instruction about one frame, its answer, and the reasoning that leads there.

    Attributes:
        kind: one of `KINDS` or `UNSEEN_KINDS`.
        text: the instruction, as a person would type it; lower case, no final stop, commas attached to words.
        rationale: chain of thought, true of the scene; tokens (words, numbers 0..255, punctuation) separated
            by single blanks. Ends with `conclusion`, and is no more than that for the `UNSEEN_KINDS`, which
            nobody trains on.
        conclusion: its last clause, for training on short answers: `so the red cup ( 213 159 )`, `so all 3`,
            `so nothing`.
        targets: `SceneObject.index` of the answer, from left to right in the image: exactly one, but 1 to
            `MAX_SET` for kind `all_of` and none at all for kind `none`.
    """

    kind: str
    text: str
    rationale: str
    conclusion: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Draft:
    """Content of an expression before it is put into words."""

    phrase: str  # a noun phrase, or a whole sentence where `sentence`
    targets: Sequence[SceneObject]
    goal: str = ""
    reason: str = ""  # without one, the rationale is the conclusion alone
    candidates: Sequence[SceneObject] = ()  # in the order of competition: the closest rivals first
    anchors: Sequence[SceneObject] = ()
    measure: Measure | None = None  # meters, stated of every candidate
    anchors_measured: bool = False
    sentence: bool = False
    plural: bool = False


Builder = Callable[[View, np.random.Generator], Draft | None]


def write(kind: str, draft: Draft, view: View, rng: np.random.Generator, *, most_listed: int) -> Expression:
    """Write the expression.

    most_listed: most objects that the rationale names, unless the targets alone are more.
    """

    def from_the_left(o: SceneObject) -> tuple[float, int]:
        return view.x(o), o.index

    targets = sorted(draft.targets, key=from_the_left)
    listed = list(targets)
    for o in draft.candidates:
        if len(listed) < most_listed and o not in targets and o.area >= view.min_listed_area:
            listed.append(o)
    listed.sort(key=from_the_left)

    parts = [phrases.GOAL.format(goal=draft.goal)]
    if draft.anchors:
        measure = draft.measure if draft.anchors_measured else None
        observed = (_observe(o, view, measure) for o in draft.anchors)
        parts.append(phrases.ANCHORS.format(anchors=" , ".join(observed)))
    if listed:
        parts.append(" ; ".join(_observe(o, view, draft.measure) for o in listed) + " .")
    conclusion = _conclude(targets, view, everything=all(o in targets for o in draft.candidates))
    rationale = f"{' '.join(parts)} {draft.reason} . {conclusion}" if draft.reason else conclusion
    text = draft.phrase if draft.sentence else _request(draft.phrase, rng, plural=draft.plural)
    for color, spelling in phrases.COLOR_SPELLINGS.items():
        if color in text and rng.random() < 0.25:
            text = text.replace(color, spelling)
    return Expression(kind, text, rationale, conclusion, tuple(o.index for o in targets))


def _conclude(targets: Sequence[SceneObject], view: View, *, everything: bool) -> str:
    """Write the conclusion.

    everything: the targets are all that the rationale lists.
    """
    if not targets:
        return phrases.CONCLUSION_NOTHING
    if everything and len(targets) > 1:
        return phrases.CONCLUSION_ALL.format(count=len(targets))
    clauses: list[str] = []
    for o in targets:
        x, y = view.point(o)
        form = phrases.CONCLUSION_NEXT if clauses else phrases.CONCLUSION
        clauses.append(form.format(color=o.color, category=o.category, x=x, y=y))
    return "".join(clauses)


def _observe(o: SceneObject, view: View, measure: Measure | None) -> str:
    x, y = view.point(o)
    observation = phrases.OBSERVATION.format(color=o.color, category=o.category, x=x, y=y)
    if measure is None:
        return observation
    return phrases.MEASURED.format(observation=observation, value=centimeters(measure(o)))


def _request(phrase: str, rng: np.random.Generator, *, plural: bool = False) -> str:
    """Return the noun phrase alone or in a request."""
    draw = rng.random()
    if draw < 0.25:
        return phrase
    if draw < 0.85:
        sentence = choice(phrases.IMPERATIVES, rng)
        polite: tuple[str, ...] = phrases.POLITE_IMPERATIVES
    else:
        statements: tuple[str, ...] = phrases.ALL_STATEMENTS if plural else phrases.STATEMENTS
        if phrase.startswith("the ") and not plural:
            statements += phrases.DEFINITE_QUESTIONS
        sentence, polite = choice(statements, rng), phrases.POLITE_STATEMENTS
    if rng.random() < 0.12:
        sentence = choice(polite, rng).format(sentence)
    return sentence.format(phrase)


def with_article(noun: str, rng: np.random.Generator) -> str:
    return phrases.DEFINITE[0].format(noun) if rng.random() < 0.75 else phrases.an(noun)


def spoken_noun(category: str, rng: np.random.Generator) -> str:
    """Return the category's name, sometimes another word for it."""
    if category in phrases.SYNONYMS and rng.random() < 0.1:
        return choice(phrases.SYNONYMS[category], rng)
    return category


def either(affordance: phrases.Affordance) -> str:
    categories = affordance.categories
    return categories[0] if len(categories) == 1 else phrases.OR.format(*categories)


def function_goal(affordance: phrases.Affordance) -> str:
    return f"{phrases.an(either(affordance))} {affordance.purpose}"


def plural_of(noun: str) -> str:
    return phrases.PLURALS[noun] if noun in phrases.PLURALS else noun + "s"


def all_phrase(color: str, noun: str, rng: np.random.Generator) -> str:
    """Write a phrase for all of a kind.

    noun: a category or "object", in the singular.
    """
    spoken = choice(phrases.ANY_OBJECT, rng) if noun in phrases.ANY_OBJECT else spoken_noun(noun, rng)
    plural = plural_of(spoken)
    if color:
        plural = choice(phrases.ALL_COLORED, rng).format(color=color, noun=plural)
        spoken = f"{color} {spoken}"
        if noun in phrases.ANY_OBJECT and rng.random() < 0.3:
            return choice(phrases.EVERYTHING_COLORED, rng).format(color=color)
    return choice(phrases.ALL_OF, rng).format(plural=plural, noun=spoken)


def all_goal(color: str, noun: str) -> str:
    return phrases.ALL_GOAL.format(f"{color} {phrases.PLURALS[noun]}".strip())


def all_reason(count: int) -> str:
    return phrases.REASONS["all"] if count > 1 else phrases.REASONS["only"]


def all_serving(affordance: phrases.Affordance, rng: np.random.Generator) -> str:
    """Return the affordance's phrase, for all that serve it; "" if it has none of that form."""
    turned = [
        phrase.replace(one, every, 1)
        for phrase in affordance.phrases
        for one, every in phrases.ALL_SERVING.items()
        if phrase.startswith(one)
    ]
    return choice(turned, rng) if turned else ""


def all_function_goal(affordance: phrases.Affordance) -> str:
    plurals = [phrases.PLURALS[category] for category in affordance.categories]
    named = plurals[0] if len(plurals) == 1 else phrases.AND.format(*plurals)
    return phrases.ALL_GOAL.format(f"{named} {affordance.purpose}")
