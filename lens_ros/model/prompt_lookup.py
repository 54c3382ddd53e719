"""Propose tokens from earlier text, and check several of them in one pass (prompt lookup).

Answers repeat the question's words ("the red mug left of ...") and their own. If the last tokens stood
somewhere before, what followed there is proposed; the language model reads all of it at once, and keeps
what it would have said itself. Saxena, "Prompt Lookup Decoding" (2023); in transformers,
``prompt_lookup_num_tokens``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lens_ros.model.kv_cache import Reading, log_probability

NGRAM = 3  # tokens at most that must have stood before
PROPOSED = 6  # tokens at most that are checked together


def propose(said: Sequence[int], *, ngram: int = NGRAM, count: int = PROPOSED) -> list[int]:
    """Return the tokens that followed the last tokens of ``said`` at an earlier place.

    The longest run of at most ``ngram`` last tokens that also occurs further left counts, at its last such
    place. Up to ``count`` tokens that followed there are returned, none if nothing was repeated.
    """
    said = list(said)
    for length in range(min(ngram, len(said) - 1), 0, -1):
        tail = said[-length:]
        for start in range(len(said) - length - 1, -1, -1):
            if said[start : start + length] == tail:
                return said[start + length : start + length + count]
    return []


class LookupDecoder:
    """Decoder of one row that checks proposed tokens in advance; gives its greedy tokens.

    Reading several tokens in one pass rounds differently from reading them one by one: where two tokens are
    equal up to rounding, another one may win than without.
    """

    def __init__(
        self, reading: Reading, logits: torch.Tensor, said: Sequence[int], embed: nn.Module, head: nn.Module
    ) -> None:
        """Extend ``reading``, which holds one row.

        ``logits`` ``(1, V)`` are for its next token; ``said`` holds the ids before that, to propose from.
        """
        self._reading, self._embed, self._head = reading, embed, head
        self._said = list(said)
        self._known = _greedy(logits)  # tokens that are certain, all but the last in the reading
        self._taken = 0  # of them
        self.passes = 0  # of the language model

    def take(self) -> tuple[int, float]:
        """Return the next token and its log-probability."""
        if self._taken == len(self._known):
            self._read_on()
        token, log_prob = self._known[self._taken]
        self._taken += 1
        self._said.append(token)
        return token, log_prob

    def _read_on(self) -> None:
        proposed = propose(self._said)
        ids = torch.tensor([[self._said[-1], *proposed]], device=self._reading.mask.device)
        hidden = self._reading.read(self._embed(ids))
        best = _greedy(self._head(hidden[0]))
        agreed = 0
        while agreed < len(proposed) and proposed[agreed] == best[agreed][0]:
            agreed += 1
        self._reading.crop(len(proposed) - agreed)
        self._known, self._taken = best[: agreed + 1], 0
        self.passes += 1

    def stop(self) -> None:
        """Cut the reading back to all but the token that was taken last; take nothing more."""
        self._reading.crop(len(self._known) - self._taken)
        self._known, self._taken = [], 0


def _greedy(logits: torch.Tensor) -> list[tuple[int, float]]:
    """Return the most probable token, and its log-probability, of each row ``(N, V)``."""
    token = logits.argmax(-1)
    return list(zip(token.tolist(), log_probability(logits, token).tolist(), strict=True))
