"""Any text is parsed without an exception; forms taught by us and by others are read correctly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lens_ros.model.answer_parsing import Box, extent, parse_answer, tidy
from lens_ros.model.prompts import END, answer, opening

Numbers = tuple[float, float, float, float]
Extent = tuple[float, float]

SQUARE = (100.0, 100.0)
PLACE = Box(0.1, 0.2, 0.3, 0.4)

json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["bbox_2d", "label"]) | st.text(max_size=8), inner, max_size=3)
        | st.lists(st.integers(-50, 300) | st.floats(), min_size=4, max_size=4)
    ),
    max_leaves=12,
)
number = st.integers(-3000, 3000) | st.floats(-3000, 3000) | st.floats(allow_nan=False, allow_infinity=False)
numbers = st.tuples(number, number, number, number)
extents = st.tuples(st.floats(1, 5000), st.floats(1, 5000))
# Pieces that answers are made of, so that random texts come close to real ones.
scrap = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "```json", "```", "[1,2,3,4]", "(1,2,3,4)",
     "(1,2),(3,4)", '{"bbox_2d":[1,2,3,4],"label":"a"}', "[", "]", "{", "}", ",", "<|box_start|>", " ", "\n",
     "\ud800", "NaN"]
)  # fmt: skip
answer_text = st.text() | st.lists(scrap | st.text(max_size=3), max_size=20).map("".join)
# Each would take minutes or more by a pattern that goes back and forth, or a reader that recurses.
LONG = [
    piece * (30_000 // len(piece))
    for piece in (
        "[", "{", '{"bbox_2d":', "9", "a", " ", "[1", "[1,", "[1e", "[1.1", "[ 1 , 2 , 3 , 4 ", "[1,2,3,4]",
        "[1,2,3,4] ", "(1,2,3,4", "(1,2),", "(1,2), ", "\n (", "<", "<|", "``", "```", "```json[]", "<think>",
        "</think>", "<answer>", "<think><answer>", "<think></think><answer>", "</think><answer></answer>",
        "\ud800",
    )
]  # fmt: skip


def assert_proper(boxes: Sequence[Box]) -> None:
    for found in boxes:
        assert 0 <= found.x1 <= found.x2 <= 1
        assert 0 <= found.y1 <= found.y2 <= 1
    assert len({place(found) for found in boxes}) == len(boxes)


def place(box: Box) -> Numbers:
    return box.x1, box.y1, box.x2, box.y2


def corners_in_order(box: Numbers) -> Numbers:
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def limits_of(written: Sequence[Numbers], limits: Extent) -> Extent:
    """Return the upper limits of an answer's numbers: 1 if all are shares and some are not 0 or 1."""
    there = [n for box in written if any(box) for n in box]
    shares = all(0 <= n <= 1 for n in there) and any(0 < n < 1 for n in there)
    return (1.0, 1.0) if shares else limits


def places(written: Sequence[Numbers], limits: Extent, *, prose: bool = False) -> list[Numbers]:
    """Return the expected parse of boxes with these numbers, by an independent implementation.

    Args:
        written: The numbers of each box.
        limits: Upper limits of the numbers.
        prose: Whether the boxes are within other text, where a box of the image's size is not a target.
    """
    found: list[Numbers] = []
    if prose:
        written = [box for box in written if box != (0, 0, *limits)]
    limits = limits_of(written, limits)
    for box in written:
        if not any(box):  # says that there is nothing
            continue
        pairs = zip(corners_in_order(box), (*limits, *limits), strict=True)
        left, top, right, bottom = (corner / side for corner, side in pairs)
        if right < 0 or bottom < 0 or left > 1 or top > 1 or max(right, bottom) == 0:
            continue
        seen = (max(left, 0), max(top, 0), min(right, 1), min(bottom, 1))
        if seen not in found:
            found.append(seen)
    return found


@given(text=answer_text, limits=extents)
@example(text="<think><answer>", limits=SQUARE)
@example(text='<think>a</think><answer>[{"bbox_2d": [1e999, 2, 3, 4]}]</answer>', limits=SQUARE)
@example(text='<think></think><answer>[{"bbox_2d":[NaN,1,2,3]}]</answer>', limits=SQUARE)
@example(text='{"bbox_2d":[-Infinity,1,2,3]}', limits=SQUARE)
@example(text="<answer>[" + "9" * 5000 + ",1,2,3]</answer>", limits=SQUARE)
@example(text="[" + "9" * 4000 + ",1,2,3]", limits=SQUARE)
@example(text='{"bbox_2d":[1e308,1e308,-1e308,1e308]}', limits=(1.0, 1.0))
def test_never_raises_and_boxes_are_proper(text: str, limits: Extent) -> None:
    read = parse_answer(text, limits)
    assert_proper(read.boxes)


@pytest.mark.parametrize("text", LONG, ids=lambda text: ascii(text[:12]))
def test_long_texts_are_read_in_no_time(text: str) -> None:
    for said in (text, f"```{text}", f"```json[{text}]```", f"[{text}", f"({text}", f"<|{text}"):
        for around in (said, f"<think>{said}", f"<think>{said}</think><answer>{said}</answer>"):
            assert_proper(parse_answer(around, SQUARE).boxes)


@given(value=json_value)
def test_any_json_in_the_answer_is_survived(value: object) -> None:
    tagged = parse_answer(f"<think>so</think><answer>{json.dumps(value)}</answer>", (224, 224))
    assert_proper(tagged.boxes)
    if tagged.well_formed:
        assert isinstance(value, list | dict)
        entries = [value] if isinstance(value, dict) or 0 in value else value
        zeros = [e.get("bbox_2d") if isinstance(e, dict) else e for e in entries] if value else []
        assert bool(tagged.boxes) == any(zero != [0, 0, 0, 0] for zero in zeros)
    plain = parse_answer(json.dumps(value), (224, 224))
    assert (plain.boxes, plain.well_formed) == (tagged.boxes, tagged.well_formed)


@given(text=answer_text, limits=extents)
def test_what_was_read_reads_as_itself(text: str, limits: Extent) -> None:
    boxes = parse_answer(text, limits).boxes
    found = [{"bbox_2d": place(box), "label": box.label} for box in boxes]
    again = parse_answer(json.dumps(found).replace("<", r"\u003c"), (1, 1))
    assert again.boxes == boxes
    assert again.well_formed


@given(data=st.data(), size=st.tuples(st.integers(28, 2000), st.integers(28, 2000)), relative=st.booleans())
def test_reads_what_is_taught(data: st.DataObject, size: tuple[int, int], relative: bool) -> None:
    limits = extent("relative" if relative else "absolute", *size)
    assert limits == ((1000, 1000) if relative else size)
    x, y = (st.integers(0, int(side)) for side in limits)
    a_box = st.tuples(x, y, x, y).filter(any)  # four zeros say that there is nothing
    boxes = data.draw(st.lists(a_box, max_size=4, unique_by=corners_in_order))
    labels = [f"red cup {k}" for k in range(len(boxes))]
    read = parse_answer(answer("looking for a cup .", boxes, labels).removesuffix(END), limits)
    assert read.well_formed
    assert read.rationale == "looking for a cup."
    assert [b.label for b in read.boxes] == labels
    for found, box in zip(read.boxes, boxes, strict=True):
        again = tuple(round(v * side) for v, side in zip(place(found), (*limits, *limits), strict=True))
        assert again == corners_in_order(box)


def test_reads_what_follows_an_empty_thought() -> None:
    said = '[{"bbox_2d":[10,20,30,40],"label":"cup"}]</answer>'
    read = parse_answer(opening("tabletop", think=False) + said, SQUARE)
    assert read.well_formed and read.rationale == ""
    assert read.boxes == (Box(0.1, 0.2, 0.3, 0.4, "cup"),)


def thought(said: str) -> str:
    return f"<think>\nfirst [7, 7, 9, 9], or (1, 1, 2, 2)?\n</think>\n<answer>\n{said}\n</answer>"


def fenced(said: str) -> str:
    return f"```json\n{said}\n```"


def keyed(key: str) -> Callable[[Sequence[Numbers]], str]:
    return lambda boxes: json.dumps([{key: box, "label": "it"} for box in boxes], indent=1)


def joined(form: str, between: str = " and ") -> Callable[[Sequence[Numbers]], str]:
    return lambda boxes: "It is at " + between.join(form.format(*box) for box in boxes) + "."


JSON_FORMS = {
    "bbox_2d": keyed("bbox_2d"),
    "bbox": keyed("bbox"),
    "box": keyed("box"),
    "lists": lambda boxes: json.dumps(boxes),
    "mixed": lambda boxes: json.dumps([boxes[0], *({"bbox_2d": box} for box in boxes[1:])]),
}
WORD_FORMS = {
    "brackets": joined("[{}, {}, {},{}]"),
    "parentheses": joined("( {},{},{},{} )"),
    "pairs": joined("({}, {}), ({}, {})"),
    "qwen2": joined("<|box_start|>({},{}),({},{})<|box_end|>", ""),
    "python": lambda boxes: str([{"bbox_2d": list(box)} for box in boxes]),
    "cut off": lambda boxes: keyed("bbox_2d")(boxes)[:-1],
    "fence cut off": lambda boxes: "```json\n" + keyed("bbox_2d")(boxes),
    "wrapped": lambda boxes: json.dumps({"objects": [{"bbox_2d": box} for box in boxes]}),
}


@pytest.mark.parametrize("form", JSON_FORMS)
@given(boxes=st.lists(numbers, min_size=1, max_size=4), limits=extents)
def test_every_json_notation_gives_the_same_boxes(form: str, boxes: list[Numbers], limits: Extent) -> None:
    said, expected = JSON_FORMS[form](boxes), places(boxes, limits)
    for text in (said, fenced(said), thought(said), thought(fenced(said))):
        read = parse_answer(text, limits)
        assert [place(box) for box in read.boxes] == expected
        # A box outside of the image is not proper; one that comes twice is.
        extent_of_all = limits_of(boxes, limits)
        assert read.well_formed == all(places([box], extent_of_all) or not any(box) for box in boxes)
    for text in (f"Here: {fenced(said)}", thought(f"Here: {fenced(said)}"), f"<answer>{said}</answer>"):
        read = parse_answer(text, limits)
        assert [place(box) for box in read.boxes] == expected
        assert not read.well_formed


@pytest.mark.parametrize("form", WORD_FORMS)
@given(boxes=st.lists(numbers, min_size=1, max_size=4), limits=extents)
def test_every_other_notation_gives_the_same_boxes(form: str, boxes: list[Numbers], limits: Extent) -> None:
    said = WORD_FORMS[form](boxes)
    for text in (said, thought(said)):
        read = parse_answer(text, limits)
        assert [place(box) for box in read.boxes] == places(boxes, limits, prose=True)
        assert not read.well_formed


@given(box=numbers, limits=extents, key=st.sampled_from(["bbox_2d", "bbox", "box"]))
def test_a_single_box_needs_no_list(box: Numbers, limits: Extent, key: str) -> None:
    for said in (json.dumps({key: box, "label": "it"}), json.dumps(box)):
        for text in (said, fenced(said), thought(said), thought(fenced(said))):
            read = parse_answer(text, limits)
            assert [place(found) for found in read.boxes] == places([box], limits)
            assert read.well_formed == (bool(read.boxes) or not any(box))


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("(1,2),(3,4) [10,20,30,40]", [PLACE]),
        ("(1,2),(3,4) (10,20,30,40)", [PLACE]),
        ("[1,2,3] (10,20,30,40,50) (10,20),(30,40)", [PLACE]),
        ("[1,2,3,4] ```json\n[10,20,30,40]\n```", [PLACE]),
        ("[1,2,3,4] ```json\n[]\n```", []),
        ('```json\n[{"bbox_2d":[10,20,30,40]}]\n```\n```\n[[0,0,50,50]]\n```', [PLACE, Box(0, 0, 0.5, 0.5)]),
        ('```\nwords\n``` ```json\n{"bbox_2d":[10,20,30,40]}\n```', [PLACE]),
        ('[{"bbox_2d":[10,20,30,40]},{"label":"no box"}]', [PLACE]),
        ('[{"bbox_2d":[10,20,30,40],"label":"```[1,2,3,4]```"}]', [Box(*place(PLACE), "```[1,2,3,4]```")]),
    ],
)  # fmt: skip
def test_the_first_kind_of_notation_counts(text: str, boxes: list[Box]) -> None:
    assert parse_answer(text, SQUARE).boxes == tuple(boxes)
    assert parse_answer(thought(text), SQUARE).boxes == tuple(boxes)


@pytest.mark.parametrize(
    "text",
    [
        "<think>see [1, 2, 3, 4]</think><answer>none</answer>",
        "<think>see [1, 2, 3, 4]</think>",
        "<think>see [1, 2, 3, 4]",
        "<think>see</think><think>[1, 2, 3, 4]",
        "the chat format opened the thinking: [1, 2, 3, 4]</think> nothing there",
        "<think>so <answer>[1, 2, 3, 4]</answer> or rather</think>",
        "[1, 2, 3, 4] <answer>none</answer> [1, 2, 3, 4]",
    ],
)
def test_numbers_of_the_thinking_are_not_taken_for_the_answer(text: str) -> None:
    read = parse_answer(text, SQUARE)
    assert read.boxes == () and not read.well_formed


@pytest.mark.parametrize(
    ("text", "rationale"),
    [
        ("<think>see [1, 2, 3, 4]</think> [10,20,30,40]", "see [1, 2, 3, 4]"),
        ("see (1, 2, 3, 4)</think> [10,20,30,40]", "see (1, 2, 3, 4)"),
        ("[10,20,30,40] <think>see [1, 2, 3, 4]", "see [1, 2, 3, 4]"),
        ("<think>see <answer>[10,20,30,40]</answer>", "see"),
        ("<think>in <answer></answer> tags</think><answer>[10,20,30,40]", "in tags"),
        ("<answer>[10,20,30,40]</answer> [1,2,3,4]", ""),
        ("<answer>[10,20,30,40]</answer><answer>[1,2,3,4]</answer>", ""),
        ("It is [10,20,30,40].", ""),
    ],
)
def test_the_answer_is_told_from_the_thinking_in_broken_forms_too(text: str, rationale: str) -> None:
    read = parse_answer(text, SQUARE)
    assert read.boxes == (PLACE,)
    assert read.rationale == rationale
    assert not read.well_formed


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><think>b</think><answer>[]</answer>",
        "<think>a</think><answer>[]</answer><answer>[]</answer>",
        "<think>a</think><answer>[]</answer> so",
        "so <think>a</think><answer>[]</answer>",
        "<think>a</think> so <answer>[]</answer>",
        "<answer>[]</answer><think>a</think>",
        "<think>a</think><answer>[]",
        "<think>a<answer>[]</answer>",
        "<answer>[]</answer>",
        "<think>a</think>[]",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer>none</answer>",
        '<think>a</think><answer>""</answer>',
        "<think>a</think><answer>null</answer>",
        "<think>a</think><answer>[{}]</answer>",
        "<think>a</think><answer>[[]]</answer>",
        "<think>a</think><answer>[[1,2,3]]</answer>",
        "<think>a</think><answer>[true,false,true,false]</answer>",
        "<think>a</think><answer>[-Infinity,-1e999,Infinity,1e999]</answer>",
        "<think>a</think><answer>[0,NaN,50,50]</answer>",
        "<think>a</think><answer>```[]``` ```[]```</answer>",
        "",
        "none",
        "There is no cup.",
    ],
)
def test_nothing_that_is_not_well_formed(text: str) -> None:
    read = parse_answer(text, SQUARE)
    assert read.boxes == () and not read.well_formed


@pytest.mark.parametrize("nothing", ["[]", "{}", " [ ] ", "```json\n[]\n```", "```\n{}\n```"])
def test_nothing_there_is_not_the_same_as_nothing_readable(nothing: str) -> None:
    for text in (nothing, f"\n<think>no cup here</think> <answer>{nothing}</answer>\n"):
        read = parse_answer(text, SQUARE)
        assert read.well_formed and read.boxes == ()
    garbled = parse_answer("<think>no cup here</think><answer>[{", SQUARE)
    assert not garbled.well_formed and garbled.boxes == ()
    assert garbled.rationale == "no cup here"


def test_a_box_is_rescued_from_broken_json() -> None:
    read = parse_answer('<think>x</think><answer>{"bbox_2d": [10, 20, 30, 40]', SQUARE)
    assert not read.well_formed
    assert read.boxes == (PLACE,)


def test_boxes_outside_are_no_targets_and_thin_ones_are() -> None:
    read = parse_answer("[[-9, 0, -1, 9], [0, 101, 9, 120], [50, 20, 50, 80], [90, 90, 120, 120]]", SQUARE)
    assert read.boxes == (Box(0.5, 0.2, 0.5, 0.8), Box(0.9, 0.9, 1, 1))
    assert not read.well_formed


def test_a_target_named_twice_is_one_target_under_its_first_name() -> None:
    named = [(" cup ", [10, 20, 30, 40]), ("bowl", [0, 0, 5, 5]), ("mug", [30, 40, 10, 20])]
    read = parse_answer(json.dumps([{"bbox_2d": box, "label": label} for label, box in named]), SQUARE)
    assert [box.label for box in read.boxes] == ["cup", "bowl"]
    assert read.well_formed


def test_tidy_reads_like_a_sentence() -> None:
    said = "<think> red cup ( 12 34 ) ; so the\ncup \n . </think><|im_end|>"
    assert tidy(said) == "red cup (12 34); so the cup."


pixel = st.integers(0, 1000) | st.integers(0, 10_000).map(lambda n: n / 10)
pixels = st.tuples(pixel, pixel, pixel, pixel).filter(any)
RARE_JSON = {
    "strings": lambda b: [str(n) for n in b],
    "one string": lambda b: ", ".join(map(str, b)),
    "corner pairs": lambda b: [[b[0], b[1]], [b[2], b[3]]],
    "corner pairs of strings": lambda b: [[str(b[0]), str(b[1])], [str(b[2]), str(b[3])]],
    "names": lambda b: dict(zip(("x1", "y1", "x2", "y2"), b, strict=True)),
    "names of strings": lambda b: dict(zip(("x1", "y1", "x2", "y2"), map(str, b), strict=True)),
    "other names": lambda b: dict(zip(("xmin", "ymin", "xmax", "ymax"), b, strict=True)),
    "names with a low line": lambda b: dict(zip(("x_min", "y_min", "x_max", "y_max"), b, strict=True)),
    "sides": lambda b: dict(zip(("left", "top", "right", "bottom"), b, strict=True)),
    "corner and size": lambda b: {"x": b[0], "y": b[1], "width": b[2] - b[0], "height": b[3] - b[1]},
    "corner and size, short": lambda b: {"x": b[0], "y": b[1], "w": str(b[2] - b[0]), "h": str(b[3] - b[1])},
    "score": lambda b: [*b, 0.93],
    "whole score": lambda b: [*b, 1],
}


@pytest.mark.parametrize("form", RARE_JSON)
@given(boxes=st.lists(pixels, min_size=1, max_size=4), limits=extents)
def test_rare_forms_of_json_are_read(form: str, boxes: list[Numbers], limits: Extent) -> None:
    forms = [RARE_JSON[form](box) for box in boxes]
    expected = places(boxes, limits)
    said = [json.dumps([{"bbox_2d": box, "label": "it"} for box in forms]), *([json.dumps(forms)])]
    if form == "one string":
        said.pop()
    if len(forms) == 1:
        said.append(json.dumps(forms[0] if form != "one string" else {"bbox": forms[0]}))
    for text in said:
        for around in (text, fenced(text), thought(text), f"Here: {fenced(text)}"):
            read = parse_answer(around, limits)
            assert [place(box) for box in read.boxes] == expected
            assert not read.well_formed
    assert {box.label for box in parse_answer(said[0], limits).boxes} <= {"it"}


RARE_WORDS = {
    "to": joined("({},{}) to ({},{})"),
    "from to": joined("from ({}, {}) to ({}, {})", "; "),
    "hyphen": joined("({},{})-({},{})"),
    "dash": joined("({}, {}) \u2013 ({}, {})"),
    "arrow": joined("({}, {}) -> ({}, {})"),
    "points in brackets": joined("[{}, {}], [{}, {}]"),
    "corner pairs": joined("[[{}, {}], [{}, {}]]"),
    "score": joined("[{}, {}, {}, {}, 0.87]"),
    "score in parentheses": joined("({},{},{},{},0.5)"),
    "strings": joined('["{}", "{}", "{}", "{}"]'),
    "single quotes": joined("['{}', '{}', '{}', '{}']"),
    "names": joined("x1={}, y1={}, x2={}, y2={}", "; "),
    "python": joined("{{'x1': {}, 'y1': {}, 'x2': {}, 'y2': {}}}"),
    "low lines": joined("x_min: {}, y_min: {}, x_max: {}, y_max: {}"),
    "sides": joined("left = {} top = {} right = {} bottom = {}", "; "),
    "blanks": joined("[{} {} {} {}]"),
    "comma at the end": joined("[{}, {}, {}, {},]"),
    "named corners": joined("top-left ({}, {}), bottom-right ({}, {})", "; "),
    "named corners in words": joined("the top left corner is ({}, {}) and bottom right ({}, {})"),
    "named corners in JSON": joined('{{"top_left": [{}, {}], "bottom_right": [{}, {}]}}'),
    "cut off": lambda boxes: json.dumps([RARE_JSON["names"](box) for box in boxes], indent=1)[:-1],
}


@pytest.mark.parametrize("form", RARE_WORDS)
@given(boxes=st.lists(pixels, min_size=1, max_size=4), limits=extents)
def test_rare_forms_within_text_are_read(form: str, boxes: list[Numbers], limits: Extent) -> None:
    said = RARE_WORDS[form](boxes)
    for text in (said, thought(said)):
        read = parse_answer(text, limits)
        assert [place(box) for box in read.boxes] == places(boxes, limits, prose=True)
        assert not read.well_formed


@pytest.mark.parametrize(
    "text",
    [
        "10, 20, 30, 40",
        "10 20 30 40",
        " 10,20,30,40.\n",
        "bbox: 10, 20, 30, 40",
        "Bounding box = 10 20 30 40",
        "x: 10, y: 20, width: 20, height: 20",
        "left=10, top=20, width=20, height=20",
    ],
)
def test_numbers_without_brackets_are_read_where_they_are_the_whole_answer(text: str) -> None:
    for said in (text, thought(text)):
        assert parse_answer(said, SQUARE).boxes == (PLACE,)
    assert parse_answer("Between 10, 20, 30, 40 and 50 mugs.", SQUARE).boxes == ()
    assert parse_answer("The image: x: 0, y: 0, width: 100, height: 100", SQUARE).boxes == ()


share = st.integers(0, 1000).map(lambda n: n / 1000)


@given(boxes=st.lists(st.tuples(share, share, share, share), min_size=1, max_size=4), limits=extents)
def test_shares_of_the_image_are_read_as_such(boxes: list[Numbers], limits: Extent) -> None:
    boxes = [(0.25, 0.5, 0.75, 1.0), *boxes]  # one that no whole pixels could mean
    for text in (json.dumps(boxes), joined("[{}, {}, {}, {}]")(boxes), joined("({},{}) to ({},{})")(boxes)):
        assert [place(box) for box in parse_answer(text, limits).boxes] == places(boxes, (1.0, 1.0))


@pytest.mark.parametrize("numbers", ["[0, 0, 1, 1]", "[0, 1, 1, 0]", "[1, 1, 1, 1]"])
def test_zeros_and_ones_are_pixels(numbers: str) -> None:
    (box,) = parse_answer(numbers, SQUARE).boxes
    assert max(place(box)) == 0.01


@pytest.mark.parametrize(
    "zeros", ["[0,0,0,0]", '[{"bbox_2d": [0, 0, 0, 0]}]', "[[0,0,0,0]]", "[0.0, 0, 0, 0]"]
)
def test_four_zeros_say_that_there_is_nothing(zeros: str) -> None:
    for text in (zeros, fenced(zeros), thought(zeros)):
        read = parse_answer(text, SQUARE)
        assert read.boxes == () and read.well_formed
    for text in (f"It is at {zeros}.", zeros.replace("0, 0", '"0", "0"'), "(0,0) to (0,0)"):
        assert parse_answer(text, SQUARE).boxes == ()
    assert parse_answer("[[0,0,0,0], [10,20,30,40]]", SQUARE).boxes == (PLACE,)


HD = (1280.0, 720.0)


@pytest.mark.parametrize(
    "size",
    [
        "The image is 1280x720",
        "The image is 1280 x 720 pixels",
        "The image is [0, 0, 1280, 720]",
        "The whole picture, [0, 0, 1280, 720], shows a table",
        "The image has a size of (0, 0, 1280, 720)",
        "The image goes from (0, 0) to (1280, 720)",
        "The image spans (0,0),(1280,720)",
        "Its resolution is [0, 0, 1276, 716]",
        "The picture measures [0, 0, 1288, 728]",
    ],
)
def test_the_size_of_the_image_is_no_target(size: str) -> None:
    assert parse_answer(f"{size}.", HD).boxes == ()
    assert parse_answer(thought(f"{size}. There is no mug."), HD).boxes == ()
    for target in (
        "[128, 144, 384, 288]",
        "(128, 144, 384, 288)",
        "(128,144),(384,288)",
        "(128,144) to (384,288)",
    ):
        (box,) = parse_answer(f"{size}. The mug is at {target}.", HD).boxes
        assert place(box) == place(PLACE)


@pytest.mark.parametrize(
    "text",
    [
        "[0, 0, 1280, 720]",
        "```json\n[[0, 0, 1280, 720]]\n```",
        "The wall is at [0, 0, 1279, 719] in the image.",
    ],
)
def test_a_target_may_fill_the_image(text: str) -> None:
    (box,) = parse_answer(text, HD).boxes
    assert box.x2 > 0.99 and box.y2 > 0.99


@pytest.mark.parametrize(
    "text",
    [
        '[["a", "b", "c", "d"]]',
        '[{"bbox_2d": ["1", "2", "3", "x"]}]',
        "[10, 20, 30, 40, 50]",
        "[[10, 20], [30, 40], [50, 60]]",
        "the outline is [10, 20], [30, 40], [50, 60]",
        '{"x1": 10, "y1": 20, "x2": 30}',
        "mugs at (10, 20) and (30, 40)",
        '["1e999", "2", "3", "4"]',
        '["nan", "2", "3", "4"]',
        '["1_0", "2", "3", "4"]',
        "[true, 1, 2, 3]",
    ],
)
def test_what_is_no_box_in_any_form(text: str) -> None:
    assert parse_answer(text, SQUARE).boxes == ()
