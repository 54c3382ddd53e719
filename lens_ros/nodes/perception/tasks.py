"""What an `InferenceWorker` works on: camera frames, active instructions, single jobs, and their outcomes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Frame:
    """A camera image as it came: `message` is decoded only when it is used. `number` counts up."""

    message: Any
    number: int


@dataclass(eq=False)
class Target:
    """An active instruction. `ended` says why it is active no longer."""

    id: int
    instruction: str
    ended: str = ""
    reported: bool = False  # whether any answer, or why there is none, has gone out
    after: int = -1  # Frame.number that the next image has to exceed
    waiting: bool = True  # for its next answer, whatever the interval says
    due: float = 0.0  # earliest start of the next answer, on the worker's clock
    failures: int = 0  # of the model, since its last answer


@dataclass(eq=False)
class Job:
    """One instruction on one image, for a caller that waits on `done` or has asked to be told.

    `message` is the image; None asks for the next camera image, which then takes its place. The callbacks
    come from the worker's thread, `on_done` also from whoever cancels the job or stops the worker.
    """

    instruction: str
    message: Any = None
    on_start: Callable[[], None] | None = None
    on_text: Callable[[str], None] | None = None  # all of the reasoning so far, after each token
    on_decode: Callable[[], None] | None = None  # the answer is written, masks come next
    on_done: Callable[[Job], None] | None = None
    after: int = -1  # Frame.number that the next camera image has to exceed
    ended: str = ""  # why it was given up
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: str = ""
    _finishing: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, result: Any = None, error: str = "") -> None:
        """Ends the job once; whatever comes later is ignored."""
        with self._finishing:
            if self.done.is_set():
                return
            self.result, self.error = result, error
            self.done.set()
        if self.on_done is not None:
            self.on_done(self)


@dataclass(frozen=True)
class Answer:
    """What became of one target on one image: the model's result, or None and the reason."""

    target: Target
    result: Any
    reason: str = ""


class Infer(Protocol):
    """The model: (H, W, 3) uint8 RGB and instructions in, one answer each out.

    `on_text(row, text)` is called after each token of each instruction with its reasoning so far, `on_decode`
    when all is written. Raises when `cancelled()` turns true.
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
    """Who is told. All methods are called from the worker's thread, except `ended` and `unanswered`."""

    def started(self, targets: Sequence[Target], frame: Frame) -> None:
        """The model begins to work on these targets."""

    def text(self, target: Target, frame: Frame, text: str) -> None:
        """Another token of reasoning: `text` is all of it so far."""

    def answered(self, frame: Frame, rgb: np.ndarray, answers: Sequence[Answer]) -> None:
        """The model is through with an image; exactly once for each image that `started` was called for."""

    def followed(self, frame: Frame, rgb: np.ndarray, answers: Sequence[Answer]) -> None:
        """Targets were carried on to a newer image, without reasoning."""

    def ended(self, target: Target) -> None:
        """The target is active no longer. Called from whatever thread ended it."""

    def unanswered(self, target: Target, reason: str) -> None:
        """The target ended, without an answer, before any image had been taken up for it."""

    def unusable(self, frame: Frame, error: Exception) -> None:
        """The image could not be decoded; whoever waited for it goes on waiting for a usable one."""

    def failed(self, instruction: str, error: Exception, target: Target | None = None) -> str:
        """The model raised `error`, about a target or a job; returns the reason to give for the missing
        answer.
        """
