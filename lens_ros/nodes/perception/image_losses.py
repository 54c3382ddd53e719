"""Notice that most images get lost between the camera and this node. Pure Python, no ROS.

A camera publishes each image together with a `camera_info` of the same stamp. That message is small: it
arrives where an image of many packets does not. The images alone prove nothing: a slow camera and a throttled
topic have large gaps as well.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, takewhile
from statistics import mean, pstdev

IMAGES = 20  # looked at, the newest ones
FEWEST_IMAGES = 9  # to judge by
WINDOW_S = 60.0  # older ones are of no interest
INFOS = 4000  # kept: a camera of 60 Hz for the window
LOST = 2.0  # camera_info per image from which on this is a loss: less than half of the images arrive
PAIRED = 0.8  # share of images whose own camera_info is there; below, the two do not belong together
# Standard deviation of the gaps over their mean. A throttled topic has even gaps (below 0.25); a random loss
# of a share p gives sqrt(p), that is 0.7 and more where more than half is lost.
IRREGULAR = 0.4


@dataclass(frozen=True)
class Loss:
    """Rates of arriving messages, per second of the stamps' time."""

    images_hz: float
    infos_hz: float


class ImageLosses:
    """Compares the stamps of images with those of `camera_info`, both in ns. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._images: deque[tuple[float, int]] = deque(maxlen=IMAGES)  # when it came, and its stamp
        self._infos: deque[tuple[float, int]] = deque(maxlen=INFOS)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._images.clear()
            self._infos.clear()

    def image(self, stamp: int) -> None:
        """Note that an image has arrived; a no-op without a stamp."""
        self._add(self._images, stamp)

    def info(self, stamp: int) -> None:
        """Note that a `camera_info` has arrived; a no-op without a stamp."""
        self._add(self._infos, stamp)

    def infos_since(self, seconds: float) -> int:
        """Return how many `camera_info` have arrived in the last seconds."""
        since = self._clock() - seconds
        with self._lock:
            return sum(at >= since for at, _ in self._infos)

    def loss(self) -> Loss | None:
        """Return the rates if less than half of the images arrive, with irregular gaps; otherwise None."""
        since = self._clock() - WINDOW_S
        with self._lock:
            images = [stamp for at, stamp in self._images if at >= since]
            infos = list(takewhile(lambda stamp: stamp >= images[0], self._newest_infos())) if images else []
        numbers = {stamp: -age for age, stamp in enumerate(infos)}
        paired = [stamp for stamp in images if stamp in numbers]
        if len(paired) < max(FEWEST_IMAGES, PAIRED * len(images)):
            return None
        gaps = [numbers[later] - numbers[earlier] for earlier, later in pairwise(paired)]
        if mean(gaps) <= LOST or pstdev(gaps) < IRREGULAR * mean(gaps):
            return None
        seconds = (paired[-1] - paired[0]) * 1e-9
        return Loss(len(gaps) / seconds, sum(gaps) / seconds)

    def _newest_infos(self) -> Iterator[int]:
        return (stamp for _, stamp in reversed(self._infos))

    def _add(self, series: deque[tuple[float, int]], stamp: int) -> None:
        if not stamp:
            return
        with self._lock:
            if series and stamp <= series[-1][1]:
                # A recording that restarted, a clock that was set, two cameras: start over.
                self._images.clear()
                self._infos.clear()
            series.append((self._clock(), stamp))
