"""Losses on cases that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from training.losses import language_loss, mask_iou, mask_loss, segmentation_loss, soft_number_labels

FIRST, NUMBERS = 10, 256


def test_mask_loss_by_hand() -> None:
    target = torch.tensor([[[1.0, 0.0]]])
    logits = torch.zeros(1, 1, 2)  # probability 1/2 everywhere
    bce = (4 * math.log(2) + math.log(2)) / 2
    dice = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert mask_loss(logits, target).item() == pytest.approx(2 * bce + 1.5 * dice, rel=1e-5)


def test_mask_loss_prefers_the_right_mask() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, 2:5, 2:5] = 1
    right = (target * 2 - 1) * 8
    assert mask_loss(right, target) < 0.02
    assert mask_loss(-right, target) > 5


def test_segmentation_loss_by_hand() -> None:
    target = torch.tensor([[[True, False]], [[False, False]]])
    logits = torch.tensor([[[0.0, 0.0]], [[-2.0, -2.0]]])
    sure = 1 / (1 + math.exp(2))
    expected = [math.log(2) + 1 - (2 * 0.5 + 1) / (1 + 1 + 1), -math.log(1 - sure) + 1 - 1 / (2 * sure + 1)]
    assert segmentation_loss(logits, target).tolist() == pytest.approx(expected, rel=1e-5)


def test_segmentation_loss_counts_pixels_of_the_true_mask() -> None:
    """A coarse mask puts its border between its cells, and upsampling puts it where the true mask has it."""
    target = torch.zeros(1, 16, 24)
    target[:, :, :15] = 1
    logits = torch.tensor([[[3.0, -1.0], [3.0, -1.0]]]) * 20  # upsampled, it changes sign behind column 14
    beside = torch.zeros(1, 16, 24)
    beside[:, :, :12] = 1
    assert segmentation_loss(logits, target) < 0.05 < segmentation_loss(logits, beside)
    grad = logits.bfloat16().requires_grad_()
    segmentation_loss(grad, target).sum().backward()
    assert grad.grad is not None and grad.grad.abs().sum() > 0


def test_mask_iou() -> None:
    logits = torch.tensor([[[1.0, 1.0, -1.0]], [[-1.0, -1.0, -1.0]], [[1.0, -1.0, -1.0]]])
    target = torch.tensor([[[0.9, 0.1, 0.8]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    assert mask_iou(logits, target).tolist() == pytest.approx([1 / 3, 1.0, 0.0])


def test_where_nothing_is_asked_for_the_empty_mask_is_best() -> None:
    nothing = torch.zeros(1, 8, 8)
    speck = nothing.clone()
    speck[0, 0, 0] = 1
    assert mask_loss(nothing - 8, nothing) < 0.1
    assert mask_loss(speck * 16 - 8, nothing) > 0.8


def test_words_get_cross_entropy() -> None:
    logits, labels = torch.randn(4, FIRST + NUMBERS), torch.tensor([0, 3, 9, 5])
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(language_loss(logits, labels, FIRST, NUMBERS), expected)


def test_a_near_number_costs_less_than_a_far_one() -> None:
    def loss_of(said: int) -> float:
        logits = torch.full((1, FIRST + NUMBERS), -10.0)
        logits[0, FIRST + said] = 10.0
        return language_loss(logits, torch.tensor([FIRST + 100]), FIRST, NUMBERS).item()

    assert loss_of(100) < loss_of(101) < loss_of(103) < loss_of(110)


@given(value=st.integers(0, NUMBERS - 1), sigma=st.floats(0.5, 5))
def test_soft_labels_are_a_distribution_around_the_number(value: int, sigma: float) -> None:
    density = soft_number_labels(torch.tensor([[float(value)]]), NUMBERS, sigma)[0]
    assert density.sum().item() == pytest.approx(1, abs=1e-5)
    assert int(density.argmax()) == value
