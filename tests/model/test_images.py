"""Pictures and patches, compared with transformers' own image processor; masks are placed correctly."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from lens_ros.model.config import ImageConfig
from lens_ros.model.images import (
    CLIP_MEAN,
    CLIP_STD,
    merge_order,
    reasoner_inputs,
    reasoner_picture,
    segmenter_boxes,
    segmenter_inputs,
    segmenter_picture,
    squash,
    upsample,
    visual_grid,
)

CONFIG = ImageConfig(reasoner_size=112)
PAPER = ImageConfig(protocol="refcoco", reasoner_mean=CLIP_MEAN, reasoner_std=CLIP_STD, segmenter_size=1024)
SIZES = [(480, 640), (1080, 1920), (333, 1000), (1000, 333), (20, 90)]  # height, width


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
    assert torch.allclose(segmenter_inputs(white, ImageConfig(segmenter_size=8)), torch.tensor(2.0))


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)


def expect_processor(image: Image.Image, rgb: np.ndarray, config: ImageConfig, **limits: int) -> None:
    """Assert that our picture and patches equal those of Qwen2.5-VL's processor for ``image``."""
    expected = Qwen2VLImageProcessorPil(**limits)(images=[image], return_tensors="pt")
    picture = reasoner_picture(rgb, config)
    pixel_values, grid = reasoner_inputs(torch.from_numpy(np.array(picture))[None], config)
    assert torch.equal(grid, torch.as_tensor(expected["image_grid_thw"]))
    torch.testing.assert_close(pixel_values, torch.as_tensor(expected["pixel_values"]), atol=1e-5, rtol=0)
    rows, cols = visual_grid(*picture.shape[:2])
    assert rows * cols * 4 == len(pixel_values)


@pytest.mark.parametrize("size", SIZES)
def test_refcoco_protocol_equals_the_processor_under_a_million_pixels(size: tuple[int, int]) -> None:
    rgb = noise(size)
    expect_processor(Image.fromarray(rgb), rgb, PAPER, min_pixels=3136, max_pixels=1_000_000)


@pytest.mark.parametrize("size", SIZES)
def test_reasonseg_protocol_equals_the_processor_after_a_resize_to_640(size: tuple[int, int]) -> None:
    rgb = noise(size)
    height, width = size
    scale = 640 / width if width > height else 640 / height
    shrunk = Image.fromarray(rgb).resize((int(width * scale), int(height * scale)))
    config = dataclasses.replace(PAPER, protocol="reasonseg")
    expect_processor(shrunk, rgb, config, min_pixels=3136, max_pixels=12_845_056)


def test_fewer_pixels_can_be_asked_for() -> None:
    picture = reasoner_picture(noise((1080, 1920)), dataclasses.replace(PAPER, max_pixels=200_000))
    assert 150_000 < picture.shape[0] * picture.shape[1] <= 200_000


def test_a_strip_is_refused() -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        reasoner_picture(noise((16, 4000)), PAPER)


def test_the_protocols_squash_for_the_segmenter_with_and_without_antialiasing() -> None:
    rgb = noise((1500, 2000))
    smooth = segmenter_picture(rgb, PAPER)
    sharp = segmenter_picture(rgb, dataclasses.replace(PAPER, protocol="reasonseg"))
    assert np.array_equal(smooth, np.asarray(Image.fromarray(rgb).resize((1024, 1024), Image.BILINEAR)))
    assert np.array_equal(sharp, cv2.resize(rgb, (1024, 1024)))
    assert sharp.std() > 1.2 * smooth.std()


@pytest.mark.parametrize("protocol", ["square", "refcoco", "reasonseg"])
@pytest.mark.parametrize("fit", ["squash", "letterbox"])
@pytest.mark.parametrize("size", [(480, 640), (900, 300), (300, 1600)])
def test_a_mask_lands_where_the_object_is(protocol: str, fit: str, size: tuple[int, int]) -> None:
    """The fake segmenter returns the brightness of its input at a quarter of the resolution."""
    config = dataclasses.replace(PAPER, protocol=protocol, segmenter_fit=fit)
    height, width = size
    rgb = np.zeros((height, width, 3), dtype=np.uint8)
    left, top, right, bottom = width // 2, height // 5, width - width // 8, height // 2
    rgb[top:bottom, left:right] = 255
    shown = segmenter_inputs(torch.from_numpy(np.array(segmenter_picture(rgb, config)))[None], config)
    seen = torch.nn.functional.avg_pool2d(shown.mean(1, keepdim=True), 4)[0]
    logits = upsample(seen, size, config)[0]
    mask = (logits > logits.amin() / 2 + logits.amax() / 2).numpy()
    truth = rgb[..., 0] > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97
    fractions = torch.tensor([left / width, top / height, right / width, bottom / height])
    x1, y1, x2, y2 = segmenter_boxes(fractions, size, config).round().int().tolist()
    inside = shown[0, 0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
    assert inside.min() > 0.9 * shown.max()
    assert shown[0, 0, y1:y2, x2 + 3 :].max() < shown.max() / 2  # a corner by corner check of the box
    assert shown[0, 0, y2 + 3 :, x1:x2].max() < shown.max() / 2
