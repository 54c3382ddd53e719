"""Make random choices that consume little state: equal states of the generator choose equally."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def choice(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.random() * len(options))]


def shuffled(options: Iterable[T], rng: np.random.Generator) -> list[T]:
    items = list(options)
    for i in range(len(items) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        items[i], items[j] = items[j], items[i]
    return items


def weighted_order(weights: dict[T, float], rng: np.random.Generator) -> list[T]:
    """Return the keys in random order; each next one is drawn by weight from those that remain."""
    waits = [rng.standard_exponential() / weight for weight in weights.values()]
    return [key for _, _, key in sorted(zip(waits, range(len(waits)), weights, strict=True))]
