"""Convert camera images to the tensors that the two halves of the network read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from lens_ros.channels import contiguous, each_channel
from lens_ros.model.config import ImageConfig

PATCH = 14  # pixels, Qwen2.5-VL
MERGE = 2  # patches merged per side into one visual token
# What released weights were trained with, in 0..1: Qwen2.5-VL's (CLIP's) and SAM's (ImageNet's).
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SURE = 8.0  # logit of a pixel that a mask prompt is sure of
_TEMPORAL = 2  # Qwen2.5-VL's patches span two frames; a still fills both slots
_REASONSEG_SIDE = 640  # pixels: the paper's ReasonSeg evaluation shrinks or grows the longest side to this
_MIN_PIXELS, _PROCESSOR_MAX_PIXELS = 56 * 56, 16384 * PATCH * PATCH * MERGE * MERGE  # Qwen2.5-VL's processor


def reasoner_picture(rgb: np.ndarray, config: ImageConfig) -> np.ndarray:
    """Return what the reasoner sees: ``(H, W, 3)`` uint8 to ``(h, w, 3)`` uint8, sides multiples of 28.

    The protocols follow the reference's evaluation programs: ``"refcoco"`` resizes once, by Qwen's rule under
    ``max_pixels``; ``"reasonseg"`` first brings the longest side to 640, rounding down, and Qwen's processor
    then resizes again.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if config.protocol == "square":
        return squash(rgb, config.reasoner_size)
    image = Image.fromarray(contiguous(rgb))
    if config.protocol == "reasonseg":
        scale = _REASONSEG_SIDE / max(image.size)
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        limit = min(config.max_pixels, _PROCESSOR_MAX_PIXELS)
    else:
        limit = config.max_pixels
    height, width = smart_resize(image.height, image.width, PATCH * MERGE, _MIN_PIXELS, limit)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def segmenter_picture(rgb: np.ndarray, config: ImageConfig) -> np.ndarray:
    """Return what the segmenter sees: ``(H, W, 3)`` uint8 to ``(h, w, 3)`` uint8.

    The longer side becomes ``segmenter_size``; both sides where the image is squashed. ``"reasonseg"``
    shrinks without antialiasing, as the reference's evaluation on ReasonSeg does.
    """
    side = config.segmenter_size
    if config.segmenter_fit == "letterbox":
        height, width = _longest_side(rgb.shape[:2], side)
        return np.asarray(Image.fromarray(contiguous(rgb)).resize((width, height), Image.Resampling.BILINEAR))
    if config.protocol == "square":
        return squash(rgb, side)
    if config.protocol == "reasonseg":
        return _resized(rgb, side, cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(contiguous(rgb)).resize((side, side), Image.Resampling.BILINEAR))


def upsample(logits: torch.Tensor, size: tuple[int, int], config: ImageConfig) -> torch.Tensor:
    """Mask logits of the segmenter's square ``(N, s, s)`` to those of the image, ``(N, H, W)`` float32.

    Bilinear without antialiasing, in float32, as the paper does; with a letterbox the margin is cut off at
    the square's full size first, as SAM does.
    """
    square = logits[None].float()
    if config.segmenter_fit == "letterbox":
        side = config.segmenter_size
        height, width = _longest_side(size, side)
        square = F.interpolate(square, size=(side, side), mode="bilinear", align_corners=False)
        square = square[..., :height, :width]
    return F.interpolate(square, size=size, mode="bilinear", align_corners=False)[0]


def segmenter_boxes(boxes: torch.Tensor, size: tuple[int, int], config: ImageConfig) -> torch.Tensor:
    """Convert boxes ``(..., 4)`` in fractions of an image to pixels of the segmenter's square.

    ``size`` is ``(H, W)`` of the image.
    """
    side = config.segmenter_size
    height, width = _longest_side(size, side) if config.segmenter_fit == "letterbox" else (side, side)
    return boxes * boxes.new_tensor([width, height, width, height])


def mask_prompts(masks: Sequence[np.ndarray], config: ImageConfig) -> torch.Tensor:
    """Convert masks ``(H, W)`` bool of one image to mask prompts ``(N, S/4, S/4)`` float32.

    These are logits of +-8, and values in between where a cell is covered in part.
    """
    side = config.segmenter_size // 4
    prompts = np.full((len(masks), side, side), -_SURE, np.float32)
    for prompt, mask in zip(prompts, masks, strict=True):
        height, width = (
            _longest_side(mask.shape, side) if config.segmenter_fit == "letterbox" else (side, side)
        )
        cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        prompt[:height, :width] = (2 * cover - 1) * _SURE
    return torch.from_numpy(prompts)


def _longest_side(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return height and width, aspect kept, with ``side`` as the longer one (rounded as SAM rounds)."""
    height, width = size
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def squash(rgb: np.ndarray, side: int) -> np.ndarray:
    """Resize ``(H, W, 3)`` uint8 to ``(side, side, 3)``, aspect not kept, area-averaged when shrinking."""
    if rgb.shape[:2] == (side, side):
        return rgb
    shrinks = rgb.shape[0] > side or rgb.shape[1] > side
    return _resized(rgb, side, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _resized(rgb: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    return each_channel(lambda image: cv2.resize(image, (side, side), interpolation=interpolation), rgb)


def normalized(
    rgb: torch.Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    """Normalise ``(B, H, W, 3)`` uint8 to ``(B, 3, H, W)`` float32, ``(x / 255 - mean) / std``."""
    scale = rgb.new_tensor(std, dtype=torch.float32) * 255
    shift = rgb.new_tensor(mean, dtype=torch.float32) * 255
    return ((rgb.float() - shift) / scale).permute(0, 3, 1, 2)


def merge_order(grid: torch.Tensor) -> torch.Tensor:
    """Flatten ``(..., rows, cols)`` patch cells into Qwen2.5-VL's order.

    2x2 blocks row by row, and row-major inside a block.

    Returns ``(..., rows * cols)``.
    """
    *lead, rows, cols = grid.shape
    blocks = grid.reshape(*lead, rows // MERGE, MERGE, cols // MERGE, MERGE)
    return blocks.transpose(-3, -2).reshape(*lead, rows * cols)


def patches(pixels: torch.Tensor, *, position_code: bool) -> torch.Tensor:
    """Cut normalised pictures into the reasoner's patches.

    Args:
        pixels: ``(B, 3, H, W)`` float32, both sides multiples of 28.
        position_code: see :class:`~lens_ros.model.config.ImageConfig`.

    Returns:
        ``(B * H/14 * W/14, 3 * 2 * 14 * 14)`` float32, patches in merge order.
    """
    batch, channels, height, width = pixels.shape
    rows, cols = height // PATCH, width // PATCH
    cut = pixels.reshape(batch, channels, rows, PATCH, cols, PATCH).permute(0, 1, 3, 5, 2, 4)
    cut = merge_order(cut).permute(0, 4, 1, 2, 3)  # (B, N, C, 14, 14)
    if position_code:
        second = _position_code(rows, cols).to(cut).expand(batch, -1, -1, -1, -1)
    else:
        second = cut
    return torch.stack([cut, second], dim=3).reshape(batch * rows * cols, channels * _TEMPORAL * PATCH**2)


@lru_cache(maxsize=4)
def _position_code(rows: int, cols: int) -> torch.Tensor:
    """Return ``(rows * cols, 3, 14, 14)``: 12 frequencies of sin/cos per axis, tiled over each patch."""
    grid = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    code = []
    for axis, cells in zip(grid, (rows, cols), strict=True):
        frequency = torch.exp(torch.linspace(math.log(math.pi / cells), math.log(2.2), 12))
        angle = merge_order(axis)[:, None] * frequency
        code += [angle.sin(), angle.cos()]
    size = 3 * PATCH**2
    waves = torch.cat(code, dim=1)
    return waves.repeat(1, math.ceil(size / waves.shape[1]))[:, :size].reshape(-1, 3, PATCH, PATCH)


def visual_grid(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of visual tokens of a reasoner's picture."""
    return height // (PATCH * MERGE), width // (PATCH * MERGE)


def reasoner_inputs(rgb: torch.Tensor, config: ImageConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert pictures to ``pixel_values`` and ``image_grid_thw`` ``(B, 3)``.

    The reasoner's pictures are ``(B, h, w, 3)`` uint8.
    """
    pixels = normalized(rgb, config.reasoner_mean, config.reasoner_std)
    batch, height, width, _ = rgb.shape
    grid = torch.tensor([[1, height // PATCH, width // PATCH]] * batch, device=rgb.device)
    return patches(pixels, position_code=config.position_code), grid


def segmenter_inputs(rgb: torch.Tensor, config: ImageConfig) -> torch.Tensor:
    """Convert pictures ``(B, h, w, 3)`` uint8 to ``(B, 3, S, S)`` float32, zeros in the margin."""
    pixels = normalized(rgb, config.segmenter_mean, config.segmenter_std)
    side = config.segmenter_size
    return F.pad(pixels, (0, side - pixels.shape[-1], 0, side - pixels.shape[-2]))
