"""LensModel: reasoner, context module and segmenter, composed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Sam2Config
from transformers.cache_utils import DynamicCache

from lens_ros.model.config import LensConfig
from lens_ros.model.context import ContextModule
from lens_ros.model.images import reasoner_grid, reasoner_inputs, segmenter_inputs
from lens_ros.model.positions import mrope_positions
from lens_ros.model.segmenters import ImageFeatures, Sam2Segmenter


class GenerationCancelled(Exception):
    """The caller asked for generation to stop."""


@dataclass(frozen=True)
class Thought:
    """What one act of reasoning leaves behind: the answer's token ids and the prompt for the segmenter,
    ``(1, 1, C)``."""

    token_ids: list[int]
    prompt: torch.Tensor


class LensModel(nn.Module):
    """``reason`` turns an image and a question into an answer and a prompt; ``decode`` turns prompts into
    mask logits on an encoded image."""

    def __init__(self, config: LensConfig) -> None:
        super().__init__()
        self.config = config
        self.reasoner = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config.reasoner))
        self.segmenter = Sam2Segmenter(Sam2Config(**config.segmenter), config.image_encoder)
        self.context = ContextModule(self.width, self.segmenter.prompt_width, config.context)

    @property
    def width(self) -> int:
        """Of the reasoner's hidden states."""
        return self.reasoner.config.text_config.hidden_size

    @property
    def language_model(self) -> nn.Module:
        return self.reasoner.model.language_model

    def see(self, rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The reasoner's vision tower on ``(B, S, S, 3)`` uint8.

        Returns patch features ``(B, N, D)`` (merge order) and visual tokens ``(B, N/4, H)`` (row-major).
        """
        pixel_values, grid = reasoner_inputs(rgb, self.config.image)
        visual = self.reasoner.model.visual
        seen = visual(pixel_values.to(visual.dtype), grid_thw=grid)
        batch = rgb.shape[0]
        return (
            seen.last_hidden_state.view(batch, -1, seen.last_hidden_state.shape[-1]),
            seen.pooler_output.view(batch, -1, self.width),
        )

    def encode_image(self, rgb: torch.Tensor) -> ImageFeatures:
        """The segmenter's image encoder on ``(B, S, S, 3)`` uint8."""
        pixels = segmenter_inputs(rgb, self.config.image)
        return self.segmenter.encode(pixels.to(self.context.learnable_query.dtype))

    def decode(self, features: ImageFeatures, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts ``(B, N, C)`` to logits ``(B, N, S/4, S/4)`` and predicted IoU ``(B, N)``."""
        return self.segmenter.decode(features, prompts.unsqueeze(2))

    @torch.inference_mode()
    def reason(
        self,
        rgb: torch.Tensor,
        input_ids: torch.Tensor,
        *,
        end_token: int,
        max_new_tokens: int,
        on_token: Callable[[list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Thought:
        """Greedy answer to one prompt about one image, then the query pass on the same cache.

        Args:
            rgb: ``(1, S, S, 3)`` uint8, squashed to the reasoner's size.
            input_ids: ``(L,)`` int64, image placeholders included.
            end_token: generation stops after it; it is kept out of ``Thought.token_ids``.
            on_token: called with all ids so far, after each one.
            cancelled: asked before each token.

        Raises:
            GenerationCancelled: ``cancelled()`` was true.
        """
        reader = _Reader(self, rgb, input_ids)
        tokens: list[int] = []
        for token in reader.greedy(max_new_tokens):
            if cancelled is not None and cancelled():
                raise GenerationCancelled
            if token == end_token:
                break
            tokens.append(token)
            if on_token is not None:
                on_token(tokens)
        return Thought(tokens, self.context(reader.read_queries()))


class _Reader:
    """One sequence and its cache: prefill, token by token, then the context queries.

    The queries extend the cache that generation left (``query_positions = "mrope"``): the prompt is never
    read twice.
    """

    def __init__(self, model: LensModel, rgb: torch.Tensor, input_ids: torch.Tensor) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.language_model.config)
        image_token = model.reasoner.config.image_token_id
        positions, self.next_position = mrope_positions(
            input_ids.cpu(), image_token, reasoner_grid(model.config.image)
        )
        _, visual = model.see(rgb)
        embedded = model.language_model.embed_tokens(input_ids)[None].clone()
        embedded[0, input_ids == image_token] = visual[0].to(embedded.dtype)
        self.hidden = self._extend(embedded, positions[:, None])
        self.pending: list[int] = []  # generated, not yet in the cache

    def greedy(self, limit: int) -> Iterator[int]:
        for _ in range(limit):
            logits = self.model.reasoner.lm_head(self.hidden[:, -1])
            token = int(logits.argmax(-1))
            self.pending.append(token)
            yield token
            self.hidden = self._extend(self._embed(self.pending))
            self.pending = []

    def read_queries(self) -> torch.Tensor:
        """Final hidden states ``(1, Q, H)`` of the context queries, which follow all that was generated."""
        queries = self.model.context.learnable_query
        embedded = torch.cat([self._embed(self.pending), queries], dim=1) if self.pending else queries
        return self._extend(embedded)[:, -queries.shape[1] :]

    def _embed(self, tokens: list[int]) -> torch.Tensor:
        table = self.model.language_model.embed_tokens
        return table(torch.tensor([tokens], device=table.weight.device))

    def _extend(self, embedded: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        if positions is None:
            steps = torch.arange(embedded.shape[1]) + self.next_position
            positions = steps.expand(3, 1, -1)
            self.next_position += embedded.shape[1]
        return self.model.language_model(
            inputs_embeds=embedded,
            position_ids=positions.to(embedded.device),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
