"""Limit repeated texts, and count what was left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable


class Throttle:
    """Pass the first `burst` texts of each kind in an interval; count the others.

    rclpy's own throttling goes by the line of code, so that a flood of one error would hide another. The
    kinds must be few: each is remembered. Thread-safe.

    Args:
        interval: length of an interval in seconds. It begins with the first text that passes.
        burst: texts of each kind that pass in an interval.
    """

    def __init__(
        self, interval: float, *, burst: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.interval = interval
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[Hashable, tuple[float, int, int]] = {}  # begin, passed, suppressed

    def __call__(self, kind: Hashable, text: str) -> str | None:
        """Return `text`, perhaps with the number of its suppressed predecessors, or None to keep quiet."""
        now = self._clock()
        with self._lock:
            begin, passed, suppressed = self._seen.get(kind, (None, 0, 0))
            if begin is None or now - begin >= self.interval:
                begin, passed = now, 0
            if passed >= self._burst:
                self._seen[kind] = (begin, passed, suppressed + 1)
                return None
            self._seen[kind] = (begin, passed + 1, 0)
        return f"{text} (and {suppressed} more like this in between)" if suppressed else text
