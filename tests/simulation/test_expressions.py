"""An independent listener parses each expression and finds its only right answer in the scene."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter

import numpy as np
import pytest
from listeners import (
    CATEGORY,
    COLOR,
    STRANGE,
    TOKEN,
    DoubtingListener,
    Listener,
    SetListener,
    flipped,
    make_object,
    random_scene,
    samples,
)

from lens_ros.simulation.catalog import CATEGORIES, COLORS, HELD_OUT_PAIRS
from lens_ros.simulation.expressions import (
    KINDS,
    SIMPLE_KINDS,
    SINGLE_KINDS,
    Expression,
    sample_expression,
    vocabulary,
)
from lens_ros.simulation.scene import SceneObject

# --- the answer is right ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SINGLE_KINDS)
def test_a_listener_finds_the_target_and_no_other(kind: str) -> None:
    for objects, size, expression in samples(400, seed=1, kind=kind):
        assert expression.kind == kind
        found = Listener(objects, size).understand(expression)
        assert (found.index,) == expression.targets, expression
        width, height = size
        assert found.visible_fraction >= 0.45
        assert found.area >= 70 * width * height / 256**2


@pytest.mark.parametrize("kind", SINGLE_KINDS)
def test_the_mirror_image_swaps_left_and_right_and_nothing_else(kind: str) -> None:
    swap = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
    for objects, size, expression in samples(150, seed=2, kind=kind):
        text = re.sub(r"\b(left|right)(most)?\b", lambda match: swap[match[0]], expression.text)
        mirrored = dataclasses.replace(expression, text=text)
        assert (Listener(flipped(objects, size[0]), size).understand(mirrored).index,) == expression.targets


def test_all_of_means_everything_that_fits_and_nothing_else() -> None:
    counts: Counter[int] = Counter()
    for objects, size, expression in samples(1200, seed=11, kind="all_of"):
        found = SetListener(objects, size).understand_all(expression)
        assert tuple(o.index for o in found) == expression.targets, expression
        assert all(o.visible_fraction >= 0.45 for o in found)
        assert all(o.area >= 70 * size[0] * size[1] / 256**2 for o in found)
        counts[len(found)] += 1
    assert counts[1] > 100 and counts[2] > 300 and counts[3] > 50


def test_nothing_in_sight_could_pass_for_what_is_not_there() -> None:
    present = 0
    for objects, size, expression in samples(1200, seed=12, kind="none"):
        assert expression.targets == ()
        assert DoubtingListener(objects, size).understand_all(expression) == [], expression
        present += expression.rationale.count("none is")
    assert present > 200  # what is asked for is often there, but not so


def test_what_is_held_out_is_never_said_to_be_missing() -> None:
    for objects, _, expression in samples(3000, seed=13, kind="none"):
        seen = {(o.category, o.color) for o in objects}
        held_out = {f"{color} {category}" for category, color in HELD_OUT_PAIRS - seen}
        goal = expression.rationale.split(" . ")[0].removeprefix("looking for ")
        assert goal.removeprefix("a ") not in held_out
        color = re.search(rf"none is ({COLOR})", expression.rationale)
        assert not color or not any(f"{color[1]} {c}" in held_out for c in CATEGORIES if f" {c} " in goal)


# --- the reasoning is true --------------------------------------------------------------------------------

OBSERVATION = re.compile(rf"({COLOR}) ({CATEGORY}) \( (\d+) (\d+) \)(?: (\d+) cm)?")


def observed(clause: str, objects: tuple[SceneObject, ...], size: tuple[int, int], separator: str):
    """Return the objects that a clause names, with the centimeters that it states for them."""
    found = []
    for item in clause.split(separator):
        match = OBSERVATION.fullmatch(item)
        assert match, f"not an observation: {item!r}"
        color, category, x, y, centimeters = match.groups()
        fitting = [
            o
            for o in objects
            if (o.color, o.category) == (color, category)
            and o.area > 0
            and abs((o.box[0] + o.box[2]) / 2 * 224 / size[0] - int(x)) <= 0.5001
            and abs((o.box[1] + o.box[3]) / 2 * 224 / size[1] - int(y)) <= 0.5001
        ]
        assert fitting, f"no such object: {item!r}"
        found.append((fitting, None if centimeters is None else int(centimeters)))
    return found


def true_centimeters(kind: str, text: str, o: SceneObject, anchor: SceneObject | None) -> float | None:
    if kind == "nearest" and anchor is not None:
        return 100 * math.dist(o.position[:2], anchor.position[:2])
    if kind == "size":
        return 100 * o.extent
    if kind == "relation" and re.search("front|behind", text):
        return 100 * o.forward
    if kind in ("superlative", "function_modified") and re.search(
        r"clos|near|farther|farthest|distant", text
    ):
        return None if re.search("left|right", text) else 100 * o.distance
    return None


@pytest.mark.parametrize("kind", SINGLE_KINDS)
def test_everything_that_the_rationale_states_is_true(kind: str) -> None:
    for objects, size, expression in samples(300, seed=3, kind=kind):
        target = next(o for o in objects if (o.index,) == expression.targets)
        goal, *anchor_clauses, candidates, reason, conclusion = expression.rationale.split(" . ")
        assert conclusion == expression.conclusion and conclusion.startswith("so the ")
        assert target in observed(conclusion.removeprefix("so the "), objects, size, " ; ")[0][0]
        assert goal.startswith("looking for a")

        anchors = [a for clause in anchor_clauses for a in observed(clause, objects, size, " , ")]
        assert len(anchors) == {"relation": 1, "nearest": 1, "between": 2}.get(kind, 0)
        anchor = anchors[0][0][0] if anchors else None
        listed = observed(candidates, objects, size, " ; ")
        assert 1 <= len(listed) <= 4
        for same, stated in listed + (anchors if kind == "relation" else []):
            truths = [true_centimeters(kind, expression.text, o, anchor) for o in same]
            assert any(
                stated is None if truth is None else stated is not None and abs(truth - stated) <= 0.5001
                for truth in truths
            ), expression
        xs = [(o.box[0] + o.box[2]) / 2 for (o, *_), _ in listed]
        assert xs == sorted(xs)
        assert any(target in same for same, _ in listed)


@pytest.mark.parametrize("kind", ["all_of", "none"])
def test_everything_stated_of_several_or_of_nothing_is_true(kind: str) -> None:
    forms: Counter[str] = Counter()
    for objects, size, expression in samples(600, seed=14, kind=kind):
        goal, *clauses, reason, conclusion = expression.rationale.split(" . ")
        assert goal.startswith("looking for a") and conclusion == expression.conclusion
        named = [same for clause in clauses for same, _ in observed_anywhere(clause, objects, size)]
        targets = [o for o in objects if o.index in expression.targets]
        if kind == "none":
            assert conclusion == "so nothing"
            forms[" ".join(reason.split()[:2])] += 1
            continue
        assert all(any(target in same for same in named) for target in targets)
        forms[conclusion.split()[1]] += 1
        if conclusion.startswith("so all"):
            assert conclusion == f"so all {len(targets)}"
            assert len(observed(clauses[-1], objects, size, " ; ")) == len(targets) > 1
        else:
            items = conclusion.replace("so the ", "").replace(", the ", ", ")
            concluded = observed(items, objects, size, " , ")
            assert len(concluded) == len(targets)
            assert all(t in same for t, (same, _) in zip(sorted_by_x(targets), concluded, strict=True))
    assert min(forms[form] for form in (("all", "the") if kind == "all_of" else ("none is", "no such"))) > 20


def observed_anywhere(clause: str, objects: tuple[SceneObject, ...], size: tuple[int, int]):
    return observed(clause.replace(" , ", " ; "), objects, size, " ; ")


def sorted_by_x(objects: list[SceneObject]) -> list[SceneObject]:
    return sorted(objects, key=lambda o: (o.box[0] + o.box[2], o.index))


def numbers(clause: str, unit: str) -> dict[str, int]:
    """Return what a clause states for each object: its x coordinate ("x") or its centimeters ("cm")."""
    return {m[0]: int(m[3 if unit == "x" else 5]) for m in OBSERVATION.finditer(clause)}


@pytest.mark.parametrize("kind", ["nearest", "superlative", "size", "function_modified", "relation"])
def test_the_stated_numbers_alone_decide(kind: str) -> None:
    decided = 0
    for _, _, expression in samples(300, seed=4, kind=kind):
        *_, candidates, reason, conclusion = expression.rationale.split(" . ")
        named = conclusion.removeprefix("so the ")
        best = re.search("(nearest|closest|smallest|leftmost|farthest|largest|rightmost)", reason)
        if kind == "relation":
            unit = "cm" if reason.startswith(("in front", "behind")) else "x"
            [border] = numbers(expression.rationale.split(" . ")[1], unit).values()
            below = reason.startswith(("in front", "left"))
            answers = [item for item, n in numbers(candidates, unit).items() if (n < border) == below]
        elif best:
            values = numbers(candidates, "x" if best[1].endswith("most") else "cm")
            low = best[1] in ("nearest", "closest", "smallest", "leftmost")
            extreme = min(values.values()) if low else max(values.values())
            answers = [item for item, n in values.items() if n == extreme]
        else:
            continue
        decided += 1
        assert len(answers) == 1 and answers[0].startswith(named), expression
    assert decided > 100


# --- words and numbers ------------------------------------------------------------------------------------


def test_only_vocabulary_small_numbers_and_known_punctuation() -> None:
    allowed = {*vocabulary(), *(str(n) for n in range(256)), *",;.()"}
    used: Counter[str] = Counter()
    lengths = []
    kinds = [None] * 12_000 + ["all_of", "none"] * 3000
    for expression in (e for kind in set(kinds) for _, _, e in samples(kinds.count(kind), seed=5, kind=kind)):
        text, rationale = TOKEN.findall(expression.text), expression.rationale.split(" ")
        assert set(text) <= {*vocabulary(), ",", *STRANGE}, expression.text
        assert set(rationale) <= allowed, expression.rationale
        assert TOKEN.findall(expression.rationale) == rationale
        used.update(text + rationale)
        lengths.append(len(rationale))
    assert np.mean(lengths) <= 45 and max(lengths) <= 100
    assert set(vocabulary()) <= used.keys(), "words that nobody says"


def test_vocabulary_is_small_sorted_and_names_everything() -> None:
    words = vocabulary()
    assert list(words) == sorted(set(words))
    assert {*CATEGORIES, *COLORS} <= set(words)
    assert len(words) <= 330


@pytest.mark.parametrize("extent", [224, 256, 100])
def test_coordinates_stay_inside_their_extent(extent: int) -> None:
    rng = np.random.default_rng(6)
    for box in ((0, 0, 1, 1), (319, 239, 320, 240)):
        mug = make_object(1, "mug", "red", box=box)
        expression = sample_expression((mug,), (320, 240), rng, kind="category", coordinate_extent=extent)
        assert expression is not None
        x, y = (int(n) for n in re.findall(r"\d+", expression.conclusion))
        assert 0 <= x < extent and 0 <= y < extent
        assert abs(x - (box[0] + 0.5) * extent / 320) <= 1 and abs(y - (box[1] + 0.5) * extent / 240) <= 1


# --- chance -----------------------------------------------------------------------------------------------


def test_the_same_state_of_chance_says_the_same() -> None:
    objects = random_scene(np.random.default_rng(7), (320, 240))
    first = [sample_expression(objects, (320, 240), np.random.default_rng(s)) for s in range(50)]
    again = [sample_expression(objects, (320, 240), np.random.default_rng(s)) for s in range(50)]
    assert first == again and len(set(first)) > 20


def test_every_kind_is_said_about_evenly_where_the_scene_permits_all() -> None:
    def placed(index: int, category: str, color: str, x: float, y: float, extent: float) -> SceneObject:
        left = 120 + round(300 * x)
        place = {"position": (x, y, 0.0), "lateral": x, "forward": 0.8 + y, "distance": 0.9 + y + abs(x) / 2}
        return make_object(index, category, color, box=(left, 70, left + 30, 100), extent=extent, **place)

    objects = (
        placed(1, "mug", "red", -0.3, 0.1, 0.09),
        placed(2, "mug", "blue", 0.3, 0.0, 0.12),
        placed(3, "plate", "white", -0.2, 0.0, 0.2),
        placed(4, "hammer", "green", 0.0, 0.0, 0.3),
        placed(5, "apple", "red", 0.2, 0.0, 0.07),
    )
    rng = np.random.default_rng(8)
    drawn = [sample_expression(objects, (256, 256), rng) for _ in range(3000)]
    counts = Counter(expression.kind for expression in drawn if expression is not None)
    assert set(counts) == set(SINGLE_KINDS)
    assert max(counts.values()) <= 2.5 * min(counts.values())


def test_rare_kinds_are_found_in_ordinary_scenes() -> None:
    rng = np.random.default_rng(9)
    counts = Counter(expression.kind for _, _, expression in samples(3000, seed=9))
    assert all(counts[kind] > 90 for kind in SINGLE_KINDS), counts
    assert set(SIMPLE_KINDS) < set(SINGLE_KINDS) < set(KINDS)
    assert sample_expression(random_scene(rng, (256, 256)), (256, 256), rng) is not None


# --- what must not be said --------------------------------------------------------------------------------


def said(objects: tuple[SceneObject, ...], kind: str, tries: int = 60) -> list[Expression]:
    rng = np.random.default_rng(10)
    found = (sample_expression(objects, (256, 256), rng, kind=kind) for _ in range(tries))
    return [expression for expression in found if expression is not None]


def test_two_equal_red_mugs_have_no_name() -> None:
    twins = (
        make_object(1, "mug", "red", box=(40, 40, 80, 80)),
        make_object(2, "mug", "red", box=(45, 45, 85, 85)),
    )
    for kind in SINGLE_KINDS:
        assert said(twins, kind) == []
    assert sample_expression(twins, (256, 256), np.random.default_rng(0)) is None


def test_a_sliver_of_a_second_mug_makes_the_first_ambiguous() -> None:
    mug = make_object(1, "mug", "red")
    assert said((mug,), "category")
    sliver = make_object(2, "mug", "blue", box=(0, 0, 2, 2), area=3, visible_fraction=0.01)
    assert not said((mug, sliver), "category")
    hidden = dataclasses.replace(sliver, box=(0, 0, 0, 0), area=0, visible_fraction=0.0)
    assert said((mug, hidden), "category")


@pytest.mark.parametrize("change", [{"area": 60}, {"visible_fraction": 0.4}])
def test_what_is_hardly_visible_is_not_asked_for(change: dict) -> None:
    mug = make_object(1, "mug", "red", **change)
    assert not any(said((mug,), kind) for kind in KINDS if kind != "none")


def test_the_area_that_counts_as_visible_grows_with_the_image() -> None:
    mug = make_object(1, "mug", "red", area=100)
    rng = np.random.default_rng(0)
    assert sample_expression((mug,), (256, 256), rng, kind="category")
    assert sample_expression((mug,), (640, 480), rng, kind="category") is None


def test_sizes_that_read_the_same_in_centimeters_are_not_compared() -> None:
    small, large = make_object(1, "cube", "red", extent=0.0355), make_object(2, "cube", "blue", extent=0.0445)
    assert not said((small, large), "size")
    assert said((small, dataclasses.replace(large, extent=0.0455)), "size")


def test_a_bottle_beside_the_mug_spoils_something_to_drink_from_but_not_coffee() -> None:
    mug, bottle = make_object(1, "mug", "red"), make_object(2, "bottle", "blue")
    texts = [e.text for e in said((mug, bottle), "function", tries=200) if e.targets == (1,)]
    assert texts and all(re.search("coffee|tea", text) for text in texts)
    alone = [e.text for e in said((mug,), "function", tries=200)]
    assert any("something i could drink from" in text for text in alone)


def test_numbers_beyond_255_centimeters_are_not_said() -> None:
    near, far = make_object(1, "mug", "red"), make_object(2, "mug", "blue", distance=3.0)
    assert all("cm" not in e.rationale for e in said((near, far), "superlative"))


# --- arguments --------------------------------------------------------------------------------------------


def test_bad_arguments_are_named() -> None:
    mug, rng = make_object(1, "mug", "red"), np.random.default_rng(0)
    with pytest.raises(ValueError, match="'riddle'.*category, attribute"):
        sample_expression((mug,), (256, 256), rng, kind="riddle")
    with pytest.raises(ValueError, match="image size"):
        sample_expression((mug,), (0, 256), rng)
    with pytest.raises(ValueError, match="coordinate_extent is 500"):
        sample_expression((mug,), (256, 256), rng, coordinate_extent=500)


def test_an_empty_table_leaves_nothing_to_say() -> None:
    assert sample_expression((), (256, 256), np.random.default_rng(0)) is None
