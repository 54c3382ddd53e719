"""Send a question as soon as the server is there, and always conclude it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

from lens_ros.client.errors import LensTimeoutError, LensUnavailableError, missing

POLL_S = 0.02


class Operation:
    """A future that gets a result, or fails when the server is not found or does not answer in time."""

    def __init__(
        self,
        node: Node,
        perception: str,
        group: CallbackGroup,
        ready: Callable[[], bool],
        send: Callable[[Operation], None],
        server_timeout_s: float,
        answer_timeout_s: float,
    ) -> None:
        self.future: Future = Future()
        self.sent = False
        self.on_timeout: Callable[[], Any] = lambda: None
        self._node = node
        self._perception = perception
        self._group = group
        self._ready = ready
        self._send = send
        self._server_timeout_s = server_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._deadline = time.monotonic() + server_timeout_s
        self._lock = threading.RLock()
        self._timer: Any = None
        self._ended = False
        self._again: tuple[float, float, Callable[[], None]] | None = None  # when, how often, what

    def begin(self) -> None:
        """Send at once, or as soon as the server was found."""
        self._tick()
        with self._lock:
            if not self._ended:
                self._timer = self._node.create_timer(
                    POLL_S,
                    self._tick,
                    callback_group=self._group,
                    clock=Clock(clock_type=ClockType.STEADY_TIME),
                )

    def every(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back periodically until the end, from a timer of the node."""
        self._again = time.monotonic() + seconds, seconds, callback

    def finish(self, result: Any) -> None:
        """Set the result of the future; no-op if it is done."""
        if self._end():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Make the future fail, unless it has a result."""
        if self._end():
            self.future.set_exception(error)

    def guard(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return `callback` with its exceptions passed to the future."""

        def guarded(future: Any) -> None:
            try:
                callback(future)
            except Exception as error:
                self.fail(error)

        return guarded

    def _tick(self) -> None:
        with self._lock:
            due = not self.sent and not self._ended and self._ready()
            if due:
                self.sent = True
                self._deadline = time.monotonic() + self._answer_timeout_s
        if due:
            try:
                self._send(self)
            except Exception as error:  # such as a field of the wrong type
                self.fail(error)
        elif time.monotonic() > self._deadline and not self._ended:
            if not self.sent:
                self.fail(LensUnavailableError(missing(self._node, self._perception, self._server_timeout_s)))
                return
            self.fail(
                LensTimeoutError(
                    f"'{self._perception}' did not answer within {self._answer_timeout_s:g} s; it is busy, "
                    "or waits for a camera image: look with `lens watch`, or allow more time"
                )
            )
            self.on_timeout()
        elif self._again is not None and time.monotonic() > self._again[0]:
            _, seconds, callback = self._again
            self.every(seconds, callback)
            self.guard(lambda _: callback())(None)

    def _end(self) -> bool:
        """Return whether this call ends it; its callbacks then run without the lock."""
        with self._lock:
            first, self._ended = not self._ended, True
            timer, self._timer = self._timer, None
        if timer is not None:
            self._node.destroy_timer(timer)
        return first
