"""Explicit positions, compared with transformers' own rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lens_ros.model.network import LensModel
from lens_ros.model.positions import mrope_positions

IMAGE = 7


@settings(max_examples=60, deadline=None)
@given(
    before=st.integers(0, 12),
    after=st.integers(0, 40),
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
)
def test_equal_transformers(untrained_model, before: int, after: int, rows: int, cols: int) -> None:
    token = untrained_model.reasoner.config.image_token_id
    ids = torch.tensor([1] * before + [token] * (rows * cols) + [1] * after)
    expected, delta = untrained_model.reasoner.model.get_rope_index(
        ids[None],
        mm_token_type_ids=(ids == token).long()[None],
        image_grid_thw=torch.tensor([[1, 2 * rows, 2 * cols]]),
        attention_mask=torch.ones_like(ids)[None],
    )
    positions, following = mrope_positions(ids, token, (rows, cols))
    assert torch.equal(positions, expected[:, 0])
    assert following == len(ids) + int(delta)


def test_text_alone_counts_up() -> None:
    positions, following = mrope_positions(torch.tensor([1, 2, 3]), IMAGE, (4, 4))
    assert positions.tolist() == [[0, 1, 2]] * 3
    assert following == 3


@pytest.mark.parametrize("ids", [[IMAGE] * 3, [IMAGE, 1, IMAGE, IMAGE, IMAGE]])
def test_image_tokens_must_match_the_grid(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="2x2 = 4"):
        mrope_positions(torch.tensor(ids), IMAGE, (2, 2))


@pytest.fixture(scope="module")
def untrained_model(untrained: tuple[LensModel, PreTrainedTokenizerFast]) -> LensModel:
    return untrained[0]
