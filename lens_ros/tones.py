"""Reduce tones of more than 8 bits, as cameras and files store them, to 8 bits."""

from __future__ import annotations

import numpy as np

DEPTHS = (8, 10, 12, 14, 16)  # bits of the converters in cameras


def significant_bits(values: np.ndarray) -> int:
    """Return how many bits unsigned integers use: the least of 8, 10, 12, 14, 16 that holds the largest one.

    Cameras store 10, 12 or 14 bits in the lower bits of 16. Values that repeat a byte (8 bits times 257) use
    16, however dark they are.
    """
    largest = int(values.max(initial=0))
    if largest > 0xFF and not ((values >> 8) ^ (values & 0xFF)).any():
        return 16
    return next((bits for bits in DEPTHS if largest < 1 << bits), largest.bit_length())


def to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Return uint8 of unsigned integers with ``bits`` significant bits, at least 8; larger ones are white."""
    return np.minimum(values >> (bits - 8), 255).astype(np.uint8)
