"""Compute rotary positions: Qwen2.5-VL's M-RoPE and the paper's plain count.

transformers derives positions inside ``generate`` and gets them wrong, silently, for a pass that is given
embeddings instead of token ids. Every pass of this package therefore hands over its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def mrope_positions(
    input_ids: torch.Tensor, image_token: int, grid: tuple[int, int]
) -> tuple[torch.Tensor, int]:
    """Return positions of one sequence; text counts on all three axes, an image on time, height and width.

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


def padded_mrope_positions(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_token: int,
    grids: Sequence[tuple[int, int]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return :func:`mrope_positions` of each row of a padded batch, counted over its unpadded tokens.

    Args:
        input_ids, attention_mask: ``(B, L)``; padding (mask 0) may lie anywhere.
        grids: of each row's image.

    Returns:
        ``(3, B, L)`` int64, 1 at padding, and ``(B,)`` int64, each row's next position; on the device of
        ``input_ids``.

    Raises:
        ValueError: a row's image tokens do not match its grid.
    """
    positions = torch.ones(3, *input_ids.shape, dtype=torch.int64)
    following = torch.zeros(len(input_ids), dtype=torch.int64)
    rows = zip(input_ids.cpu(), attention_mask.cpu().bool(), grids, strict=True)
    for row, (ids, seen, grid) in enumerate(rows):
        positions[:, row, seen], following[row] = mrope_positions(ids[seen], image_token, grid)
    return positions.to(input_ids.device), following.to(input_ids.device)


def counted_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return positions that count unpadded tokens, images like text.

    The query pass of the released checkpoints uses them.

    transformers 4.51.3, which the reference pins, falls back to this rule when it is given embeddings
    without token ids; the weights were trained with it.

    Args:
        attention_mask: ``(B, L)``, 0 at padding.

    Returns:
        ``(3, B, L)`` int64, the same on all axes, 1 at padding.
    """
    count = attention_mask.long().cumsum(-1) - 1
    return count.masked_fill(attention_mask == 0, 1).expand(3, -1, -1)
