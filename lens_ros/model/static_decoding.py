"""Generate answers fast: a decode step over buffers that never move.

A growing cache (``"dynamic"``) allocates memory and launches each kernel for every token. Here keys and
values are in transformers' ``StaticCache``, with mask and positions in fixed buffers, and each step does the
same work on the same addresses. On a GPU the step is recorded once as a CUDA graph and replayed
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs); ``"compiled"`` compiles it first with
``torch.compile``, which fuses the unpacking of quantised weights into their products.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from transformers.cache_utils import StaticCache

from lens_ros.model.kv_cache import Reading

CAPACITY_STEP = 256  # columns; questions of similar length share buffers, and what was compiled for them
_KEPT = 4  # decoders
_WARM_UPS = 3  # before a CUDA graph is recorded


class StaticDecoder:
    """Generate tokens with a cache of fixed size.

    It continues a :class:`~lens_ros.model.kv_cache.Reading` of ``rows`` sequences, with ``capacity`` columns
    at most. :meth:`begin` takes over what was read, :meth:`advance` reads one token of each row, :meth:`end`
    hands it all back. **On a GPU it has not been run**: there was none. What could be checked without one is
    that the step is free of host synchronization by construction (no ``.item()``, no boolean indexing, no
    shapes that depend on values) and yields the tokens of the growing cache.
    """

    def __init__(
        self, language_model: nn.Module, head: nn.Module, rows: int, capacity: int, *, compiled: bool
    ) -> None:
        table = language_model.embed_tokens.weight
        self._language_model, self._head = language_model, head
        self._capacity = capacity
        self._cache = StaticCache(config=language_model.config, max_cache_len=capacity)
        # What the queries of a step may see: 0, or the least number there is, added to their scores.
        self._hidden = torch.finfo(table.dtype).min
        self._mask = torch.zeros(rows, 1, 1, capacity, dtype=table.dtype, device=table.device)
        self._next = torch.zeros(rows, dtype=torch.int64, device=table.device)
        self._column = torch.zeros(1, dtype=torch.int64, device=table.device)
        self._token = torch.zeros_like(self._next)
        self._written = torch.zeros_like(self._next)
        self._length = 0
        # fullgraph: a break would fall back to slow code without a word.
        self._run = torch.compile(self._step, dynamic=False, fullgraph=True) if compiled else self._step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: torch.Tensor | None = None

    def begin(self, reading: Reading) -> None:
        """Take over what was read, with room for the rest.

        Raises:
            ValueError: there are other rows, or more columns, than the buffers were made for.
        """
        if reading.rows != len(self._next) or reading.length > self._capacity:
            raise ValueError(
                f"{reading.rows} rows of {reading.length} columns do not fit into buffers for "
                f"{len(self._next)} rows of {self._capacity}"
            )
        self._load(reading)
        if self._next.is_cuda and self._graph is None:
            # Streams belong to the current device, which need not be the model's.
            with torch.cuda.device(self._next.device):
                self._record()
            self._load(reading)  # recording wrote into the buffers

    def _load(self, reading: Reading) -> None:
        self._cache.reset()
        for index, (keys, values) in enumerate(reading.layers()):
            self._cache.update(keys, values, index)
        self._length = reading.length
        self._column.fill_(self._length)
        self._next.copy_(reading.next)
        self._mask.fill_(self._hidden)
        self._mask[:, 0, 0, : self._length].masked_fill_(reading.mask.bool(), 0.0)

    def advance(self, token: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        """Read one token of each row.

        Args:
            token: ``(B,)`` int64.
            written: ``(B,)`` bool, false where the token is padding.

        Returns:
            logits ``(B, V)`` of what comes next; on a GPU valid until the next call.

        Raises:
            ValueError: the buffers are full.
        """
        if self._length == self._capacity:
            raise ValueError(f"all {self._capacity} columns of the cache are taken")
        self._length += 1
        self._token.copy_(token)
        self._written.copy_(written)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._logits = self._run()
        assert self._logits is not None
        return self._logits

    def end(self, reading: Reading) -> None:
        """Put what was read since :meth:`begin` into ``reading``, as that got it."""
        layers = [
            (layer.keys[:, :, : self._length], layer.values[:, :, : self._length])
            for layer in self._cache.layers
        ]
        mask = (self._mask[:, 0, 0, : self._length] == 0).long()
        reading.replace(layers, mask, self._next.clone())

    def _step(self) -> torch.Tensor:
        """Take one step, on the device and in place."""
        # 0, or hidden, without torch.where: it copies its numbers from the host, which no CUDA graph may.
        visible = (self._written - 1).to(self._mask.dtype) * -self._hidden
        self._mask.index_copy_(3, self._column, visible[:, None, None, None])
        hidden = self._language_model(
            inputs_embeds=self._language_model.embed_tokens(self._token)[:, None],
            attention_mask={"full_attention": self._mask},
            position_ids=self._next[:, None].expand(3, -1, -1),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._column.add_(1)
        self._next.add_(self._written)
        return self._head(hidden[:, -1])

    def _record(self) -> None:
        """Record the step as a CUDA graph. Not run, see the class."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels and memory are chosen, and compiled, outside of the graph
            for _ in range(_WARM_UPS):
                self._column.zero_()
                for layer in self._cache.layers:
                    layer.cumulative_length.zero_()
                self._run()
            self._column.zero_()
            for layer in self._cache.layers:
                layer.cumulative_length.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using CUDA meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._logits = self._run()
        self._graph = graph


class StaticDecoders:
    """Decoders of a language model by batch size and capacity; those used last are kept."""

    def __init__(self, language_model: nn.Module, head: nn.Module) -> None:
        self._parts = language_model, head
        self._decoders: OrderedDict[tuple, StaticDecoder] = OrderedDict()

    def get(self, rows: int, columns: int, *, compiled: bool) -> StaticDecoder:
        """Return a decoder for ``rows`` sequences of at least ``columns`` columns."""
        capacity = -(-columns // CAPACITY_STEP) * CAPACITY_STEP
        table = self._parts[0].embed_tokens.weight
        key = rows, capacity, compiled, table.device, table.dtype  # the model may have moved
        if key not in self._decoders:
            self._decoders[key] = StaticDecoder(*self._parts, rows, capacity, compiled=compiled)
        self._decoders.move_to_end(key)
        while len(self._decoders) > _KEPT:
            self._decoders.popitem(last=False)
        return self._decoders[key]


def growing(
    reading: Reading, embed: nn.Module, head: nn.Module
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Run :meth:`StaticDecoder.advance` on the growing cache of ``reading``."""

    def advance(token: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        mask = None if bool(written.all()) else written.long()[:, None]
        return head(reading.read(embed(token[:, None]), mask)[:, -1])

    return advance
