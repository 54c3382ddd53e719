"""Define what the inference thread works on, and the interfaces of the model and of the listener."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from lens_ros.codes import Code, Coded

AFTER_FAILURE_S = 5.0  # from a failure to the next reasoning pass; doubles with each further failure
MOST_DOUBLINGS = 3

DISABLED = Coded(
    "the camera stream is disabled; enable it by ~/enable, or send an image along", Code.DISABLED
)


class TooManyError(Exception):
    """`max_targets` targets are active already."""


class StoppedError(Exception):
    """The scheduler has stopped and accepts nothing more; the text says why."""


@dataclass(frozen=True)
class Frame:
    """A camera image as it arrived; `message` is decoded only when it is used. `number` counts up."""

    message: Any
    number: int


@dataclass(eq=False)
class Target:
    """An instruction that is active until `ended` says why it is not."""

    id: int
    instruction: str
    ended: str = ""
    reported: bool = False  # whether an answer, or the reason for none, was published
    after: int = -1  # Frame.number that the next image has to exceed
    waiting: bool = True  # for its next answer, whatever the interval says
    due: float = 0.0  # earliest start of the next answer, on the scheduler's clock
    failures: int = 0  # of the model, since its last answer

    def retry(self, now: float, *, repeated: bool) -> None:
        """Schedule another reasoning pass after a failure; a repeated target may be due sooner."""
        at = now + AFTER_FAILURE_S * 2 ** min(self.failures, MOST_DOUBLINGS)
        self.failures += 1
        self.waiting, self.due = True, min(self.due, at) if repeated else at


@dataclass(eq=False)
class Job:
    """One instruction on one image, for a caller that waits on `done` or passes callbacks.

    `message` is the image; None asks for the next camera image, which then takes its place. The callbacks
    run in the inference thread; `on_done` also in the thread that cancels the job or stops the worker.
    """

    instruction: str
    message: Any = None
    on_start: Callable[[], None] | None = None
    on_text: Callable[[str], None] | None = None  # all of the reasoning so far, after each token
    on_decode: Callable[[], None] | None = None  # the answer is written, masks come next
    on_done: Callable[[Job], None] | None = None
    after: int = -1  # Frame.number that the next camera image has to exceed
    ended: str = ""  # why it was cancelled
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: str = ""
    _finishing: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, result: Any = None, error: str = "") -> None:
        """End the job; no-op if it has ended."""
        with self._finishing:
            if self.done.is_set():
                return
            self.result, self.error = result, error
            self.done.set()
        if self.on_done is not None:
            self.on_done(self)


@dataclass(frozen=True)
class Reason:
    """Task: answer targets about an image, as one batch."""

    targets: list[Target]
    frame: Frame


@dataclass(frozen=True)
class Serve:
    """Task: answer jobs about one image: the camera's `frame`, or None for the own image of a single job."""

    jobs: list[Job]
    frame: Frame | None


@dataclass(frozen=True)
class Follow:
    """Task: track all targets to a newer image."""

    frame: Frame


@dataclass(frozen=True)
class Errand:
    """Task: call a function while the model is idle."""

    run: Callable[[], None]


@dataclass(frozen=True)
class Idle:
    """No task; something may become due after `wait_s` seconds, or (None) only by a change."""

    wait_s: float | None


Task: TypeAlias = "Reason | Serve | Follow | Errand"


@dataclass(frozen=True)
class Outcome:
    """Outcome for one target on one image: the model's result, or None and the reason."""

    target: Target
    result: Any
    reason: str = ""


class Infer(Protocol):
    """The model: (H, W, 3) uint8 RGB and instructions in, one answer each out.

    `on_text(row, text)` is called after each token of each instruction with the reasoning so far, `on_decode`
    once all answers are generated. Raises if `cancelled()` becomes true.
    """

    def __call__(
        self,
        rgb: np.ndarray,
        instructions: Sequence[str],
        *,
        on_text: Callable[[int, str], None],
        on_decode: Callable[[], None],
        cancelled: Callable[[], bool],
    ) -> Sequence[Any]: ...


class Listener(Protocol):
    """Callbacks invoked by the inference thread; `ended` and `unanswered` by any thread."""

    def started(self, targets: Sequence[Target], frame: Frame) -> None:
        """Note that the model starts on these targets."""

    def text(self, target: Target, frame: Frame, text: str) -> None:
        """Take all reasoning so far, after another token."""

    def answered(self, frame: Frame, rgb: np.ndarray, answers: Sequence[Outcome]) -> None:
        """Take the results of the model about an image; once for each call of `started`."""

    def followed(self, frame: Frame, rgb: np.ndarray, answers: Sequence[Outcome]) -> None:
        """Take the results of tracking targets to a newer image."""

    def ended(self, target: Target) -> None:
        """Note that the target is no longer active; called from the thread that ended it."""

    def unanswered(self, target: Target, reason: str) -> None:
        """Note that the target ended before the model started on it."""

    def unusable(self, frame: Frame, error: Exception) -> None:
        """Note that the image could not be decoded; targets and jobs wait for the next one."""

    def failed(self, instruction: str, error: Exception, target: Target | None = None) -> str:
        """Take an error of the model for a target or a job; return the reason to publish."""
