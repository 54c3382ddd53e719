"""What a node does, counted and timed, for its diagnostics. Pure Python, no ROS."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WINDOW_S = 10.0  # over which rates and quantiles are taken
MOST_SAMPLES = 1000  # per series, whatever the rate


@dataclass(frozen=True)
class Quantiles:
    """Median and 95th percentile of a series, and how many values they are of."""

    p50: float
    p95: float
    count: int


class Measurements:
    """Counters since the start, and series of the last `WINDOW_S` seconds. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._series: dict[str, deque[tuple[float, float]]] = {}
        self._notes: dict[str, tuple[str, float]] = {}  # and until when they hold

    def count(self, event: str, number: int = 1) -> None:
        """Something has happened."""
        with self._lock:
            self._counts[event] += number

    def counted(self, event: str) -> int:
        """How often it has happened since the start."""
        with self._lock:
            return self._counts[event]

    def add(self, series: str, value: float) -> None:
        """One value of a series."""
        now = self._clock()
        with self._lock:
            kept = self._series.setdefault(series, deque(maxlen=MOST_SAMPLES))
            while kept and kept[0][0] < now - WINDOW_S:  # a seldom one would fill up over hours
                kept.popleft()
            kept.append((now, value))

    def rate(self, series: str) -> float:
        """Values per second in the window."""
        values = self._recent(series)
        return len(values) / WINDOW_S

    def quantiles(self, series: str) -> Quantiles | None:
        """Of the values in the window; None without any."""
        values = sorted(self._recent(series))
        if not values:
            return None
        return Quantiles(_at(values, 0.5), _at(values, 0.95), len(values))

    def note(self, key: str, text: str, *, seconds: float = float("inf")) -> None:
        """Remembers a text for a while, or until it is replaced; the empty one forgets."""
        with self._lock:
            if text:
                self._notes[key] = text, self._clock() + seconds
            else:
                self._notes.pop(key, None)

    def noted(self, prefix: str) -> list[str]:
        """Every text whose key begins with `prefix`, in order of the keys."""
        now = self._clock()
        with self._lock:
            return [
                text
                for key, (text, until) in sorted(self._notes.items())
                if key.startswith(prefix) and now < until
            ]

    def forget_notes(self, prefix: str) -> None:
        """Forgets every text whose key begins with `prefix`."""
        with self._lock:
            for key in [key for key in self._notes if key.startswith(prefix)]:
                del self._notes[key]

    def _recent(self, series: str) -> list[float]:
        since = self._clock() - WINDOW_S
        with self._lock:
            return [value for at, value in self._series.get(series, ()) if at >= since]


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
