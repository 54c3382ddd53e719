"""Compose reasoner, context module and segmenter.

Shape suffixes of local variables: B batch, L tokens, H hidden size, V vocabulary, Q context queries, D width
of the vision tower, N prompts, C width of a prompt, S side of the segmenter's picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Sam2Config

from lens_ros.choices import Decoding
from lens_ros.model.config import LensConfig
from lens_ros.model.context import ContextModule
from lens_ros.model.generation import GREEDY, Continuation, Sampling, generate, generate_by_lookup
from lens_ros.model.images import reasoner_inputs, segmenter_inputs, visual_grid
from lens_ros.model.kv_cache import Reading
from lens_ros.model.positions import padded_mrope_positions
from lens_ros.model.sam import SamSegmenter, SamSizes
from lens_ros.model.sam2 import ImageFeatures, Sam2Segmenter
from lens_ros.model.static_decoding import StaticDecoders


@dataclass(frozen=True)
class Thought:
    """Result of one reasoning pass.

    ``token_ids`` of the answer, without the one that ended it; ``prompt`` for the segmenter ``(1, C)``, None
    if the model has no context module; ``log_probs`` of all tokens, the one that ended it included.
    """

    token_ids: list[int]
    prompt: torch.Tensor | None
    log_probs: list[float]


class LensModel(nn.Module):
    """``look`` at an image, ``reason`` about it, ``decode`` the prompts that result to mask logits."""

    def __init__(self, config: LensConfig) -> None:
        super().__init__()
        self.config = config
        self.reasoner = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config.reasoner))
        self.segmenter = build_segmenter(config)
        self.context: ContextModule | None = None
        if config.context is not None:
            self.context = ContextModule(self.width, self.segmenter.prompt_width, config.context)
        self._static: StaticDecoders | None = None

    @property
    def width(self) -> int:
        """Hidden size of the reasoner."""
        return self.reasoner.config.text_config.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.language_model.embed_tokens.weight.device

    @property
    def language_model(self) -> nn.Module:
        return self.reasoner.model.language_model

    def context_module(self) -> ContextModule:
        """Return ``context``.

        Raises:
            ValueError: the model has none.
        """
        if self.context is None:
            raise ValueError("this model has no context module: its masks come from the answer's boxes")
        return self.context

    def see(self, rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the reasoner's vision tower on ``(B, h, w, 3)`` uint8.

        Returns:
            patch features ``(B, N, D)`` (merge order; the tower's window order if it has windows) and visual
            tokens ``(B, N/4, H)`` (row-major).
        """
        pixel_values, grid = reasoner_inputs(rgb, self.config.image)
        visual = self.reasoner.model.visual
        seen = visual(pixel_values.to(visual.dtype), grid_thw=grid)
        batch = rgb.shape[0]
        return (
            seen.last_hidden_state.view(batch, -1, seen.last_hidden_state.shape[-1]),
            seen.pooler_output.view(batch, -1, self.width),
        )

    def embed(self, input_ids: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        """Embed token ids ``(B, L)`` as ``(B, L, H)``.

        Image placeholders are replaced, in order, by the visual tokens ``(n, H)``.

        Raises:
            ValueError: there are not ``n`` placeholders.
        """
        embedded_BLH = self.language_model.embed_tokens(input_ids)
        placeholders_BL = input_ids == self.reasoner.config.image_token_id
        if int(placeholders_BL.sum()) != len(visual):
            raise ValueError(
                f"the prompts hold {int(placeholders_BL.sum())} image tokens, the images have {len(visual)}"
            )
        return embedded_BLH.masked_scatter(placeholders_BL[..., None], visual.to(embedded_BLH.dtype))

    def encode_image(self, rgb: torch.Tensor) -> ImageFeatures:
        """Run the segmenter's image encoder on ``(B, h, w, 3)`` uint8."""
        return self.segmenter.encode(segmenter_inputs(rgb, self.config.image).to(self.dtype))

    def decode(
        self, features: ImageFeatures, prompts: torch.Tensor, previous: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode prompts ``(B, N, C)`` to logits ``(B, N, S/4, S/4)`` and predicted IoU ``(B, N)``.

        ``previous`` adds a mask prompt to each, ``(B, N, S/4, S/4)`` logits.
        """
        return self.segmenter.decode(features, prompts.unsqueeze(2), previous)

    @torch.inference_mode()
    def look(self, reasoner_rgb: torch.Tensor, segmenter_rgb: torch.Tensor, prefix_ids: torch.Tensor) -> View:
        """Return a view of one image, whose parts are computed when they are first needed.

        Args:
            reasoner_rgb, segmenter_rgb: ``(1, h, w, 3)`` uint8, as
                :func:`~lens_ros.model.images.reasoner_picture` and
                :func:`~lens_ros.model.images.segmenter_picture` make them.
            prefix_ids: ``(P,)`` int64, the opening of every prompt, image placeholders included.
        """
        return View(
            self,
            prefix_ids,
            grid=visual_grid(*reasoner_rgb.shape[1:3]),
            see=lambda: self.see(reasoner_rgb)[1][0],
            encode=lambda: self.encode_image(segmenter_rgb),
        )

    @torch.inference_mode()
    def reason(
        self,
        view: View,
        questions: Sequence[torch.Tensor],
        *,
        end_token: int,
        pad_token: int,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_token: Callable[[int, list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        decoding: Decoding = "dynamic",
    ) -> list[Thought]:
        """Answer questions about one image, as one batch, and read the answers with the context queries.

        Generation extends the cache of the image's prefix. With ``query_positions = "mrope"`` the queries
        simply extend it further; with ``"sequential"`` question, answer and queries extend a second cache of
        the prefix, which has plain positions: the numbers of a full recomputation, without repeating the
        vision tower, the image's tokens or the language head.

        Args:
            view: the image.
            questions: ``(L,)`` int64 each, what follows ``prefix_ids`` up to where the answer begins.
            decoding: see :data:`~lens_ros.choices.Decoding`.

        Other arguments: see :func:`~lens_ros.model.generation.generate`, rows being questions.

        Raises:
            GenerationCancelled: ``cancelled()`` was true.
        """
        table = self.language_model.embed_tokens
        ids_BL, mask_BL = pad_left(questions, pad_token)
        reading = view.reading("mrope").fork(len(questions))
        hidden_BLH = reading.read(table(ids_BL), mask_BL)
        logits_BV = self.reasoner.lm_head(hidden_BLH[:, -1])
        settings: dict[str, Any] = {
            "embed": table,
            "head": self.reasoner.lm_head,
            "end_token": end_token,
            "pad_token": pad_token,
            "max_new_tokens": max_new_tokens,
            "on_token": on_token,
            "cancelled": cancelled,
        }
        answer: Continuation
        if decoding == "lookup" and len(questions) == 1 and sampling.temperature == 0:
            answer = generate_by_lookup(reading, logits_BV, questions[0].tolist(), **settings)
        else:
            decoder = None
            if decoding in ("static", "compiled"):
                columns = reading.length + max_new_tokens
                decoder = self._decoders().get(len(questions), columns, compiled=decoding == "compiled")
            answer = generate(reading, logits_BV, sampling=sampling, decoder=decoder, **settings)
        prompts: Sequence[torch.Tensor | None] = [None] * len(questions)
        if self.context is not None:
            if self.config.query_positions == "sequential":
                reading = view.reading("sequential").fork(len(questions))
                ids_BL = torch.cat([ids_BL, answer.token_ids], 1)
                mask_BL = torch.cat([mask_BL, answer.mask], 1)
            else:
                ids_BL, mask_BL = answer.token_ids[:, -1:], answer.mask[:, -1:]
            prompts = list(self.context(self.read_queries(reading, ids_BL, mask_BL)))
        rows = zip(
            *(t.tolist() for t in (answer.token_ids, answer.mask, answer.log_probs)), prompts, strict=True
        )
        return [
            Thought(_spoken(row, seen, end_token), prompt, [p for p, s in zip(probs, seen, strict=True) if s])
            for row, seen, probs, prompt in rows
        ]

    def _decoders(self) -> StaticDecoders:
        if self._static is None:
            self._static = StaticDecoders(self.language_model, self.reasoner.lm_head)
        return self._static

    def read_queries(self, reading: Reading, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the context queries' final hidden states ``(B, Q, H)`` after reading ``ids``."""
        queries_BQH = self.context_module().learnable_query.expand(len(ids), -1, -1)
        embedded_BLH = torch.cat([self.language_model.embed_tokens(ids), queries_BQH], dim=1)
        mask_BL = torch.cat([mask, mask.new_ones(queries_BQH.shape[:2])], dim=1)
        return reading.read(embedded_BLH, mask_BL)[:, -queries_BQH.shape[1] :]


def build_segmenter(config: LensConfig) -> Sam2Segmenter | SamSegmenter:
    """Return the segmenter that a configuration names, with random weights."""
    if config.image_encoder == "vit":
        return SamSegmenter(SamSizes(**config.segmenter))
    return Sam2Segmenter(Sam2Config(**config.segmenter), config.image_encoder)


class View:
    """One image as the network sees it: everything that no instruction changes.

    Each part is computed once, when it is first needed.
    """

    def __init__(
        self,
        model: LensModel,
        prefix_ids: torch.Tensor,
        *,
        grid: tuple[int, int],
        see: Callable[[], torch.Tensor],
        encode: Callable[[], ImageFeatures],
    ) -> None:
        """Take functions that compute the parts.

        ``prefix_ids`` ``(P,)`` int64: the opening of every prompt; ``grid``: rows and columns of visual
        tokens; ``see`` returns these, ``(n, H)``; ``encode`` returns the segmenter's features.
        """
        self._model = model
        self._prefix_ids = prefix_ids[None]
        self._grid = grid
        self._see = see
        self._encode = encode
        self._prefix: torch.Tensor | None = None
        self._features: ImageFeatures | None = None
        self._readings: dict[str, Reading] = {}

    @property
    @torch.inference_mode()
    def features(self) -> ImageFeatures:
        """Features of the segmenter's image encoder."""
        if self._features is None:
            self._features = self._encode()
        return self._features

    @torch.inference_mode()
    def reading(self, positions: Literal["mrope", "sequential"]) -> Reading:
        """Return the prompts' opening in the language model's cache, one row; fork it, do not extend it."""
        if positions not in self._readings:
            model = self._model
            if self._prefix is None:
                self._prefix = model.embed(self._prefix_ids, self._see())
            explicit = None
            if positions == "mrope":
                ones = torch.ones_like(self._prefix_ids)
                token = model.reasoner.config.image_token_id
                explicit = padded_mrope_positions(self._prefix_ids, ones, token, [self._grid])
            reading = Reading(model.language_model, rows=1)
            reading.absorb(self._prefix, explicit)
            self._readings[positions] = reading
        return self._readings[positions]


def pad_left(sequences: Sequence[torch.Tensor], pad_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(B, L)`` ids and mask, padded at the left: every row's last token stands last."""
    longest = max(len(s) for s in sequences)
    ids = torch.stack([nn.functional.pad(s, (longest - len(s), 0), value=pad_token) for s in sequences])
    mask = torch.stack([nn.functional.pad(torch.ones_like(s), (longest - len(s), 0)) for s in sequences])
    return ids, mask


def _spoken(token_ids: list[int], mask: list[int], end_token: int) -> list[int]:
    return [t for t, seen in zip(token_ids, mask, strict=True) if seen and t != end_token]
