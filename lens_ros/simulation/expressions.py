"""Referring expressions with a chain of thought that is true of the scene.

`sample_expression` says something about the objects of one camera frame, as a person would type it, and
reasons about it in words: what is looked for, what is there and where, the quantity that decides, the
conclusion. Most kinds are satisfied by exactly one object. With kind `all_of` one or several satisfy it and
all are meant; with kind `none` nothing in sight does. Everything comes from the scene's description; no
picture is needed.

An expression is made only where its answer is clear by a margin. Whatever shows at least one pixel counts as
a possible confusion; an answer or a reference object (anchor) must be well visible. So must everything that
belongs to "all of", and everything that is said to lack a color or a place.

Conventions. Left and right are judged in the image, by the centers of the visible boxes (pixels, x right,
y down). In front and behind: by `SceneObject.forward`, meters along the ground from the camera; closer is in
front. Closest and farthest: by `SceneObject.distance`, meters from the camera. Nearest: by the distance
between the base centers on the table. Size: by `SceneObject.extent`, within one category. Rationales state
these quantities in whole centimeters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lens_ros.simulation import phrases
from lens_ros.simulation.catalog import CATEGORIES, COLORS, training_colors

if TYPE_CHECKING:
    from lens_ros.simulation.scene import SceneObject

SINGLE_KINDS = (
    "category",
    "attribute",
    "color",
    "relation",
    "nearest",
    "between",
    "superlative",
    "size",
    "function",
    "function_modified",
    "negation",
)
KINDS = (*SINGLE_KINDS, "all_of", "none")
SIMPLE_KINDS = ("category", "attribute", "color")

MIN_VISIBLE_FRACTION = 0.45  # of an answer or an anchor
MIN_AREA = 70.0  # pixels of an answer or an anchor, in an image of 256x256 pixels
MIN_LISTED_AREA = 25.0  # pixels of a candidate that the rationale names, in an image of 256x256 pixels
SIDE_MARGIN = 12.0  # pixels, left and right, in an image 256 pixels wide
DEPTH_MARGIN = 0.04  # meters, in front and behind
NEAREST_MARGIN = 0.05  # meters between the nearest and the next
NEXT_TO_DISTANCE = 0.2  # meters, the farthest that is still "next to"
NEXT_TO_RATIO = 1.6  # how much farther the second nearest is, so that it is not "next to" as well
PREVAILING = 0.7  # how far along a relation's direction, over how far across it, an answer must lie
DISTANCE_MARGIN = 0.035  # meters, closest and farthest
SIZE_MARGIN = 0.12  # of the smaller extent
MIN_JUDGED_FRACTION = 0.3  # visible fraction below which nobody can judge a size
MAX_CANDIDATES = 4
MAX_SET = 6  # objects that "all of" names or chooses from, and of which "none" fits
MAX_NUMBER = 255

# The kinds that are hardest to learn are said a little more often.
_KIND_WEIGHTS = {"relation": 1.5, "nearest": 1.5, "superlative": 1.5, "size": 1.5}

Measure = Callable[["SceneObject"], float]
T = TypeVar("T")


@dataclass(frozen=True)
class Expression:
    """An instruction about one frame, its answer, and the reasoning that leads there.

    Attributes:
        kind: one of `KINDS`.
        text: the instruction, as a person would type it; lower case, no final stop, commas attached to words.
        rationale: chain of thought, true of the scene; tokens (words, numbers 0..255, punctuation) separated
            by single blanks. Ends with `conclusion`.
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


def vocabulary() -> tuple[str, ...]:
    """Every word that a text or a rationale can contain, sorted, without numbers and punctuation.

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
        kind: one of `KINDS`; without it one of `SINGLE_KINDS`, drawn evenly (the harder ones slightly more
            often) among those that the scene permits.
        coordinate_extent: points in the rationale are integers 0..coordinate_extent-1 along both axes,
            whatever the image's shape; x = round(pixel * coordinate_extent / width), y likewise.

    Returns:
        The expression, or None when the scene permits none (of this kind).

    Raises:
        ValueError: unknown kind, empty image, or coordinate_extent outside 1..256.
    """
    if kind is not None and kind not in _BUILDERS:
        raise ValueError(f"unknown kind of expression {kind!r}: expected one of {', '.join(KINDS)}")
    if min(size) < 1:
        raise ValueError(f"image size is {size}: expected width and height in pixels, both positive")
    if not 1 <= coordinate_extent <= MAX_NUMBER + 1:
        raise ValueError(f"coordinate_extent is {coordinate_extent}: expected 1..{MAX_NUMBER + 1}")
    view = _View(tuple(objects), size, coordinate_extent)
    for candidate in (kind,) if kind else _kinds_in_random_order(rng):
        draft = _BUILDERS[candidate](view, rng)
        if draft is not None:
            return _write(candidate, draft, view, rng)
    return None


# --- what is in sight -------------------------------------------------------------------------------------


class _View:
    """The objects of one frame as an observer sees them."""

    def __init__(
        self, objects: tuple[SceneObject, ...], size: tuple[int, int], coordinate_extent: int
    ) -> None:
        width, height = size
        scale = width * height / 256**2
        self.size = size
        self.coordinate_extent = coordinate_extent
        self.side_margin = SIDE_MARGIN * width / 256
        self.min_listed_area = MIN_LISTED_AREA * scale
        self.center = {o.index: _box_center(o) for o in objects}
        self.seen = tuple(o for o in objects if o.area > 0)
        self.clear = tuple(
            o for o in self.seen if o.area >= MIN_AREA * scale and o.visible_fraction >= MIN_VISIBLE_FRACTION
        )
        self._clear_indices = frozenset(o.index for o in self.clear)

    def is_clear(self, o: SceneObject) -> bool:
        return o.index in self._clear_indices

    def x(self, o: SceneObject) -> float:
        return self.center[o.index][0]

    def point(self, o: SceneObject) -> tuple[int, int]:
        """The center of the visible box in the rationale's coordinates."""
        x, y = (
            min(max(round(c * self.coordinate_extent / s), 0), self.coordinate_extent - 1)
            for c, s in zip(self.center[o.index], self.size, strict=True)
        )
        return x, y

    def of_category(self, category: str) -> list[SceneObject]:
        return [o for o in self.seen if o.category == category]

    def by_category(self) -> dict[str, list[SceneObject]]:
        groups: dict[str, list[SceneObject]] = {}
        for o in self.seen:
            groups.setdefault(o.category, []).append(o)
        return groups

    def by_color(self) -> dict[str, list[SceneObject]]:
        groups: dict[str, list[SceneObject]] = {}
        for o in self.seen:
            groups.setdefault(o.color, []).append(o)
        return groups

    def only_clear(self, group: Sequence[SceneObject]) -> SceneObject | None:
        """The group's single member where it is well visible."""
        return group[0] if len(group) == 1 and self.is_clear(group[0]) else None

    def anchor_names(self, rng: np.random.Generator) -> list[tuple[SceneObject, str]]:
        """Well visible objects that a plain name (category, or color too) singles out, in random order."""
        named = []
        for o in _shuffled(self.clear, rng):
            same = self.of_category(o.category)
            if len(same) == 1 and rng.random() < 0.65:
                named.append((o, f"the {o.category}"))
            elif sum(other.color == o.color for other in same) == 1:
                named.append((o, f"the {o.color} {o.category}"))
        return named


def _box_center(o: SceneObject) -> tuple[float, float]:
    x1, y1, x2, y2 = o.box
    return (x1 + x2) / 2, (y1 + y2) / 2


def _table_distance(a: SceneObject, b: SceneObject) -> float:
    return math.hypot(a.position[0] - b.position[0], a.position[1] - b.position[1])


def _forward(o: SceneObject) -> float:
    return o.forward


def _distance(o: SceneObject) -> float:
    return o.distance


def _extent(o: SceneObject) -> float:
    return o.extent


# --- chance -----------------------------------------------------------------------------------------------


def _choice(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.random() * len(options))]


def _shuffled(options: Iterable[T], rng: np.random.Generator) -> list[T]:
    items = list(options)
    for i in range(len(items) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        items[i], items[j] = items[j], items[i]
    return items


def _weighted_order(weights: dict[T, float], rng: np.random.Generator) -> list[T]:
    """The keys; each next one is drawn by weight from those that remain."""
    waits = [rng.standard_exponential() / weight for weight in weights.values()]
    return [key for _, _, key in sorted(zip(waits, range(len(waits)), weights, strict=True))]


def _kinds_in_random_order(rng: np.random.Generator) -> list[str]:
    """The kinds of one target; each next one is drawn by weight from those that remain (exponential order
    statistics)."""
    waits = rng.standard_exponential(len(SINGLE_KINDS))
    ranked = sorted((w / _KIND_WEIGHTS.get(k, 1.0), k) for w, k in zip(waits, SINGLE_KINDS, strict=True))
    return [k for _, k in ranked]


# --- writing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draft:
    """What one expression says, before it is put into words."""

    phrase: str  # a noun phrase, or a whole sentence where `sentence`
    targets: Sequence[SceneObject]
    goal: str
    reason: str
    candidates: Sequence[SceneObject]  # in the order of competition: the closest rivals first
    anchors: Sequence[SceneObject] = ()
    measure: Measure | None = None  # meters, stated of every candidate
    anchors_measured: bool = False
    sentence: bool = False
    plural: bool = False


def _write(kind: str, draft: _Draft, view: _View, rng: np.random.Generator) -> Expression:
    def from_the_left(o: SceneObject) -> tuple[float, int]:
        return view.x(o), o.index

    targets = sorted(draft.targets, key=from_the_left)
    listed = list(targets)
    limit = MAX_CANDIDATES if kind in SINGLE_KINDS else MAX_SET
    for o in draft.candidates:
        if len(listed) < limit and o not in targets and o.area >= view.min_listed_area:
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
    rationale = f"{' '.join(parts)} {draft.reason} . {conclusion}"
    text = draft.phrase if draft.sentence else _request(draft.phrase, rng, plural=draft.plural)
    for color, spelling in phrases.COLOR_SPELLINGS.items():
        if color in text and rng.random() < 0.25:
            text = text.replace(color, spelling)
    return Expression(kind, text, rationale, conclusion, tuple(o.index for o in targets))


def _conclude(targets: Sequence[SceneObject], view: _View, *, everything: bool) -> str:
    """everything: the targets are all that the rationale lists."""
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


def _observe(o: SceneObject, view: _View, measure: Measure | None) -> str:
    x, y = view.point(o)
    observation = phrases.OBSERVATION.format(color=o.color, category=o.category, x=x, y=y)
    if measure is None:
        return observation
    return phrases.MEASURED.format(observation=observation, value=_centimeters(measure(o)))


def _centimeters(meters: float) -> int:
    return round(100 * meters)


def _sayable(meters: float) -> bool:
    return 0 <= _centimeters(meters) <= MAX_NUMBER


def _request(phrase: str, rng: np.random.Generator, *, plural: bool = False) -> str:
    """The noun phrase alone or in a request."""
    draw = rng.random()
    if draw < 0.25:
        return phrase
    if draw < 0.85:
        sentence = _choice(phrases.IMPERATIVES, rng)
        polite: tuple[str, ...] = phrases.POLITE_IMPERATIVES
    else:
        statements: tuple[str, ...] = phrases.ALL_STATEMENTS if plural else phrases.STATEMENTS
        if phrase.startswith("the ") and not plural:
            statements += phrases.DEFINITE_QUESTIONS
        sentence, polite = _choice(statements, rng), phrases.POLITE_STATEMENTS
    if rng.random() < 0.12:
        sentence = _choice(polite, rng).format(sentence)
    return sentence.format(phrase)


def _with_article(noun: str, rng: np.random.Generator) -> str:
    return phrases.DEFINITE[0].format(noun) if rng.random() < 0.75 else phrases.an(noun)


def _noun(category: str, rng: np.random.Generator) -> str:
    """The category's name, now and then another word for it."""
    if category in phrases.SYNONYMS and rng.random() < 0.1:
        return _choice(phrases.SYNONYMS[category], rng)
    return category


# --- category, attribute, color ---------------------------------------------------------------------------


def _category(view: _View, rng: np.random.Generator) -> _Draft | None:
    singles = [o for group in view.by_category().values() if (o := view.only_clear(group))]
    if not singles:
        return None
    target = _choice(singles, rng)
    phrase = _with_article(_noun(target.category, rng), rng)
    return _Draft(phrase, (target,), phrases.an(target.category), phrases.REASONS["only"], [target])


def _attribute(view: _View, rng: np.random.Generator) -> _Draft | None:
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
    target, group = _choice(options, rng)
    colored = _choice(phrases.COLORED_NOUNS, rng).format(color=target.color, noun=_noun(target.category, rng))
    return _Draft(
        _with_article(colored, rng),
        (target,),
        phrases.an(f"{target.color} {target.category}"),
        phrases.REASONS["color"].format(color=target.color),
        group,
    )


def _color(view: _View, rng: np.random.Generator) -> _Draft | None:
    singles = [o for group in view.by_color().values() if (o := view.only_clear(group))]
    if not singles:
        return None
    target = _choice(singles, rng)
    phrase = _with_article(f"{target.color} {_choice(phrases.ANY_OBJECT, rng)}", rng)
    goal = phrases.an(f"{target.color} {phrases.ANY_OBJECT[0]}")
    return _Draft(phrase, (target,), goal, phrases.REASONS["only"], [target])


# --- relation, nearest, between ---------------------------------------------------------------------------


def _relation(view: _View, rng: np.random.Generator) -> _Draft | None:
    anchors = view.anchor_names(rng)
    for color, noun, members in _relation_groups(view, rng):
        for anchor, name in anchors:
            if anchor.category == noun:
                continue
            group = [o for o in members if o is not anchor]
            for relation in _shuffled(phrases.RELATIONS, rng):
                target = _related(view, group, anchor, relation)
                if target is None:
                    continue
                in_depth = relation in ("front", "behind")
                if in_depth and not all(_sayable(o.forward) for o in (anchor, *group)):
                    continue
                of_any_category = noun in phrases.ANY_OBJECT
                spoken = _choice(phrases.ANY_OBJECT, rng) if of_any_category else _noun(noun, rng)
                phrase = _choice(phrases.RELATION_FORMS, rng).format(
                    noun=f"{color} {spoken}".strip(),
                    relation=_choice(phrases.RELATIONS[relation], rng),
                    anchor=name,
                )
                return _Draft(
                    phrase,
                    (target,),
                    phrases.an(f"{color} {noun}".strip()),
                    phrases.REASONS[relation].format(anchor=name),
                    group,
                    anchors=[anchor],
                    measure=_forward if in_depth else None,
                    anchors_measured=in_depth,
                )
    return None


def _relation_groups(view: _View, rng: np.random.Generator) -> list[tuple[str, str, list[SceneObject]]]:
    """What a relation can pick from, in random order: (color or "", noun, the objects these words cover).

    Mostly groups of several come first, so that the relation decides, then everything in sight ("object").
    """
    groups: list[tuple[str, str, list[SceneObject]]] = []
    for category, group in view.by_category().items():
        if rng.random() < 0.25:
            for color in sorted({o.color for o in group}):
                groups.append((color, category, [o for o in group if o.color == color]))
        else:
            groups.append(("", category, group))
    groups = _shuffled(groups, rng)
    if rng.random() < 0.15:
        return groups
    several = [group for group in groups if len(group[2]) > 1]
    single = [group for group in groups if len(group[2]) == 1]
    everything = ("", phrases.ANY_OBJECT[0], list(view.seen))
    return [*several, everything, *single] if rng.random() < 0.6 else [*several, *single, everything]


def _related(
    view: _View, group: Sequence[SceneObject], anchor: SceneObject, relation: str
) -> SceneObject | None:
    """The group's only member that stands in the relation, the others clearly on the other side."""
    if not group:
        return None
    leads = _leads(view, group, anchor, relation)
    margin = view.side_margin if relation in ("left", "right") else DEPTH_MARGIN
    lead, target = max(zip(leads, group, strict=True), key=lambda pair: pair[0])
    if lead < margin or sum(value > -margin for value in leads) > 1 or not view.is_clear(target):
        return None
    # People say it where the relation's own direction prevails, not of something far off to the side.
    if relation in ("left", "right"):
        across = abs(view.center[anchor.index][1] - view.center[target.index][1])
    else:
        across = abs(anchor.lateral - target.lateral)
    return target if lead >= PREVAILING * across else None


def _leads(
    view: _View, group: Sequence[SceneObject], anchor: SceneObject, relation: str
) -> list[float]:
    """How far each of the group stands on the relation's side of the anchor: pixels or meters, negative on
    the other side."""
    if relation in ("left", "right"):
        sign = 1 if relation == "left" else -1
        return [sign * (view.x(anchor) - view.x(o)) for o in group]
    sign = 1 if relation == "front" else -1
    return [sign * (anchor.forward - o.forward) for o in group]


def _nearest(view: _View, rng: np.random.Generator) -> _Draft | None:
    anchors = view.anchor_names(rng)
    nouns: list[str] = _shuffled((c for c, group in view.by_category().items() if len(group) > 1), rng)
    nouns.insert(0 if rng.random() < 0.25 else len(nouns), phrases.ANY_OBJECT[0])
    for noun in nouns:
        of_any_category = noun in phrases.ANY_OBJECT
        for anchor, name in anchors:
            if anchor.category == noun:
                continue
            group = [o for o in view.seen if o is not anchor] if of_any_category else view.of_category(noun)
            if len(group) < 2:
                continue

            def to_anchor(o: SceneObject, anchor: SceneObject = anchor) -> float:
                return _table_distance(o, anchor)

            ranked = sorted(group, key=to_anchor)
            gap = to_anchor(ranked[1]) - to_anchor(ranked[0])
            if gap < NEAREST_MARGIN or not view.is_clear(ranked[0]) or not _sayable(to_anchor(ranked[-1])):
                continue
            forms: tuple[str, ...] = phrases.NEAREST
            first, second = to_anchor(ranked[0]), to_anchor(ranked[1])
            if first <= NEXT_TO_DISTANCE and second >= NEXT_TO_RATIO * first:
                forms += phrases.NEXT_TO
            spoken = _choice(phrases.ANY_OBJECT, rng) if of_any_category else _noun(noun, rng)
            return _Draft(
                _choice(forms, rng).format(noun=spoken, anchor=name),
                (ranked[0],),
                phrases.an(noun),
                phrases.REASONS["nearest"].format(anchor=name),
                ranked,
                anchors=[anchor],
                measure=to_anchor,
            )
    return None


def _between(view: _View, rng: np.random.Generator) -> _Draft | None:
    anchors = view.anchor_names(rng)
    if len(anchors) < 2 or len(view.seen) < 3:
        return None
    pairs = [(i, j) for i in range(len(anchors)) for j in range(i + 1, len(anchors))]
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    places = np.array([a.position[:2] for a, _ in anchors])
    # Where each object lies along (0 at one anchor, 1 at the other) and off (meters) each pair's segment.
    start = places[first]
    segment = places[second] - start
    length = np.maximum(np.hypot(segment[:, 0], segment[:, 1]), 1e-6)
    offset = np.array([o.position[:2] for o in view.seen])[None] - start[:, None]
    along = (offset * segment[:, None]).sum(-1) / length[:, None] ** 2
    off = (
        np.abs(segment[:, None, 0] * offset[..., 1] - segment[:, None, 1] * offset[..., 0]) / length[:, None]
    )
    inside = (np.abs(along - 0.5) <= 0.3) & (off <= np.minimum(0.2 * length, 0.08)[:, None])
    inside &= (length > 0.15)[:, None]
    arguable = (np.abs(along - 0.5) < 0.48) & (off < 0.4 * length[:, None])

    for pair, k in _shuffled(np.argwhere(inside).tolist(), rng):
        (a, name), (b, other) = anchors[pairs[pair][0]], anchors[pairs[pair][1]]
        target = view.seen[k]
        if (
            target is a
            or target is b
            or not view.is_clear(target)
            or not _between_in_image(view, a, target, b)
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
        noun = _choice(phrases.ANY_OBJECT, rng) if of_any_category else _noun(spoken, rng)
        return _Draft(
            _choice(phrases.BETWEEN, rng).format(noun=noun, anchor=name, other=other),
            (target,),
            phrases.an(spoken),
            phrases.REASONS["between"].format(anchor=name, other=other),
            [target] if of_any_category else view.of_category(target.category),
            anchors=[a, b],
        )
    return None


def _between_in_image(view: _View, a: SceneObject, target: SceneObject, b: SceneObject) -> bool:
    (ax, ay), (tx, ty), (bx, by) = (view.center[o.index] for o in (a, target, b))
    length = (bx - ax) ** 2 + (by - ay) ** 2
    return length > 0 and 0.1 <= ((tx - ax) * (bx - ax) + (ty - ay) * (by - ay)) / length <= 0.9


# --- superlatives, size -----------------------------------------------------------------------------------


def _extreme(view: _View, group: Sequence[SceneObject], word: str) -> list[SceneObject] | None:
    """The group from the most to the least `word` ("leftmost", "smallest"...) if the first is clearly so."""
    if len(group) < 2:
        return None
    key: Measure
    if word in ("leftmost", "rightmost"):
        key, margin = view.x, view.side_margin
    elif word in ("closest", "farthest"):
        key, margin = _distance, DISTANCE_MARGIN
        if not all(_sayable(o.distance) for o in group):
            return None
    else:
        key = _extent
        if any(o.visible_fraction < MIN_JUDGED_FRACTION or not _sayable(o.extent) for o in group):
            return None
        margin = 0.0
    ranked = sorted(group, key=key, reverse=word in ("rightmost", "farthest", "largest"))
    best, second = key(ranked[0]), key(ranked[1])
    if word in ("largest", "smallest"):
        margin = SIZE_MARGIN * min(best, second)
        if _centimeters(best) == _centimeters(second):
            return None
    return ranked if abs(best - second) >= margin and view.is_clear(ranked[0]) else None


def _measure_of(word: str) -> Measure | None:
    if word in ("leftmost", "rightmost"):
        return None
    return _distance if word in ("closest", "farthest") else _extent


def _superlative(view: _View, rng: np.random.Generator) -> _Draft | None:
    groups = _shuffled(((c, group) for c, group in view.by_category().items() if len(group) > 1), rng)
    groups.insert(0 if rng.random() < 0.3 else len(groups), (phrases.ANY_OBJECT[0], list(view.seen)))
    for noun, group in groups:
        for word in _shuffled(("leftmost", "rightmost", "closest", "farthest"), rng):
            ranked = _extreme(view, group, word)
            if ranked is not None:
                return _superlative_draft(noun, ranked, word, rng)
    return None


def _size(view: _View, rng: np.random.Generator) -> _Draft | None:
    groups = _shuffled(view.by_category().items(), rng)
    for noun, group in groups:
        for word in _shuffled(("largest", "smallest"), rng):
            ranked = _extreme(view, group, word)
            if ranked is not None:
                return _superlative_draft(noun, ranked, word, rng)
    return None


def _superlative_draft(noun: str, ranked: list[SceneObject], word: str, rng: np.random.Generator) -> _Draft:
    of_any_category = noun in phrases.ANY_OBJECT
    forms = phrases.SUPERLATIVES[word]
    if len(ranked) == 2 and not of_any_category:
        forms += phrases.COMPARATIVES[word]
    spoken = _choice(phrases.ANY_OBJECT, rng) if of_any_category else _noun(noun, rng)
    return _Draft(
        _choice(forms, rng).format(noun=spoken),
        (ranked[0],),
        phrases.an(noun),
        phrases.REASONS["superlative"].format(superlative=word),
        # Which of all objects is leftmost shows at a glance; listing four of ten would not decide it.
        ranked[:1] if of_any_category and word in ("leftmost", "rightmost") else ranked,
        measure=_measure_of(word),
    )


# --- functions --------------------------------------------------------------------------------------------


def _affordances(view: _View) -> list[tuple[phrases.Affordance, list[SceneObject]]]:
    """What can be asked for without argument, and the objects that serve it."""
    present = view.by_category()
    options = []
    for affordance in phrases.AFFORDANCES:
        if not any(category in present for category in affordance.arguable):
            group = [o for category in affordance.categories for o in present.get(category, ())]
            if group:
                options.append((affordance, group))
    return options


def _either(affordance: phrases.Affordance) -> str:
    categories = affordance.categories
    return categories[0] if len(categories) == 1 else phrases.OR.format(*categories)


def _function_goal(affordance: phrases.Affordance) -> str:
    return f"{phrases.an(_either(affordance))} {affordance.purpose}"


def _function(view: _View, rng: np.random.Generator) -> _Draft | None:
    options = [(affordance, o) for affordance, group in _affordances(view) if (o := view.only_clear(group))]
    if not options:
        return None
    affordance, target = _choice(options, rng)
    sentence = bool(affordance.questions) and rng.random() < 0.15
    return _Draft(
        _choice(affordance.questions if sentence else affordance.phrases, rng),
        (target,),
        _function_goal(affordance),
        phrases.REASONS["only"],
        [target],
        sentence=sentence,
    )


def _function_modified(view: _View, rng: np.random.Generator) -> _Draft | None:
    options = [option for option in _affordances(view) if len(option[1]) > 1]
    for affordance, group in _shuffled(options, rng):
        for modifier in _shuffled(phrases.FUNCTION_MODIFIERS, rng):
            color, measure, ranked = "", None, group
            if modifier == "color":
                target = _only_of_its_color(view, group, rng)
                if target is None:
                    continue
                color = target.color
                reason = phrases.REASONS["color"].format(color=color)
            elif modifier == "not_color":
                odd = _odd_one(view, group, lambda o: o.color, rng)
                if odd is None:
                    continue
                target, color = odd
                reason = phrases.REASONS["not_color"].format(color=color)
            else:
                extreme = _extreme(view, group, modifier)
                if extreme is None:
                    continue
                ranked, target, measure = extreme, extreme[0], _measure_of(modifier)
                reason = phrases.REASONS["superlative"].format(superlative=modifier)
            phrase = _choice(phrases.FUNCTION_MODIFIERS[modifier], rng).format(
                f=_choice(affordance.phrases, rng), color=color
            )
            return _Draft(phrase, (target,), _function_goal(affordance), reason, ranked, measure=measure)
    return None


def _only_of_its_color(
    view: _View, group: Sequence[SceneObject], rng: np.random.Generator
) -> SceneObject | None:
    colors = [o.color for o in group]
    options = [o for o in group if colors.count(o.color) == 1 and view.is_clear(o)]
    return _choice(options, rng) if options else None


# --- negation ---------------------------------------------------------------------------------------------


def _odd_one(
    view: _View, group: Sequence[SceneObject], trait: Callable[[SceneObject], str], rng: np.random.Generator
) -> tuple[SceneObject, str] | None:
    """The group's only member that lacks a trait all others share, and that trait."""
    for target in _shuffled(group, rng):
        others = {trait(o) for o in group if o is not target}
        if len(others) == 1 and trait(target) not in others and view.is_clear(target):
            return target, others.pop()
    return None


def _negation(view: _View, rng: np.random.Generator) -> _Draft | None:
    groups = [(False, group) for group in view.by_category().values() if len(group) > 1]
    groups += [(True, group) for group in view.by_color().values() if len(group) > 1]
    groups = _shuffled(groups, rng)
    # "The cup that is not red" is commoner than "the red thing that is not a cup".
    colors_first = rng.random() < 0.3
    groups.sort(key=lambda option: option[0] != colors_first)
    for of_color, group in groups:
        odd = _odd_one(view, group, (lambda o: o.category) if of_color else (lambda o: o.color), rng)
        if odd is None:
            continue
        target, excluded = odd
        if of_color:
            phrase = _choice(phrases.NOT_CATEGORY, rng).format(
                color=target.color, noun=_choice(phrases.ANY_OBJECT, rng), category=phrases.an(excluded)
            )
            goal = phrases.an(f"{target.color} {phrases.ANY_OBJECT[0]}")
            reason = phrases.REASONS["not_category"].format(category=phrases.an(excluded))
        else:
            forms = phrases.NOT_COLOR + (phrases.NOT_COLOR_OF_TWO if len(group) == 2 else ())
            phrase = _choice(forms, rng).format(color=excluded, noun=_noun(target.category, rng))
            goal = phrases.an(target.category)
            reason = phrases.REASONS["not_color"].format(color=excluded)
        return _Draft(phrase, (target,), goal, reason, group)
    return None


# --- all of them ------------------------------------------------------------------------------------------


def _all_of(view: _View, rng: np.random.Generator) -> _Draft | None:
    for build in _weighted_order(_SETS, rng):
        draft = build(view, rng)
        if draft is not None:
            return draft
    return None


def _askable(view: _View, group: Sequence[SceneObject]) -> bool:
    """Whether the group can be asked for as a whole."""
    return 1 <= len(group) <= MAX_SET and all(view.is_clear(o) for o in group)


def _set_choice(options: list[T], size: Callable[[T], int], rng: np.random.Generator) -> T | None:
    """One of the options, mostly one of several objects."""
    several = [option for option in options if size(option) > 1]
    if several and rng.random() < 0.85:
        options = several
    return _choice(options, rng) if options else None


def _plural(noun: str) -> str:
    return phrases.PLURALS[noun] if noun in phrases.PLURALS else noun + "s"


def _all_phrase(color: str, noun: str, rng: np.random.Generator) -> str:
    """noun: a category or "object", in the singular."""
    spoken = _choice(phrases.ANY_OBJECT, rng) if noun in phrases.ANY_OBJECT else _noun(noun, rng)
    plural = _plural(spoken)
    if color:
        plural = _choice(phrases.ALL_COLORED, rng).format(color=color, noun=plural)
        spoken = f"{color} {spoken}"
        if noun in phrases.ANY_OBJECT and rng.random() < 0.3:
            return _choice(phrases.EVERYTHING_COLORED, rng).format(color=color)
    return _choice(phrases.ALL_OF, rng).format(plural=plural, noun=spoken)


def _all_goal(color: str, noun: str) -> str:
    return phrases.ALL_GOAL.format(f"{color} {phrases.PLURALS[noun]}".strip())


def _all_reason(count: int) -> str:
    return phrases.REASONS["all"] if count > 1 else phrases.REASONS["only"]


def _all_of_category(view: _View, rng: np.random.Generator) -> _Draft | None:
    groups = [group for group in view.by_category().values() if _askable(view, group)]
    group = _set_choice(groups, len, rng)
    if group is None:
        return None
    noun = group[0].category
    return _Draft(
        _all_phrase("", noun, rng), group, _all_goal("", noun), _all_reason(len(group)), group, plural=True
    )


def _all_of_color(view: _View, rng: np.random.Generator) -> _Draft | None:
    groups = [group for group in view.by_color().values() if _askable(view, group)]
    group = _set_choice(groups, len, rng)
    if group is None:
        return None
    color, noun = group[0].color, phrases.ANY_OBJECT[0]
    phrase, goal = _all_phrase(color, noun, rng), _all_goal(color, noun)
    return _Draft(phrase, group, goal, _all_reason(len(group)), group, plural=True)


def _all_of_colored_category(view: _View, rng: np.random.Generator) -> _Draft | None:
    options = []
    for group in view.by_category().values():
        for color in sorted({o.color for o in group}):
            targets = [o for o in group if o.color == color]
            if len(targets) < len(group) <= MAX_SET and _askable(view, targets):
                options.append((targets, group))
    option = _set_choice(options, lambda option: len(option[0]), rng)
    if option is None:
        return None
    targets, group = option
    color, noun = targets[0].color, targets[0].category
    reason = phrases.REASONS["colors" if len(targets) > 1 else "color"].format(color=color)
    return _Draft(_all_phrase(color, noun, rng), targets, _all_goal(color, noun), reason, group, plural=True)


def _all_of_two(view: _View, rng: np.random.Generator) -> _Draft | None:
    groups = _shuffled((g for g in view.by_category().values() if _askable(view, g)), rng)
    for first, second in zip(groups, groups[1:], strict=False):
        group = [*first, *second]
        if len(group) > MAX_SET:
            continue
        nouns = first[0].category, second[0].category
        plurals = [_plural(_noun(noun, rng)) for noun in nouns]
        phrase = _choice(phrases.ALL_OF_TWO, rng).format(first=plurals[0], second=plurals[1])
        goal = phrases.ALL_GOAL.format(phrases.AND.format(*(phrases.PLURALS[noun] for noun in nouns)))
        return _Draft(phrase, group, goal, phrases.REASONS["all"], group, plural=True)
    return None


def _all_serving(affordance: phrases.Affordance, rng: np.random.Generator) -> str:
    """The affordance's phrase, for all that serve it; "" where it has none that can be turned so."""
    turned = [
        phrase.replace(one, every, 1)
        for phrase in affordance.phrases
        for one, every in phrases.ALL_SERVING.items()
        if phrase.startswith(one)
    ]
    return _choice(turned, rng) if turned else ""


def _all_function_goal(affordance: phrases.Affordance) -> str:
    plurals = [phrases.PLURALS[category] for category in affordance.categories]
    named = plurals[0] if len(plurals) == 1 else phrases.AND.format(*plurals)
    return phrases.ALL_GOAL.format(f"{named} {affordance.purpose}")


def _all_of_function(view: _View, rng: np.random.Generator) -> _Draft | None:
    options = [option for option in _affordances(view) if _askable(view, option[1])]
    option = _set_choice(options, lambda option: len(option[1]), rng)
    if option is None or not (phrase := _all_serving(option[0], rng)):
        return None
    affordance, group = option
    return _Draft(
        phrase, group, _all_function_goal(affordance), _all_reason(len(group)), group, plural=True
    )


def _all_of_relation(view: _View, rng: np.random.Generator) -> _Draft | None:
    """All that clearly stand in a relation to an anchor; whatever else the noun covers clearly does not."""
    return _sided(view, rng, wanted=True)


def _sided(view: _View, rng: np.random.Generator, *, wanted: bool) -> _Draft | None:
    """A relation in which some of a group stand (asks for all of them), or, not `wanted`, none of it."""
    anchors = view.anchor_names(rng)
    for color, noun, members in _relation_groups(view, rng):
        for anchor, name in anchors:
            group = [o for o in members if o is not anchor]
            if anchor.category == noun or not _askable(view, group):
                continue
            alike = [o for c in phrases.LOOK_ALIKES.get(noun, ()) for o in view.of_category(c)]
            similar = [o for o in alike if o is not anchor]
            for relation in _shuffled(phrases.RELATIONS, rng):
                targets = _on_the_side(view, group, anchor, relation)
                in_depth = relation in ("front", "behind")
                if targets is None or bool(targets) != wanted:
                    continue
                if not wanted and _on_the_side(view, similar, anchor, relation) != []:
                    continue
                if in_depth and not all(_sayable(o.forward) for o in (anchor, *group)):
                    continue
                plural = wanted or rng.random() < 0.25
                said = _choice(phrases.RELATIONS[relation], rng)
                condition = phrases.REASONS[relation].format(anchor=name)
                if plural:
                    phrase = f"{_all_phrase(color, noun, rng)} {said} {name}"
                    goal = _all_goal(color, noun)
                else:
                    any_object = noun in phrases.ANY_OBJECT
                    spoken = _choice(phrases.ANY_OBJECT, rng) if any_object else _noun(noun, rng)
                    phrase = _choice(phrases.RELATION_FORMS, rng).format(
                        noun=f"{color} {spoken}".strip(), relation=said, anchor=name
                    )
                    goal = phrases.an(f"{color} {noun}".strip())
                return _Draft(
                    phrase,
                    targets,
                    goal,
                    condition if wanted else phrases.REASONS["none"].format(condition=condition),
                    group,
                    anchors=[anchor],
                    measure=_forward if in_depth else None,
                    anchors_measured=in_depth,
                    plural=plural,
                )
    return None


def _on_the_side(
    view: _View, group: Sequence[SceneObject], anchor: SceneObject, relation: str
) -> list[SceneObject] | None:
    """The group's members that stand in the relation; None where that is not clear of each by the margin."""
    leads = _leads(view, group, anchor, relation)
    margin = view.side_margin if relation in ("left", "right") else DEPTH_MARGIN
    if any(abs(lead) < margin for lead in leads):
        return None
    return [o for o, lead in zip(group, leads, strict=True) if lead > 0]


_SETS: dict[Callable[[_View, np.random.Generator], _Draft | None], float] = {
    _all_of_category: 0.3,
    _all_of_color: 0.2,
    _all_of_colored_category: 0.15,
    _all_of_function: 0.15,
    _all_of_relation: 0.12,
    _all_of_two: 0.08,
}


# --- what is not there ------------------------------------------------------------------------------------


def _none(view: _View, rng: np.random.Generator) -> _Draft | None:
    for build in _weighted_order(_ABSENCES, rng):
        draft = build(view, rng)
        if draft is not None:
            return draft
    return None


def _absent_category(view: _View, rng: np.random.Generator) -> _Draft | None:
    present = view.by_category()
    absent = [
        category
        for category in CATEGORIES
        if not any(c in present for c in (category, *phrases.LOOK_ALIKES.get(category, ())))
    ]
    if not absent:
        return None
    noun = _choice(absent, rng)
    color = _choice(training_colors(noun), rng) if rng.random() < 0.3 else ""
    return _missing(view, color, noun, phrases.REASONS["absent"].format(goal=noun), (), rng)


def _absent_color_of_category(view: _View, rng: np.random.Generator) -> _Draft | None:
    for noun, group in _shuffled(view.by_category().items(), rng):
        if not _askable(view, group):
            continue
        similar = [*group, *(o for c in phrases.LOOK_ALIKES.get(noun, ()) for o in view.of_category(c))]
        # Of the held-out pairs nothing is ever said, not even that they are not there.
        colors = [color for color in training_colors(noun) if all(o.color != color for o in similar)]
        if colors:
            color = _choice(colors, rng)
            return _missing(view, color, noun, phrases.REASONS["none"].format(condition=color), group, rng)
    return None


def _absent_color(view: _View, rng: np.random.Generator) -> _Draft | None:
    absent = [color for color in COLORS if color not in view.by_color()]
    if not absent:
        return None
    color, noun = _choice(absent, rng), phrases.ANY_OBJECT[0]
    return _missing(view, color, noun, phrases.REASONS["absent"].format(goal=f"{color} {noun}"), (), rng)


def _absent_world(view: _View, rng: np.random.Generator) -> _Draft | None:
    noun = _choice(phrases.STRANGE_NOUNS, rng)
    color = _choice(COLORS, rng) if rng.random() < 0.2 else ""
    return _missing(view, color, noun, phrases.REASONS["strange"], (), rng)


def _missing(
    view: _View, color: str, noun: str, reason: str, group: Sequence[SceneObject], rng: np.random.Generator
) -> _Draft:
    """Asks for a thing that is not there, in one of the forms in which people ask for things."""
    strange, any_object = noun in phrases.STRANGE_NOUNS, noun in phrases.ANY_OBJECT
    goal = phrases.STRANGE_GOAL if strange else phrases.an(f"{color} {noun}".strip())
    draw = rng.random()
    if draw < 0.15:
        goal = goal if strange else _all_goal(color, noun)
        return _Draft(_all_phrase(color, noun, rng), (), goal, reason, group, plural=True)
    spoken = _choice(phrases.ANY_OBJECT, rng) if any_object else _noun(noun, rng)
    anchors = view.anchor_names(rng) if draw < 0.35 else []
    anchors = [(anchor, name) for anchor, name in anchors if anchor not in group]
    if anchors:
        spoken = f"{color} {spoken}".strip()
        anchor, name = anchors[0]
        relation = _choice(phrases.RELATIONS[_choice(tuple(phrases.RELATIONS), rng)], rng)
        form = _choice((*phrases.RELATION_FORMS, *phrases.NEAREST), rng)
        phrase = form.format(noun=spoken, relation=relation, anchor=name)
        return _Draft(phrase, (), goal, reason, group, anchors=[anchor])
    if draw < 0.47:
        words = [w for w in phrases.SUPERLATIVES if not any_object or w not in ("largest", "smallest")]
        form = _choice(phrases.SUPERLATIVES[_choice(words, rng)], rng)
        return _Draft(form.format(noun=f"{color} {spoken}".strip()), (), goal, reason, group)
    if color:
        forms = ("{color} {noun}",) if any_object else phrases.COLORED_NOUNS
        spoken = _choice(forms, rng).format(color=color, noun=spoken)
    return _Draft(_with_article(spoken, rng), (), goal, reason, group)


def _absent_function(view: _View, rng: np.random.Generator) -> _Draft | None:
    present = view.by_category()
    absent = [
        affordance
        for affordance in phrases.AFFORDANCES
        if not any(c in present for c in affordance.categories + affordance.arguable + affordance.makeshift)
    ]
    if not absent:
        return None
    affordance = _choice(absent, rng)
    reason = phrases.REASONS["absent"].format(goal=_either(affordance))
    draw = rng.random()
    if draw < 0.15 and (phrase := _all_serving(affordance, rng)):
        return _Draft(phrase, (), _all_function_goal(affordance), reason, (), plural=True)
    goal = _function_goal(affordance)
    if draw < 0.3 and affordance.questions:
        return _Draft(_choice(affordance.questions, rng), (), goal, reason, (), sentence=True)
    phrase = _choice(affordance.phrases, rng)
    if draw > 0.85:
        modifier = _choice(("leftmost", "rightmost", "closest", "farthest"), rng)
        phrase = _choice(phrases.FUNCTION_MODIFIERS[modifier], rng).format(f=phrase)
    return _Draft(phrase, (), goal, reason, ())


def _absent_color_of_function(view: _View, rng: np.random.Generator) -> _Draft | None:
    for affordance, group in _shuffled(_affordances(view), rng):
        makeshift = any(c in affordance.makeshift for c in view.by_category())
        if makeshift or not _askable(view, group):
            continue
        common = set.intersection(*(set(training_colors(c)) for c in affordance.categories))
        colors = sorted(common - {o.color for o in group})
        if colors:
            color = _choice(colors, rng)
            phrase = _choice(phrases.FUNCTION_MODIFIERS["color"], rng).format(
                f=_choice(affordance.phrases, rng), color=color
            )
            reason = phrases.REASONS["none"].format(condition=color)
            return _Draft(phrase, (), _function_goal(affordance), reason, group)
    return None


def _absent_relation(view: _View, rng: np.random.Generator) -> _Draft | None:
    return _sided(view, rng, wanted=False)


_ABSENCES: dict[Callable[[_View, np.random.Generator], _Draft | None], float] = {
    _absent_category: 0.25,
    _absent_color_of_category: 0.25,
    _absent_color: 0.12,
    _absent_world: 0.06,
    _absent_function: 0.12,
    _absent_color_of_function: 0.06,
    _absent_relation: 0.14,
}


_BUILDERS: dict[str, Callable[[_View, np.random.Generator], _Draft | None]] = {
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
    "all_of": _all_of,
    "none": _none,
}
