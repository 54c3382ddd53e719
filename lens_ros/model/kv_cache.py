"""Hold what the language model has read, in its key-value cache, and extend it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers.cache_utils import DynamicCache


class Reading:
    """A batch of sequences in the language model's cache.

    Rows may be ragged: columns with mask 0 are padding, invisible to all that is read later, and take no
    position. Every row's positions go on from where that row stopped.
    """

    def __init__(self, language_model: nn.Module, rows: int) -> None:
        """Create an empty reading of ``rows`` sequences."""
        device = language_model.embed_tokens.weight.device
        self._language_model = language_model
        self._cache = DynamicCache(config=language_model.config)
        self._mask = torch.zeros(rows, 0, dtype=torch.int64, device=device)
        self._next = torch.zeros(rows, dtype=torch.int64, device=device)
        self._ragged = False

    @property
    def rows(self) -> int:
        return self._mask.shape[0]

    @property
    def length(self) -> int:
        """Number of columns read, padding included."""
        return self._mask.shape[1]

    @property
    def mask(self) -> torch.Tensor:
        """``(B, length)`` int64, 0 at padding."""
        return self._mask

    @property
    def next(self) -> torch.Tensor:
        """``(B,)`` int64, each row's next position."""
        return self._next

    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return each layer's keys and values ``(B, heads, length, width)``."""
        return [(layer.keys, layer.values) for layer in self._cache.layers]

    def replace(
        self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], mask: torch.Tensor, following: torch.Tensor
    ) -> None:
        """Replace the content as if this had been read instead; keys and values are copied.

        See :meth:`layers`, :attr:`mask` and :attr:`next`.
        """
        self._cache = DynamicCache(config=self._language_model.config)
        for index, (keys, values) in enumerate(layers):
            self._cache.update(keys, values, index)
        self._mask, self._next = mask, following
        self._ragged = self._ragged or not bool(mask.all())

    def crop(self, columns: int) -> None:
        """Remove the last ``columns``; they must hold no padding."""
        if columns > 0:
            self._cache.crop(-columns)
            self._mask = self._mask[:, :-columns]
            self._next = self._next - columns

    def read(
        self,
        embedded: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Read further tokens.

        Args:
            embedded: ``(B, n, H)``.
            mask: ``(B, n)``, 0 at padding; None for no padding.
            positions: ``(3, B, n)`` and each row's next position ``(B,)``, as
                :func:`~lens_ros.model.positions.padded_mrope_positions` returns them; None counts on.

        Returns:
            Final hidden states ``(B, n, H)``, after the last norm; meaningless at padding.
        """
        return self._read(self._language_model, embedded, mask, positions)

    def absorb(
        self, embedded: torch.Tensor, positions: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        """Read further tokens where only the cache is needed.

        The last layer's feed-forward, whose result would not be used, is left out. Arguments as for
        :meth:`read`.
        """
        self._read(_without_last_feed_forward(self._language_model), embedded, None, positions)

    def _read(
        self,
        language_model: nn.Module,
        embedded: torch.Tensor,
        mask: torch.Tensor | None,
        positions: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        batch, length = embedded.shape[:2]
        if mask is None:
            mask = self._mask.new_ones(batch, length)
        else:
            mask = mask.to(self._mask)
            self._ragged = self._ragged or not bool(mask.all())
        if positions is None:
            steps = mask.cumsum(-1)
            here, self._next = self._next[:, None] + steps - 1, self._next + steps[:, -1]
            axes = here.masked_fill(mask == 0, 1).expand(3, -1, -1)
        else:
            axes, self._next = positions
        self._mask = torch.cat([self._mask, mask], dim=1)
        return language_model(
            inputs_embeds=embedded,
            # Without padding the attention needs no mask of its own, which is faster.
            attention_mask=self._mask if self._ragged else None,
            position_ids=axes,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state

    def fork(self, rows: int) -> Reading:
        """Return an independent copy with each row repeated ``rows`` times in a run; gradients flow."""
        other = copy.copy(self)
        other._cache = DynamicCache(config=self._language_model.config)
        for index, layer in enumerate(self._cache.layers):  # a deep copy would cut gradients
            keys, values = (t.repeat_interleave(rows, dim=0) for t in (layer.keys, layer.values))
            other._cache.update(keys, values, index)
        other._mask = self._mask.repeat_interleave(rows, dim=0)
        other._next = self._next.repeat_interleave(rows, dim=0)
        return other


class _AttentionOnly(nn.Module):
    """A decoder layer that fills the cache and passes its input on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = layer

    def forward(self, hidden_states: torch.Tensor, **settings) -> torch.Tensor:
        self._layer.self_attn(hidden_states=self._layer.input_layernorm(hidden_states), **settings)
        return hidden_states


def _without_last_feed_forward(language_model: nn.Module) -> nn.Module:
    """Return a view of the model with the same weights; the original is not touched."""
    short = copy.copy(language_model)
    short._modules = dict(language_model._modules)  # copy.copy shares it
    *layers, last = language_model.layers
    short.layers = nn.ModuleList([*layers, _AttentionOnly(last)])
    return short


def log_probability(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Return the log-probability ``(B,)`` float32 of ``token`` ``(B,)`` under ``logits`` ``(B, V)``."""
    return logits.float().log_softmax(-1).gather(-1, token[:, None])[:, 0]
