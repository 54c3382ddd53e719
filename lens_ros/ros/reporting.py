"""Format errors and write lines to the log."""

from __future__ import annotations

import functools
import logging
import traceback
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rclpy.node import Node

from lens_ros.ros.texts import SENTENCE, escaped, shortened
from lens_ros.ros.throttle import Throttle
from lens_ros.system.memory import OutOfMemory

TRACEBACKS_S = 5.0  # interval of the tracebacks of one callback
REQUEST_LINES = 20  # lines of the log about requests of one kind in each interval

OURS = "lens_ros"  # the logger above those of all our modules
FOLDER = Path(__file__).resolve().parents[1]

Callback = TypeVar("Callback", bound=Callable[..., Any])


class PythonWarnings(logging.Handler):
    """Log what lens_ros outside of its nodes warns of, by Python's logging or warnings, as a node does.

    So that it reaches /rosout, and not standard error alone. In force from construction until `close`.
    """

    def __init__(self, log: Any) -> None:
        """Take the logger of a node."""
        super().__init__(logging.WARNING)
        self._log = log
        self._show: Callable[..., None] = warnings.showwarning
        warnings.showwarning = self._shown = self._show_warning
        logging.getLogger(OURS).addHandler(self)

    def close(self) -> None:
        """Leave Python's logging and warnings as they were; no-op the second time."""
        logging.getLogger(OURS).removeHandler(self)
        if warnings.showwarning is self._shown:  # else another node's, which passes on what is not ours
            warnings.showwarning = self._show
        self._log = None
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        log = self._log
        if log is None:
            return
        text = f"{record.name.removeprefix(f'{OURS}.')}: {record.getMessage()}"
        if record.levelno >= logging.ERROR:
            log.error(text)
        else:
            log.warning(text)

    def _show_warning(
        self, message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any, **named: Any
    ) -> None:
        log = self._log
        if log is not None and FOLDER in Path(filename).parents:
            log.warning(f"{Path(filename).relative_to(FOLDER)}:{lineno}: {category.__name__}: {message}")
        else:
            self._show(message, category, filename, lineno, *rest, **named)


class PartOfNode(Protocol):
    """An object whose methods are callbacks of `node`."""

    node: Node


class ThrottledLog:
    """The log of a node, for what may happen at every message: one line per kind and interval.

    The first line after a flood says how many were left out. Kinds must be few (see `Throttle`). Texts are
    escaped and cut to `SENTENCE` characters. `details`, such as a traceback, follow on lines of their own.

    Args:
        interval_s: seconds in which `burst` lines of each kind are logged.
    """

    def __init__(self, node: Any, interval_s: float, *, burst: int = 1) -> None:
        self._node = node
        self._throttle = Throttle(interval_s, burst=burst)
        self._details = Throttle(interval_s)

    def info(self, kind: Hashable, text: str) -> bool:
        """Log at level INFO; return whether the line was logged, or only counted."""
        return self._log("info", kind, text)

    def warning(self, kind: Hashable, text: str) -> bool:
        """Log at level WARN; see `info`."""
        return self._log("warning", kind, text)

    def error(self, kind: Hashable, text: str, details: str = "") -> bool:
        """Log at level ERROR; see `info`."""
        return self._log("error", kind, text, details)

    def _log(self, level: str, kind: Hashable, text: str, details: str = "") -> bool:
        passed = self._throttle((level, kind), shortened(text, SENTENCE))
        if passed is None:
            return False
        # rclpy allows one level for each line of code.
        log = self._node.get_logger()
        if level == "info":
            log.info(passed)
        elif level == "warning":
            log.warning(passed)
        else:
            logged = self._details(kind, details) is not None  # once in an interval, however long the burst
            log.error("\n".join([passed, *map(escaped, details.splitlines() if logged else [])]))
        return True


def request_log(node: Node) -> ThrottledLog:
    """Return the log for instructions, goals, requests and answers, with the node's log_interval_s."""
    return ThrottledLog(node, float(node.get_parameter("log_interval_s").value), burst=REQUEST_LINES)


def survives(callback: Callback) -> Callback:
    """Log an unexpected exception instead of letting it end the executor, and with it the node.

    For methods of a `PartOfNode`. The last argument is returned then, which for a service is its response.
    """
    throttle = Throttle(TRACEBACKS_S)

    @functools.wraps(callback)
    def guarded(self: PartOfNode, *arguments: Any) -> Any:
        try:
            return callback(self, *arguments)
        except Exception as error:
            if self.node.context.ok():  # otherwise shutting down: publishers are gone
                passed = throttle(
                    (self.node.get_fully_qualified_name(), type(error).__name__),
                    f"internal error in {callback.__name__}: {described(error)}; the node goes on, please "
                    "report this",
                )
                if passed is not None:
                    self.node.get_logger().error("\n".join([passed, *traced(error)]))
            return arguments[-1] if arguments else None

    return guarded  # type: ignore[return-value]


def is_ours(error: Exception) -> bool:
    """Return whether the error's text is complete without its type and traceback."""
    return isinstance(error, (ValueError, OutOfMemory)) and bool(str(error))


def described(error: Exception) -> str:
    """Return an error in one line: what our own errors say, or the type and text of a foreign one."""
    return shortened(str(error) if is_ours(error) else f"{type(error).__name__}: {error}", SENTENCE)


def traced(error: Exception) -> list[str]:
    """Return the lines of an error's traceback, escaped."""
    return [escaped(line) for part in traceback.format_exception(error) for line in part.splitlines()]
