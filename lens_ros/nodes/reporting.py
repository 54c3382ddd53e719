"""How errors and texts are put into the log."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from rclpy.node import Node

from lens_ros.memory import OutOfMemory

Callback = TypeVar("Callback", bound=Callable[..., Any])


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
