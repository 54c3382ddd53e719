"""Patches against transformers' own image processor, and the geometry of squashing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessorPil

from lens_ros.model.config import ImageConfig
from lens_ros.model.images import merge_order, reasoner_inputs, segmenter_inputs, squash

CONFIG = ImageConfig(reasoner_size=112)


@pytest.fixture
def rgb() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8))


def test_patches_equal_transformers(rgb: torch.Tensor) -> None:
    processor = Qwen2VLImageProcessorPil(
        do_resize=False, image_mean=list(CONFIG.reasoner_mean), image_std=list(CONFIG.reasoner_std)
    )
    expected = processor(images=list(rgb.numpy()), return_tensors="pt")
    pixel_values, grid = reasoner_inputs(rgb, CONFIG)
    assert torch.equal(grid, torch.as_tensor(expected["image_grid_thw"]))
    torch.testing.assert_close(pixel_values, torch.as_tensor(expected["pixel_values"]), atol=1e-5, rtol=0)


def test_position_code_tells_every_patch_apart(rgb: torch.Tensor) -> None:
    plain, _ = reasoner_inputs(rgb, CONFIG)
    coded, _ = reasoner_inputs(rgb, dataclasses.replace(CONFIG, position_code=True))
    plain, coded = plain.view(2, 64, 3, 2, 14, 14), coded.view(2, 64, 3, 2, 14, 14)
    assert torch.equal(plain[:, :, :, 0], coded[:, :, :, 0])  # the picture stays in the first slot
    code = coded[:, :, :, 1].flatten(2)
    assert torch.equal(code[0], code[1])  # the code does not depend on the picture
    distance = torch.cdist(code[0], code[0]) + torch.eye(64) * 1e3
    assert distance.min() > 0.5


def test_merge_order_walks_blocks_of_four() -> None:
    grid = torch.arange(16).view(4, 4)
    assert merge_order(grid).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_squash_keeps_relative_places() -> None:
    image = np.zeros((90, 160, 3), dtype=np.uint8)
    image[45:, 120:] = 255  # the right quarter of the lower half
    small = squash(image, 64)
    assert small.shape == (64, 64, 3)
    assert small[33:, 49:].min() == 255
    assert small[:31].max() == 0
    assert small[:, :47].max() == 0


def test_segmenter_inputs_are_normalized() -> None:
    white = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    assert torch.allclose(segmenter_inputs(white, ImageConfig()), torch.tensor(2.0))
