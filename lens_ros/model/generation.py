"""Generate an answer token by token: greedy or sampled, streamed, stopped and cancelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lens_ros.model.kv_cache import Reading, log_probability
from lens_ros.model.prompt_lookup import LookupDecoder
from lens_ros.model.static_decoding import StaticDecoder, growing


class GenerationCancelled(Exception):
    """The caller asked for generation to stop."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep every token.

    Row ``k`` of a batch draws from a generator seeded with ``seed + k``: what it says depends neither on the
    other rows nor on the batch's size.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature ({self.temperature}) and top_k ({self.top_k}) must not be negative, "
                f"top_p ({self.top_p}) must lie in 0..1, above 0"
            )


GREEDY = Sampling()


@dataclass(frozen=True)
class Continuation:
    """Generated tokens of a batch.

    ``token_ids`` ``(B, T)`` int64 include the token that ended a row, then padding; ``mask`` ``(B, T)`` int64
    is 0 at padding. All but the last column are in the reading's cache. ``log_probs`` ``(B, T)`` float32
    holds that of each token, at temperature 1 whatever it was drawn with; 0 at padding.
    """

    token_ids: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor


def generate(
    reading: Reading,
    logits: torch.Tensor,
    *,
    embed: nn.Module,
    head: nn.Module,
    end_token: int,
    pad_token: int,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    on_token: Callable[[int, list[int]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    decoder: StaticDecoder | None = None,
) -> Continuation:
    """Generate tokens after what was read; extend ``reading``.

    Args:
        logits: ``(B, V)`` for the first new token.
        embed, head: token ids to embeddings, hidden states to logits.
        end_token: ends a row; it stays part of what was written.
        pad_token: also ends a row, but is padding from then on (Qwen's ``<|endoftext|>`` is both).
        on_token: called with the row and all its ids so far after each of its tokens; without those that end
            it.
        cancelled: asked before each token.
        decoder: with buffers for what was read and ``max_new_tokens`` more; None for the growing cache.

    Raises:
        GenerationCancelled: ``cancelled()`` was true.
        ValueError: ``max_new_tokens`` is less than 1.
    """
    _check(max_new_tokens)
    advance = growing(reading, embed, head) if decoder is None else decoder.advance
    if decoder is not None:
        decoder.begin(reading)
    choose = _Chooser(sampling, reading.rows, logits.device)
    spoken: list[list[int]] = [[] for _ in range(reading.rows)]
    going = torch.ones(reading.rows, dtype=torch.bool, device=logits.device)
    columns: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    log_probs: list[torch.Tensor] = []
    while True:
        if cancelled is not None and cancelled():
            raise GenerationCancelled
        token = torch.where(going, choose(logits), pad_token)
        written = going & (token != pad_token)
        going = written & (token != end_token)
        columns.append(token)
        masks.append(written.long())
        log_probs.append(log_probability(logits, token) * written)
        if on_token is not None:
            _tell(on_token, spoken, token.tolist(), going.tolist())
        if len(columns) == max_new_tokens or not bool(going.any()):
            break
        logits = advance(token, written)
    if decoder is not None:
        decoder.end(reading)
    return Continuation(*(torch.stack(each, dim=1) for each in (columns, masks, log_probs)))


def generate_by_lookup(
    reading: Reading,
    logits: torch.Tensor,
    said: Sequence[int],
    *,
    embed: nn.Module,
    head: nn.Module,
    end_token: int,
    pad_token: int,
    max_new_tokens: int,
    on_token: Callable[[int, list[int]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Continuation:
    """Run greedy :func:`generate` of one row by prompt lookup (:mod:`lens_ros.model.prompt_lookup`).

    Args:
        said: ids of the question, to propose from. Other arguments and errors: see :func:`generate`.
    """
    _check(max_new_tokens)
    decoder = LookupDecoder(reading, logits, said, embed, head)
    ids: list[int] = []
    log_probs: list[float] = []
    going = True
    while going and len(ids) < max_new_tokens:
        if cancelled is not None and cancelled():
            raise GenerationCancelled
        token, log_prob = decoder.take()
        ids.append(token)
        log_probs.append(log_prob)
        going = ids[-1] not in (end_token, pad_token)
        if going and on_token is not None:
            on_token(0, ids)
    decoder.stop()
    token_ids = torch.tensor([ids], device=logits.device)
    mask = (token_ids != pad_token).long()
    return Continuation(token_ids, mask, torch.tensor([log_probs], device=logits.device) * mask)


def _check(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; at least 1 is needed to write an answer")


def _tell(
    on_token: Callable[[int, list[int]], None], spoken: list[list[int]], tokens: list[int], going: list[bool]
) -> None:
    for row, (token, goes_on) in enumerate(zip(tokens, going, strict=True)):
        if goes_on:
            spoken[row].append(token)
            on_token(row, spoken[row])


class _Chooser:
    """Chooser of tokens ``(B,)`` from logits ``(B, V)``."""

    def __init__(self, sampling: Sampling, rows: int, device: torch.device) -> None:
        self._greedy = sampling.temperature == 0
        self._warp = LogitsProcessorList()
        if not self._greedy:
            self._warp.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k > 0:
                self._warp.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._warp.append(TopPLogitsWarper(sampling.top_p))
            self._generators = [
                torch.Generator(device).manual_seed(sampling.seed + row) for row in range(rows)
            ]

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if self._greedy:
            return logits.argmax(-1)
        # input_ids are of no use to these three warpers.
        probabilities = self._warp(torch.empty(0), logits.float()).softmax(-1)
        drawn = [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(probabilities, self._generators, strict=True)
        ]
        return torch.cat(drawn)
