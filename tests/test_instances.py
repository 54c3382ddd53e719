"""Objects from masks and boxes: assigned, checked, rejected with a reason."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_ros.instances import box_iou, one_each, shared_out, why_nothing, without_specks
from lens_ros.model.answer_parsing import Box, ParsedAnswer

number = st.floats(0, 100)
boxes = st.tuples(number, number, number, number).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_specks_go_and_the_largest_part_stays(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((24, 32)) < 0.3
    kept = without_specks(mask, share)
    assert not (kept & ~mask).any()
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    areas = np.bincount(labels[mask], minlength=count)[1:]
    expected = areas[areas >= share * areas.max()].sum() if share > 0 else mask.sum()
    assert kept.sum() == expected


def test_no_mask_has_no_specks() -> None:
    assert not without_specks(np.zeros((4, 4), bool), 0.1).any()


def test_box_and_mask_must_agree() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:40, 20:40] = True
    near = shared_out(mask, 0.9, (Box(0.2, 0.2, 0.4, 0.42, "red mug"),))[0]
    assert near.rejected == "" and near.box == (20, 20, 40, 40) and near.consistency > 0.9
    far = shared_out(mask, 0.9, (Box(0.7, 0.7, 0.9, 0.9),))[0]
    assert "disagree" in far.rejected and far.consistency == 0
    empty = shared_out(np.zeros((100, 100), bool), 0.9, (Box(0.1, 0.1, 0.2, 0.2),))[0]
    assert "no pixels" in empty.rejected and empty.score == 0


def test_several_boxes_share_the_mask_out() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:30, 10:30] = mask[60:90, 60:90] = True
    two = (Box(0.1, 0.1, 0.3, 0.3, "a"), Box(0.6, 0.6, 0.9, 0.9, "b"))
    first, second = shared_out(mask, 0.8, two)
    assert first.box == (10, 10, 30, 30) and second.box == (60, 60, 90, 90)
    assert not (first.mask & second.mask).any()
    assert np.array_equal(first.mask | second.mask, mask)


@given(boxes, boxes)
def test_box_iou_is_symmetric_and_bounded(a: tuple, b: tuple) -> None:
    assert box_iou(a, b) == pytest.approx(box_iou(b, a))
    assert 0 <= box_iou(a, b) <= 1 + 1e-9
    if (a[2] - a[0]) * (a[3] - a[1]) > 1e-6:
        assert box_iou(a, a) == pytest.approx(1)


def test_one_mask_each_keeps_masks_and_boxes_together() -> None:
    masks = np.zeros((2, 100, 100), bool)
    masks[0, 10:30, 10:30] = masks[1, 60:90, 60:90] = True
    right = (Box(0.1, 0.1, 0.3, 0.3, "a"), Box(0.6, 0.6, 0.9, 0.9, "b"))
    assert [i.rejected for i in one_each(masks, [0.9, 0.8], right)] == ["", ""]
    assert [i.score for i in one_each(masks, [0.9, 0.8], right)] == [0.9, 0.8]
    assert all("disagree" in i.rejected for i in one_each(masks, [0.9, 0.8], right[::-1]))


def test_the_reason_for_nothing() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:40, 20:40] = True
    near, far = Box(0.2, 0.2, 0.4, 0.4), Box(0.7, 0.7, 0.9, 0.9)
    assert why_nothing(ParsedAnswer("", (near,), True), shared_out(mask, 0.9, [near])) == ""
    assert "disagree" in why_nothing(ParsedAnswer("", (far,), True), shared_out(mask, 0.9, [far]))
    assert "found nothing" in why_nothing(ParsedAnswer("", (), True), ())
    assert "no readable box" in why_nothing(ParsedAnswer("", (), False), ())
