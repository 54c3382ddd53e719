"""Says something once, and how often it would have been said again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable


class Throttle:
    """Passes the first complaint of each kind at once, then at most one per `interval` seconds.

    rclpy's own throttling goes by the line of code, so that a flood of one error would hide another.
    Thread-safe.
    """

    def __init__(self, interval: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def __call__(self, kind: Hashable, text: str) -> str | None:
        """`text`, perhaps with the number of its suppressed predecessors; None while this kind is to be kept
        quiet.
        """
        now = self._clock()
        with self._lock:
            last, suppressed = self._seen.get(kind, (None, 0))
            if last is not None and now - last < self.interval:
                self._seen[kind] = (last, suppressed + 1)
                return None
            self._seen[kind] = (now, 0)
        return f"{text} (and {suppressed} more like this in between)" if suppressed else text

    def reset(self) -> None:
        """Forgets all: the next complaint of each kind passes."""
        with self._lock:
            self._seen.clear()
