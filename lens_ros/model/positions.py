"""Rotary positions of a sequence that holds one image (Qwen2.5-VL's M-RoPE), made explicit.

transformers derives these inside ``generate`` and gets them wrong, silently, for a pass that is given
embeddings instead of token ids. Every pass of this package therefore hands over its own.
"""

from __future__ import annotations

import torch


def mrope_positions(
    input_ids: torch.Tensor, image_token: int, grid: tuple[int, int]
) -> tuple[torch.Tensor, int]:
    """Positions of one sequence: text counts on all three axes, an image spans time 1, height and width.

    Args:
        input_ids: ``(L,)`` int64, with at most one run of ``image_token``.
        image_token: id of the image placeholder.
        grid: rows and columns of merged visual tokens, ``rows * cols`` = length of the run.

    Returns:
        ``(3, L)`` int64 positions (time, height, width) and the position of the next token.

    Raises:
        ValueError: the run of image tokens does not match the grid.
    """
    rows, cols = grid
    length = input_ids.shape[0]
    where = (input_ids == image_token).nonzero()[:, 0]
    if where.numel() == 0:
        return torch.arange(length).expand(3, -1), length
    start, count = int(where[0]), where.numel()
    if count != rows * cols or int(where[-1]) - start + 1 != count:
        raise ValueError(
            f"the prompt holds {count} image tokens, but the image has {rows}x{cols} = {rows * cols}; "
            "expected one unbroken run of that length"
        )
    cell = torch.arange(count)
    image = torch.stack([torch.zeros_like(cell), cell // cols, cell % cols]) + start
    after = start + max(rows, cols)
    tail = after + torch.arange(length - start - count)
    positions = torch.cat([torch.arange(start).expand(3, -1), image, tail.expand(3, -1)], dim=1)
    return positions, after + (length - start - count)
