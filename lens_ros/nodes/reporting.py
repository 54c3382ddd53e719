"""How errors and texts are put into the log."""

from __future__ import annotations

import functools
import logging
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rclpy.node import Node

from lens_ros.memory import OutOfMemory

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


def survives(callback: Callback) -> Callback:
    """Logs what nobody foresaw instead of letting it end the executor, and with it the node.

    For methods of a `PartOfNode`. The last argument is returned then, which for a service is its response.
    """

    @functools.wraps(callback)
    def guarded(self: PartOfNode, *arguments: Any) -> Any:
        try:
            return callback(self, *arguments)
        except Exception as error:
            if self.node.context.ok():  # otherwise shutting down: publishers are gone, and nobody listens
                self.node.get_logger().error(
                    f"internal error in {callback.__name__}: {described(error)}; the node goes on, please "
                    "report this\n" + traceback.format_exc()
                )
            return arguments[-1] if arguments else None

    return guarded  # type: ignore[return-value]


def is_ours(error: Exception) -> bool:
    """Whether the error's text says all that there is to say."""
    return isinstance(error, (ValueError, OutOfMemory)) and bool(str(error))


def described(error: Exception) -> str:
    """An error in one line: what our own errors say, or the type and text of a foreign one."""
    return str(error) if is_ours(error) else f"{type(error).__name__}: {error}"


def shortened(text: str, limit: int = 80) -> str:
    """One line for the log, in which characters that would command a terminal are escaped."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
