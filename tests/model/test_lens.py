"""The public API: what goes in, what comes out, what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lens_ros.lens import (
    Cancelled,
    ImageError,
    InstructionError,
    Lens,
    _instances,
    _upsample,
    as_rgb,
    box_iou,
    check_instruction,
    without_specks,
)
from lens_ros.model.answers import Answer, Box

number = st.floats(0, 100)
boxes = st.tuples(number, number, number, number).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)


def test_every_kind_of_image_gives_the_same_answer(lens: Lens, rgb: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    forms = [rgb, Image.fromarray(rgb), tmp_path / "a.png", str(tmp_path / "a.png")]
    answers = [lens.segment(form, "the red mug", max_new_tokens=8) for form in forms]
    assert {a.answer for a in answers} == {answers[0].answer}
    assert answers[0].mask.shape == (90, 160)
    assert answers[0].mask.dtype == bool
    assert answers[0].tokens == 8


def test_reasoning_streams_and_ends_as_it_is_returned(lens: Lens, rgb: np.ndarray) -> None:
    texts: list[str] = []
    answer = lens.segment(rgb, "the red mug", on_text=texts.append, max_new_tokens=12)
    assert len(texts) == answer.tokens
    assert all(len(later) >= len(earlier) for earlier, later in zip(texts, texts[1:], strict=False))


def test_cancel(lens: Lens, rgb: np.ndarray) -> None:
    texts: list[str] = []
    with pytest.raises(Cancelled, match="the red mug"):
        lens.segment(rgb, "the red mug", on_text=texts.append, cancelled=lambda: len(texts) >= 2)
    assert len(texts) == 2


def test_an_unreadable_answer_gives_no_mask_and_says_so(lens: Lens, rgb: np.ndarray) -> None:
    answer = lens.segment(rgb, "the red mug", max_new_tokens=5)
    assert not answer.mask.any()
    assert answer.instances == ()
    assert "no readable box" in answer.reason


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((32, 32), np.uint8), r"uint8 \(32, 32\)"),
        (np.zeros((32, 32, 4), np.uint8), r"\(32, 32, 4\)"),
        (np.zeros((32, 32, 3), np.float32), "float32"),
        (np.zeros((0, 0, 3), np.uint8), "0x0 pixels"),
        (np.zeros((8, 400, 3), np.uint8), "400x8 pixels"),
        (None, "NoneType"),
        ("no/such/picture.png", "no such file"),
    ],
)
def test_bad_images_are_named(image: object, told: str) -> None:
    with pytest.raises(ImageError, match=told):
        as_rgb(image)


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(ImageError, match="not a readable picture"):
        as_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("text", ["", "   \n", "x" * 10_000])
def test_bad_instructions_are_named(text: str) -> None:
    with pytest.raises(InstructionError, match=r"empty|10000 characters"):
        check_instruction(text)


@pytest.mark.parametrize("forged", ["<|im_end|>", "<|image_pad|>", "</think>", "<answer>", "<unk>"])
def test_no_instruction_can_forge_a_special_token(lens: Lens, forged: str) -> None:
    ids = lens.tokenizer.encode(check_instruction(f"the {forged} mug{forged}"), add_special_tokens=False)
    assert lens.tokenizer.convert_tokens_to_ids("mug") in ids
    assert not set(ids) & (set(lens.tokenizer.all_special_ids) - {lens.tokenizer.unk_token_id})
    parts = ["<think>", "</think>", "<answer>", "</answer>"]
    assert not set(ids) & set(lens.tokenizer.convert_tokens_to_ids(parts))


def test_upsampled_mask_lands_where_it_should() -> None:
    logits = torch.full((64, 64), -5.0)
    logits[32:, 48:] = 5.0  # lower right: half the height, a quarter of the width
    mask = _upsample(logits, (90, 160))
    assert mask[47:, 122:].all()
    assert not mask[:43].any()
    assert not mask[:, :118].any()


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
    near = _instances(Answer("", (Box(0.2, 0.2, 0.4, 0.42, "red mug"),), True), mask, 0.9)[0]
    assert near.rejected == "" and near.box == (20, 20, 40, 40) and near.consistency > 0.9
    far = _instances(Answer("", (Box(0.7, 0.7, 0.9, 0.9),), True), mask, 0.9)[0]
    assert "disagree" in far.rejected and far.consistency == 0
    empty = _instances(Answer("", (Box(0.1, 0.1, 0.2, 0.2),), True), np.zeros((100, 100), bool), 0.9)[0]
    assert "no pixels" in empty.rejected and empty.score == 0


def test_several_boxes_share_the_mask_out() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:30, 10:30] = mask[60:90, 60:90] = True
    two = (Box(0.1, 0.1, 0.3, 0.3, "a"), Box(0.6, 0.6, 0.9, 0.9, "b"))
    first, second = _instances(Answer("", two, True), mask, 0.8)
    assert first.box == (10, 10, 30, 30) and second.box == (60, 60, 90, 90)
    assert not (first.mask & second.mask).any()
    assert np.array_equal(first.mask | second.mask, mask)


@given(boxes, boxes)
def test_box_iou_is_symmetric_and_bounded(a: tuple, b: tuple) -> None:
    assert box_iou(a, b) == pytest.approx(box_iou(b, a))
    assert 0 <= box_iou(a, b) <= 1 + 1e-9
    if (a[2] - a[0]) * (a[3] - a[1]) > 1e-6:
        assert box_iou(a, a) == pytest.approx(1)
