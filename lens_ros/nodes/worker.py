"""The thread that thinks: newest image, newest instruction, one answer at a time.

Model calls take hundreds of milliseconds and more, so they never run in an executor's callback. Callbacks
hand images and instructions to an `InferenceWorker`, which calls back when there is something to publish.
Nothing in here knows ROS or the model: both come in as functions, which is what makes the policy testable.

Policy
- Only the newest image is kept; an image is decoded when it is used, not when it arrives.
- A new instruction pre-empts the one in progress, at its next token. No instruction vanishes: one that is
  replaced or interrupted before its answer is reported as unanswered, with the reason, before its successor
  starts.
- An instruction that comes before any usable image waits for one.
- Every instruction is answered once, or every `interval()` seconds where that is above 0, each time on a
  newer image.
- Single requests (an image of their own) come before the camera stream and are not pre-empted by it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
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
    """An active instruction."""

    id: int
    instruction: str
    answered_number: int = -1  # Frame.number of the last answer; -1 before the first
    due: float = 0.0  # earliest start of the next answer, on the worker's clock


@dataclass(eq=False)
class Request:
    """One image, one instruction, one answer, for a caller that waits on `done`."""

    message: Any
    instruction: str
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: str = ""

    def finish(self, result: Any = None, error: str = "") -> None:
        self.result, self.error = result, error
        self.done.set()


class Infer(Protocol):
    """The model: (H, W, 3) uint8 RGB and an instruction in, an answer out. Raises when `cancelled()` turns
    true.
    """

    def __call__(
        self,
        rgb: np.ndarray,
        instruction: str,
        *,
        on_text: Callable[[str], None] | None,
        cancelled: Callable[[], bool],
    ) -> Any: ...


class Listener(Protocol):
    """Who is told. All methods are called from the worker's thread, except `unanswered` without a frame."""

    def text(self, target: Target, frame: Frame, text: str) -> None:
        """Another token of reasoning: `text` is all of it so far."""

    def answered(self, target: Target, frame: Frame, rgb: np.ndarray, result: Any) -> None:
        """The model's answer."""

    def unanswered(self, target: Target, frame: Frame | None, rgb: np.ndarray | None, reason: str) -> None:
        """There is no answer, and why. `frame` and `rgb` are None when no image had been taken up."""

    def unusable(self, frame: Frame, error: Exception) -> None:
        """The image could not be decoded; the target goes on waiting for a usable one."""

    def failed(self, instruction: str, error: Exception) -> str:
        """The model raised `error`; returns the reason to give for the missing answer."""


class InferenceWorker:
    """Runs `infer` in a thread of its own; see the module's policy. All public methods are thread-safe.

    `decode(message) -> (H, W, 3) uint8 RGB` may raise; `interval()` gives the seconds between answers (0:
    once).
    """

    def __init__(
        self,
        infer: Infer,
        decode: Callable[[Any], np.ndarray],
        listener: Listener,
        *,
        interval: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._infer = infer
        self._decode = decode
        self._listener = listener
        self._interval = interval
        self._clock = clock
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._frames = 0
        self._target: Target | None = None
        self._targets = 0
        self._running: Target | None = None
        self._requests: deque[Request] = deque()
        self._stop_reason = ""
        self._replaced_reason = ""
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self, reason: str) -> None:
        """Interrupts what is in progress, reports everything pending as unanswered for `reason`, ends the
        thread.
        """
        with self._changed:
            self._stop_reason = reason
            pending, self._requests = list(self._requests), deque()
            self._changed.notify_all()
        for request in pending:
            request.finish(error=reason)
        if self._thread.is_alive():
            self._thread.join()
        self.clear(reason)

    # What callbacks hand in ---------------------------------------------------------------------------------

    def set_frame(self, message: Any) -> None:
        """Offers a newer camera image."""
        with self._changed:
            self._frames += 1
            self._frame = Frame(message, self._frames)
            self._changed.notify_all()

    def set_instruction(self, instruction: str) -> Target:
        """Makes `instruction` the only active one, in place of the present one."""
        with self._changed:
            self._targets = self._targets % 65535 + 1  # ids are uint16, and 0 means "no target"
            target = Target(self._targets, instruction)
            self._replace(target, f"replaced by a newer instruction: '{instruction}'")
            return target

    def clear(self, reason: str) -> None:
        """Ends the active instruction; `reason` is given when it has no answer yet."""
        with self._changed:
            self._replace(None, reason)

    def submit(self, message: Any, instruction: str) -> Request:
        """Asks for one answer about one image, independent of the camera; wait on the request's `done`."""
        request = Request(message, instruction)
        with self._changed:
            if self._stop_reason:
                request.finish(error=self._stop_reason)
            else:
                self._requests.append(request)
                self._changed.notify_all()
        return request

    @property
    def target(self) -> Target | None:
        """The active instruction."""
        with self._changed:
            return self._target

    @property
    def has_frame(self) -> bool:
        """Whether a camera image has come that was not found unusable."""
        with self._changed:
            return self._frame is not None

    def _replace(self, target: Target | None, reason: str) -> None:
        previous, self._target = self._target, target
        # A target in progress is reported by the worker's thread as soon as the model lets go of it.
        if previous is not None and previous.answered_number < 0 and previous is not self._running:
            self._listener.unanswered(previous, None, None, reason)
        if previous is not None:
            self._replaced_reason = reason
        self._changed.notify_all()

    # The thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (task := self._next()) is not None:
            if isinstance(task, Request):
                self._serve(task)
                continue
            target, frame = task
            try:
                self._follow(target, frame)
            except Exception as error:  # a listener that fails must not end the thread
                self._listener.failed(target.instruction, error)
            finally:
                with self._changed:
                    self._running = None

    def _next(self) -> Request | tuple[Target, Frame] | None:
        """Blocks until there is work; None at the end."""
        with self._changed:
            while not self._stop_reason:
                if self._requests:
                    return self._requests.popleft()
                target, frame = self._target, self._frame
                wait: float | None = None  # until something changes
                if target is not None and frame is not None and frame.number > target.answered_number:
                    interval = self._interval()
                    if target.answered_number < 0 or interval > 0:
                        wait = target.due - self._clock()
                        if wait <= 0:
                            target.due = self._clock() + interval
                            self._running = target
                            return target, frame
                        wait = min(wait, 1.0)  # the interval may be changed while we wait
                self._changed.wait(wait)
            return None

    def _follow(self, target: Target, frame: Frame) -> None:
        try:
            rgb = self._decode(frame.message)
        except Exception as error:
            self._listener.unusable(frame, error)
            with self._changed:
                if self._frame is frame:
                    self._frame = None
                target.due = 0.0
                self._running = (
                    None  # in the same breath as the test, else a replacement now would go unreported
                )
                abandoned = self._target is not target and target.answered_number < 0
            if abandoned:
                self._listener.unanswered(target, None, None, self._reason())
            return

        def cancelled() -> bool:
            return self._target is not target or bool(self._stop_reason)

        try:
            result = self._infer(
                rgb,
                target.instruction,
                on_text=lambda text: self._listener.text(target, frame, text),
                cancelled=cancelled,
            )
        except Exception as error:
            target.answered_number = frame.number
            reason = self._reason() if cancelled() else self._listener.failed(target.instruction, error)
            self._listener.unanswered(target, frame, rgb, reason)
        else:
            target.answered_number = frame.number
            self._listener.answered(target, frame, rgb, result)

    def _reason(self) -> str:
        with self._changed:
            return self._stop_reason or self._replaced_reason

    def _serve(self, request: Request) -> None:
        try:
            rgb = self._decode(request.message)
        except Exception as error:
            request.finish(error=str(error))
            return
        try:
            result = self._infer(
                rgb, request.instruction, on_text=None, cancelled=lambda: bool(self._stop_reason)
            )
        except Exception as error:
            request.finish(error=self._stop_reason or self._listener.failed(request.instruction, error))
        else:
            request.finish(result)
