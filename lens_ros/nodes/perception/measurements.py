"""Count and time what a node does, and remember its troubles, for diagnostics. No ROS."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

WINDOW_S = 10.0  # over which rates and quantiles are taken
MOST_SAMPLES = 1000  # per series, whatever the rate


class Event(Enum):
    """Events that are counted since the start."""

    IMAGE = auto()
    UNUSABLE_IMAGE = auto()
    OLD_IMAGE = auto()
    FUTURE_IMAGE = auto()
    TIME_JUMP = auto()
    CHANGE_OF_FORM = auto()
    ANSWER = auto()
    TRACKED = auto()
    FAILURE = auto()
    REFUSAL = auto()


class Series(Enum):
    """Series that are measured over the last `WINDOW_S` seconds, in milliseconds unless said otherwise."""

    IMAGE = "image"  # arrivals; the values mean nothing
    AGE_RECEIVED = "age when received"
    AGE_PUBLISHED = "age when published"
    PREPROCESS = "preprocess"
    REASON = "reason"
    DECODE = "decode"
    TOTAL = "total"
    TRACK = "track"


class Trouble(Enum):
    """Kinds of trouble; `about` distinguishes several of a kind."""

    NAMESAKES = auto()
    SIMULATED_TIME = auto()
    NO_IMAGES = auto()
    IMAGE_LOSS = auto()
    UNUSABLE_IMAGE = auto()
    IMAGE_CHANGE = auto()  # about: the kind
    CALIBRATION = auto()
    DEPTH = auto()
    IMAGE_MISMATCH = auto()  # about: the topic
    INSTRUCTION_MISMATCH = auto()  # about: the topic
    ANSWER_MISMATCH = auto()  # about: the topic
    REFUSED_INSTRUCTION = auto()
    FAILED_TARGET = auto()  # about: the target's id
    FAILED_OTHER = auto()  # a job, or tracking


@dataclass(frozen=True)
class Quantiles:
    """Median and 95th percentile of a series, and the number of values."""

    p50: float
    p95: float
    count: int


@dataclass(frozen=True)
class _Note:
    text: str
    until: float  # on the clock


class Measurements:
    """Counters since the start, series of the last `WINDOW_S` seconds, present troubles. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[Event] = Counter()
        self._series: dict[Series, deque[tuple[float, float]]] = {}
        self._notes: dict[tuple[Trouble, str], _Note] = {}

    def count(self, event: Event) -> None:
        """Count an event."""
        with self._lock:
            self._counts[event] += 1

    def counted(self, event: Event) -> int:
        """Return the number of events since the start."""
        with self._lock:
            return self._counts[event]

    def add(self, series: Series, value: float) -> None:
        """Add a value to a series."""
        now = self._clock()
        with self._lock:
            kept = self._series.setdefault(series, deque(maxlen=MOST_SAMPLES))
            while kept and kept[0][0] < now - WINDOW_S:  # a rare one would fill up over hours
                kept.popleft()
            kept.append((now, value))

    def rate(self, series: Series) -> float:
        """Return the values per second in the window."""
        values = self._recent(series)
        return len(values) / WINDOW_S

    def quantiles(self, series: Series) -> Quantiles | None:
        """Return quantiles of the values in the window; None without any."""
        values = sorted(self._recent(series))
        if not values:
            return None
        return Quantiles(_at(values, 0.5), _at(values, 0.95), len(values))

    def note(self, trouble: Trouble, text: str, *, about: str = "", seconds: float = float("inf")) -> None:
        """Remember a trouble for `seconds`, or until it is replaced or forgotten. Empty text forgets it."""
        with self._lock:
            if text:
                self._notes[trouble, about] = _Note(text, self._clock() + seconds)
            else:
                self._notes.pop((trouble, about), None)

    def noted(self, *troubles: Trouble) -> list[str]:
        """Return the present texts of these troubles, in their order, then in that of `about`."""
        now = self._clock()
        with self._lock:
            present = {key: note.text for key, note in self._notes.items() if now < note.until}
        return [
            present[key]
            for trouble in troubles
            for key in sorted((key for key in present if key[0] is trouble), key=lambda key: key[1])
        ]

    def forget(self, *troubles: Trouble) -> None:
        """Forget these troubles, whatever they are about."""
        with self._lock:
            self._notes = {key: note for key, note in self._notes.items() if key[0] not in troubles}

    def _recent(self, series: Series) -> list[float]:
        since = self._clock() - WINDOW_S
        with self._lock:
            return [value for at, value in self._series.get(series, ()) if at >= since]


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
