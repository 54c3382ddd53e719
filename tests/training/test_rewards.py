"""Rewards: worked out by hand, compared with brute force, and properties that hold for any answer."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_ros.model.answer_parsing import Box, ParsedAnswer, parse_answer
from training.rewards import RewardWeights, box_reward, combine, format_reward, segment_reward

EXTENT = (100, 100)
NOTHING = ParsedAnswer("it is not there", (), well_formed=True)
UNREADABLE = ParsedAnswer("", (), well_formed=False)

fractions = st.integers(0, 12).map(lambda n: n / 12)


def iou(a: Box, b: Box) -> float:
    """Compute IoU in an independent form: overlap over the sum of areas less the overlap."""
    overlap = max(0.0, min(a.x2, b.x2) - max(a.x1, b.x1)) * max(0.0, min(a.y2, b.y2) - max(a.y1, b.y1))
    areas = sum((box.x2 - box.x1) * (box.y2 - box.y1) for box in (a, b))
    return overlap / (areas - overlap) if areas > 0 else 0.0


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, x2 = sorted((draw(fractions), draw(fractions)))
    y1, y2 = sorted((draw(fractions), draw(fractions)))
    return Box(x1, y1, x2, y2)


def several(at_least: int = 0, at_most: int = 4) -> st.SearchStrategy[list[Box]]:
    return st.lists(boxes(), min_size=at_least, max_size=at_most)


def saying(*found: Box) -> ParsedAnswer:
    return ParsedAnswer("there", found, well_formed=True)


# --- format


@pytest.mark.parametrize(
    ("text", "thinking", "reward"),
    [
        ('<think>the left one</think><answer>[{"bbox_2d":[1,2,3,4],"label":"mug"}]</answer>', True, 1),
        ("<think>there is no mug</think><answer>[]</answer>", True, 1),
        ("<think></think><answer>[]</answer>", False, 1),
        ("[[1,2,3,4]]", False, 1),
        ("[[1,2,3,4]]", True, 0),  # the thinking left out
        ("<think>  </think><answer>[]</answer>", True, 0),
        ("<think>the left one</think><answer>[]</answer>", False, 0),  # thinking where none was wanted
        ("<think>the left one</think><answer>[[1,2,3,4]]", True, 0),  # cut off
        ("<think>the left one</think><answer>[]</answer> and then", True, 0),  # LENS's pattern overlooks this
        ("<think>the left one</think><answer>no idea</answer>", True, 0),
        ("", True, 0),
        ("", False, 0),
    ],
)
def test_format(text: str, thinking: bool, reward: float) -> None:
    assert format_reward(parse_answer(text, EXTENT), thinking=thinking) == reward


@given(text=st.text('<>/thinkaswer[]{}0123456789,. "', max_size=60), thinking=st.booleans())
def test_format_is_all_or_nothing(text: str, thinking: bool) -> None:
    assert format_reward(parse_answer(text, EXTENT), thinking=thinking) in (0.0, 1.0)


# --- boxes


@given(found=boxes(), target=boxes())
def test_one_box_is_iou_squared(found: Box, target: Box) -> None:
    assert box_reward(saying(found), [target]) == pytest.approx(iou(found, target) ** 2, abs=1e-9)


@given(found=several(1), true=several(1))
def test_sets_are_matched_as_well_as_can_be(found: list[Box], true: list[Box]) -> None:
    few, many = sorted((found, true), key=len)
    best = max(
        sum(iou(a, b) ** 2 for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )
    assert box_reward(saying(*found), true) == pytest.approx(best / len(many), abs=1e-9)


@given(found=several(), true=several(), data=st.data())
def test_order_does_not_matter(found: list[Box], true: list[Box], data: st.DataObject) -> None:
    shuffled = saying(*data.draw(st.permutations(found)))
    again = box_reward(shuffled, data.draw(st.permutations(true)))
    assert box_reward(saying(*found), true) == pytest.approx(again, abs=1e-9)


@given(found=several(), true=several(), well_formed=st.booleans())
def test_box_reward_is_within_bounds(found: list[Box], true: list[Box], well_formed: bool) -> None:
    assert 0 <= box_reward(ParsedAnswer("", tuple(found), well_formed), true) <= 1


@given(true=st.lists(boxes().filter(lambda b: b.x1 < b.x2 and b.y1 < b.y2), max_size=5))
def test_the_true_boxes_earn_everything(true: list[Box]) -> None:
    assert box_reward(saying(*true), true) == pytest.approx(1)


@given(true=several(1), found=several(1), beside=boxes())
def test_a_box_on_nothing_never_pays(true: list[Box], found: list[Box], beside: Box) -> None:
    apart = Box(beside.x1 / 2 + 2, beside.y1, beside.x2 / 2 + 2, beside.y2)  # meets none of the true ones
    with_it = box_reward(saying(*found, apart), true)
    assert with_it <= box_reward(saying(*found), true) + 1e-9
    if len(found) >= len(true):
        assert with_it == pytest.approx(box_reward(saying(*found), true) * len(found) / (len(found) + 1))


@given(inner=boxes(), outer=boxes(), target=boxes())
def test_closer_pays_more(inner: Box, outer: Box, target: Box) -> None:
    """Of two boxes within the target, one within the other, the larger is never worth less."""

    def within(box: Box, of: Box) -> Box:
        width, height = of.x2 - of.x1, of.y2 - of.y1
        x1, x2 = of.x1 + box.x1 * width, of.x1 + box.x2 * width
        return Box(x1, of.y1 + box.y1 * height, x2, of.y1 + box.y2 * height)

    large = within(outer, target)
    small = within(inner, large)
    assert box_reward(saying(small), [target]) <= box_reward(saying(large), [target]) + 1e-9


def test_nothing_there() -> None:
    somewhere = Box(0.1, 0.1, 0.4, 0.4)
    assert box_reward(NOTHING, []) == 1
    assert box_reward(saying(somewhere), []) == 0
    assert box_reward(NOTHING, [somewhere]) == 0


@pytest.mark.parametrize("true", [[], [Box(0, 0, 0, 0)], [Box(0.1, 0.1, 0.4, 0.4)]])
def test_an_unreadable_answer_earns_no_box(true: list[Box]) -> None:
    """LENS reads it as four zeros, and a scene without targets has four zeros too."""
    assert box_reward(UNREADABLE, true) == 0
    assert box_reward(parse_answer("<think>the mug</think><answer>no", EXTENT), true) == 0


def test_a_box_of_the_thinking_earns_nothing() -> None:
    """LENS takes the first box anywhere in the text."""
    target = Box(0.1, 0.2, 0.5, 0.6)
    text = "<think>perhaps [10,20,50,60]</think><answer>[[70,70,90,90]]</answer>"
    assert box_reward(parse_answer(text, EXTENT), [target]) == 0


def test_corners_in_any_order_are_one_box() -> None:
    """LENS computes the IoU of an inverted box as it stands, with a negative area."""
    target = Box(0.1, 0.2, 0.5, 0.6)
    text = "<think>there</think><answer>[[50,60,10,20]]</answer>"
    assert box_reward(parse_answer(text, EXTENT), [target]) == 1


# --- masks


def test_segment_by_hand() -> None:
    true = torch.zeros(3, 4, 6, dtype=torch.bool)
    true[:, 1:3, 1:5] = True  # 8 pixels
    logits = torch.full((3, 4, 6), -3.0)
    logits[0, 1:3, 1:5] = 3.0  # the mask itself
    logits[1, 1:3, 1:3] = 3.0  # half of it
    logits[2, 0, :] = 3.0  # beside it
    assert segment_reward(logits, true).tolist() == pytest.approx([1, 0.25, 0], abs=1e-6)


def test_segment_is_counted_at_the_true_masks_resolution() -> None:
    """The mask is upsampled, then cut at 0.

    So between a strong and a weak logit its border is not at the border of the cells.
    """
    logits = torch.tensor([[[3.0, -1.0], [3.0, -1.0]]])
    true = torch.zeros(1, 16, 24, dtype=torch.bool)
    true[:, :, :15] = True  # cells are 12 wide, centred at 5.5 and 17.5: 3 - (x - 5.5) / 3 > 0 below 14.5
    assert segment_reward(logits, true).item() == pytest.approx(1, abs=1e-5)
    assert segment_reward(logits.bfloat16(), true).item() == pytest.approx(1, abs=1e-5)


def test_segment_with_nothing_there() -> None:
    nothing, something = torch.zeros(1, 8, 8, dtype=torch.bool), torch.ones(1, 8, 8, dtype=torch.bool)
    empty, speck = torch.full((1, 8, 8), -1.0), torch.full((1, 8, 8), -1.0)
    speck[0, 3, 3] = 1
    assert segment_reward(empty, nothing).item() == 1
    assert segment_reward(speck, nothing).item() == 0
    assert segment_reward(empty, something).item() == 0


def test_overlapping_polygons_are_still_an_object() -> None:
    """LENS leaves a pixel that two polygons share (2 in the mask) out of the object."""
    true = torch.tensor([[[1, 2, 2, 0]]], dtype=torch.uint8)
    assert segment_reward(true.float() - 0.5, true).item() == pytest.approx(1, abs=1e-6)


masks = st.lists(st.booleans(), min_size=24, max_size=24).map(lambda bits: torch.tensor(bits).view(1, 4, 6))


@given(predicted=masks, true=masks)
def test_segment_is_iou_squared_either_way_round(predicted: torch.Tensor, true: torch.Tensor) -> None:
    both = sum(a and b for a, b in zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True))
    either = int(predicted.sum()) + int(true.sum()) - both
    expected = (both / either) ** 2 if either else 1.0
    assert segment_reward(predicted.float() - 0.5, true).item() == pytest.approx(expected, abs=1e-5)
    assert segment_reward(true.float() - 0.5, predicted).item() == pytest.approx(expected, abs=1e-5)


@given(predicted=masks, true=masks, pixel=st.integers(0, 23))
def test_a_right_pixel_pays_and_a_wrong_one_costs(
    predicted: torch.Tensor, true: torch.Tensor, pixel: int
) -> None:
    without, with_it = predicted.clone(), predicted.clone()
    without.view(-1)[pixel], with_it.view(-1)[pixel] = False, True
    gained = segment_reward(with_it.float() - 0.5, true) - segment_reward(without.float() - 0.5, true)
    if true.view(-1)[pixel]:
        assert gained.item() > 0
    else:
        assert gained.item() <= 0


def test_segment_reward_has_no_gradient() -> None:
    logits = torch.randn(2, 4, 4, requires_grad=True)
    assert not segment_reward(logits, torch.ones(2, 8, 8, dtype=torch.bool)).requires_grad


# --- together


def test_combine() -> None:
    parts = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0]), torch.tensor([0.25, 0.5])]
    assert combine(RewardWeights(), *parts).tolist() == [1.75, 1.5]  # LENS: the plain sum
    assert combine(RewardWeights(format=0, box=2, segment=4), *parts).tolist() == [2.0, 4.0]
