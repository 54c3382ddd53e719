"""Any text in, never an exception; what we teach, we can read."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from lens_ros.model.answers import parse_answer, tidy
from lens_ros.model.prompts import END, answer

coordinate = st.integers(0, 223)
box = st.tuples(coordinate, coordinate, coordinate, coordinate)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(text=st.text(), extent=st.floats(1, 5000))
@example(text="<think><answer>", extent=224.0)
@example(text='<think>a</think><answer>[{"bbox_2d": [1e999, 2, 3, 4]}]</answer>', extent=224.0)
@example(text="<think></think><answer>" + "[" * 100_000 + "</answer>", extent=224.0)
@example(text='<think></think><answer>[{"bbox_2d":[NaN,1,2,3]}]</answer>', extent=224.0)
@example(text="<answer>[" + "9" * 5000 + ",1,2,3]</answer>", extent=224.0)
def test_never_raises_and_boxes_are_proper(text: str, extent: float) -> None:
    for found in parse_answer(text, extent).boxes:
        assert 0 <= found.x1 <= found.x2 <= 1
        assert 0 <= found.y1 <= found.y2 <= 1


@given(value=json_value)
def test_any_json_in_the_answer_is_survived(value: object) -> None:
    read = parse_answer(f"<think>so</think><answer>{json.dumps(value)}</answer>", 224)
    for found in read.boxes:
        assert 0 <= found.x1 <= found.x2 <= 1
        assert 0 <= found.y1 <= found.y2 <= 1
    if read.well_formed:
        assert isinstance(value, list) and len(read.boxes) == len(value)


@given(boxes=st.lists(box, max_size=4))
def test_reads_what_is_taught(boxes: list[tuple[int, int, int, int]]) -> None:
    labels = [f"red cup {k}" for k in range(len(boxes))]
    text = answer("looking for a cup .", boxes, labels).removesuffix(END)
    read = parse_answer(text, 224)
    assert read.well_formed
    assert read.rationale == "looking for a cup."
    assert [b.label for b in read.boxes] == labels
    for found, (x1, y1, x2, y2) in zip(read.boxes, boxes, strict=True):
        expected = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        assert [round(v * 224) for v in (found.x1, found.y1, found.x2, found.y2)] == expected


def test_nothing_there_is_not_the_same_as_nothing_readable() -> None:
    nothing = parse_answer("<think>no cup here</think><answer>[]</answer>", 224)
    assert nothing.well_formed and nothing.boxes == ()
    garbled = parse_answer("<think>no cup here</think><answer>[{", 224)
    assert not garbled.well_formed and garbled.boxes == ()
    assert garbled.rationale == "no cup here"


def test_a_box_is_rescued_from_broken_json() -> None:
    read = parse_answer('<think>x</think><answer>{"bbox_2d": [10, 20, 30, 40]', 100)
    assert not read.well_formed
    assert [(b.x1, b.y2) for b in read.boxes] == [(0.1, 0.4)]


def test_numbers_of_the_rationale_are_not_taken_for_the_answer() -> None:
    assert parse_answer("<think>see [1, 2, 3, 4]</think><answer>none</answer>", 100).boxes == ()


def test_tidy_reads_like_a_sentence() -> None:
    assert tidy("<think> red cup ( 12 34 ) ; so the cup . </think>") == "red cup (12 34); so the cup."
