"""Reduce 16-bit images of a camera to 8 bits, all of them by the same number of used bits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from lens_ros.ros.texts import shortened
from lens_ros.tones import significant_bits, to_8_bits

_STREAMS = 64  # that are remembered


class Tones:
    """Remember how many bits each stream of 16-bit images has used, by its encoding and frame.

    Many cameras store 10, 12 or 14 bits in 16. The number only ever grows: a dark image after a bright one
    is not brightened, so that brightness does not flicker. `told(text)` is called when a stream is found to
    use fewer than 16 bits, and when that number grows.
    """

    def __init__(self, told: Callable[[str], object] = lambda text: None) -> None:
        self._told = told
        self._bits: OrderedDict[tuple[str, str], int] = OrderedDict()

    def reduced(
        self, values: np.ndarray, encoding: str, frame_id: str, colors: int | None = None
    ) -> np.ndarray:
        """Return a uint16 image as uint8.

        Args:
            colors: how many channels, the first ones, hold tones; the others (alpha) use all bits.
        """
        key = encoding, frame_id
        known = self._bits.get(key, 0)
        bits = max(known, significant_bits(values if colors is None else values[..., :colors]))
        self._bits[key] = bits
        if len(self._bits) > _STREAMS:
            self._bits.popitem(last=False)
        if bits > known and (known or bits < 16):
            self._told(
                f"{encoding} images of the frame '{shortened(frame_id)}' use {bits} of 16 bits: "
                "8 bits are made of these from now on"
            )
        reduced = to_8_bits(values, bits)
        if colors is not None:
            reduced[..., colors:] = values[..., colors:] >> 8
        return reduced
