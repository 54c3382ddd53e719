"""Camera images to the tensors that the two halves of the network read."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import torch

from lens_ros.model.config import ImageConfig

PATCH = 14  # pixels, Qwen2.5-VL
MERGE = 2  # patches merged per side into one visual token
_TEMPORAL = 2  # Qwen2.5-VL's patches span two frames; a still fills both slots


def squash(rgb: np.ndarray, side: int) -> np.ndarray:
    """Resizes ``(H, W, 3)`` uint8 to ``(side, side, 3)``, aspect not kept, area-averaged when shrinking."""
    if rgb.shape[:2] == (side, side):
        return rgb
    shrinks = rgb.shape[0] > side or rgb.shape[1] > side
    return cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def normalized(
    rgb: torch.Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    """``(B, H, W, 3)`` uint8 to ``(B, 3, H, W)`` float32, ``(x / 255 - mean) / std``."""
    scale = rgb.new_tensor(std, dtype=torch.float32) * 255
    shift = rgb.new_tensor(mean, dtype=torch.float32) * 255
    return ((rgb.float() - shift) / scale).permute(0, 3, 1, 2)


def merge_order(grid: torch.Tensor) -> torch.Tensor:
    """Flattens ``(..., rows, cols)`` patch cells into Qwen2.5-VL's order: 2x2 blocks, then row-major inside.

    Returns ``(..., rows * cols)``.
    """
    *lead, rows, cols = grid.shape
    blocks = grid.reshape(*lead, rows // MERGE, MERGE, cols // MERGE, MERGE)
    return blocks.transpose(-3, -2).reshape(*lead, rows * cols)


def patches(pixels: torch.Tensor, *, position_code: bool) -> torch.Tensor:
    """Cuts normalised pictures into the reasoner's patches.

    Args:
        pixels: ``(B, 3, S, S)`` float32, S a multiple of 28.
        position_code: see :class:`~lens_ros.model.config.ImageConfig`.

    Returns:
        ``(B * (S/14)**2, 3 * 2 * 14 * 14)`` float32, patches in merge order.
    """
    batch, channels, side, _ = pixels.shape
    cells = side // PATCH
    cut = pixels.reshape(batch, channels, cells, PATCH, cells, PATCH).permute(0, 1, 3, 5, 2, 4)
    cut = merge_order(cut).permute(0, 4, 1, 2, 3)  # (B, N, C, 14, 14)
    if position_code:
        second = _position_code(cells).to(cut).expand(batch, -1, -1, -1, -1)
    else:
        second = cut
    return torch.stack([cut, second], dim=3).reshape(batch * cells * cells, channels * _TEMPORAL * PATCH**2)


@lru_cache(maxsize=4)
def _position_code(cells: int) -> torch.Tensor:
    """``(cells**2, 3, 14, 14)``: 12 frequencies of sin/cos per axis, tiled over a patch's pixels."""
    row, col = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    frequency = torch.exp(torch.linspace(math.log(math.pi / cells), math.log(2.2), 12))
    axes = [merge_order(axis)[:, None] * frequency for axis in (row, col)]
    code = torch.cat([f(axis) for axis in axes for f in (torch.sin, torch.cos)], dim=1)
    size = 3 * PATCH**2
    return code.repeat(1, math.ceil(size / code.shape[1]))[:, :size].reshape(-1, 3, PATCH, PATCH)


def reasoner_grid(config: ImageConfig) -> tuple[int, int]:
    """Rows and columns of visual tokens after merging."""
    side = config.reasoner_size // (PATCH * MERGE)
    return side, side


def reasoner_inputs(rgb: torch.Tensor, config: ImageConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """``(B, S, S, 3)`` uint8, already squashed, to ``pixel_values`` and ``image_grid_thw`` ``(B, 3)``."""
    pixels = normalized(rgb, config.reasoner_mean, config.reasoner_std)
    cells = config.reasoner_size // PATCH
    grid = torch.tensor([[1, cells, cells]] * rgb.shape[0], device=rgb.device)
    return patches(pixels, position_code=config.position_code), grid


def segmenter_inputs(rgb: torch.Tensor, config: ImageConfig) -> torch.Tensor:
    """``(B, S, S, 3)`` uint8, already squashed, to ``(B, 3, S, S)`` float32."""
    return normalized(rgb, config.segmenter_mean, config.segmenter_std)
