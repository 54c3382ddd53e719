"""Uncached pass over whole sequences, the reference for every faster way in the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lens_ros.model.network import LensModel
from lens_ros.model.positions import counted_positions, padded_mrope_positions


@dataclass(frozen=True)
class FullPass:
    """Result of a full pass.

    Attributes:
        hidden: Final hidden states of the tokens, ``(B, L, H)``.
        queries: Final hidden states of the context queries, ``(B, Q, H)``.
        positions: Positions of both, ``(3, B, L + Q)``.
    """

    hidden: torch.Tensor
    queries: torch.Tensor
    positions: torch.Tensor


def full_pass(
    model: LensModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    visual: torch.Tensor,
    grids: Sequence[tuple[int, int]],
) -> FullPass:
    """Read prompts, answers and context queries at once, with the positions of ``config.query_positions``.

    Causality makes one pass enough: the queries come last and change no token before them. Gradients flow.

    Args:
        model: The model.
        input_ids: ``(B, L)``.
        attention_mask: ``(B, L)``; padding (mask 0) may be at the left, at the right or both.
        visual: ``(n, H)``, visual tokens of all images, in order.
        grids: Rows and columns of each image's visual tokens.

    Raises:
        ValueError: Image tokens and images do not match, or the model has no context module.
    """
    context = model.context_module()
    asked = context.learnable_query.expand(len(input_ids), -1, -1)
    mask = torch.cat([attention_mask, attention_mask.new_ones(asked.shape[:2])], dim=1)
    if model.config.query_positions == "sequential":
        positions = counted_positions(mask)
    else:
        image_token = model.reasoner.config.image_token_id
        text, following = padded_mrope_positions(input_ids, attention_mask, image_token, grids)
        tail = following[:, None] + torch.arange(asked.shape[1], device=following.device)
        positions = torch.cat([text, tail.expand(3, -1, -1)], dim=2)
    hidden = model.language_model(
        inputs_embeds=torch.cat([model.embed(input_ids, visual), asked], dim=1),
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    length = input_ids.shape[1]
    return FullPass(hidden[:, :length], hidden[:, length:], positions)
