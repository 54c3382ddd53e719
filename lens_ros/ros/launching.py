"""Share code of the launch files."""

from __future__ import annotations

import signal
from collections import deque
from pathlib import Path

from lens_ros.ros.command_line import ENDED, UNUSABLE

RESTARTS = 5  # at most, within RESTARTS_WITHIN_S: crashes that follow each other faster have a lasting cause
RESTARTS_WITHIN_S = 600.0
ASKED_TO_END = "it was asked to end"
LEVELS = ("debug", "info", "warn", "error", "fatal")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class Restarts:
    """Decide whether a node's process is started again after its end."""

    def __init__(self) -> None:
        self._crashes: deque[float] = deque(maxlen=RESTARTS)

    def objection(self, returncode: int, now: float) -> str:
        """Return why the process is not started again, or the empty string after a crash.

        Args:
            returncode: of the process; the negative number of the signal that killed it.
            now: seconds of a clock that does not jump.
        """
        if returncode in (ENDED, -signal.SIGINT, -signal.SIGTERM):
            return ASKED_TO_END
        if returncode == UNUSABLE:
            return "its arguments or parameters cannot be used (see its log above); correct them"
        if len(self._crashes) == RESTARTS and now - self._crashes[0] < RESTARTS_WITHIN_S:
            minutes = f"{RESTARTS_WITHIN_S / 60:.0f} minutes"
            return f"it crashed {RESTARTS + 1} times within {minutes}; see its log above"
        self._crashes.append(now)
        return ""


def truth(name: str, text: str) -> bool:
    """Return what the text of a launch argument means; raise ValueError for neither true nor false."""
    word = text.strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise ValueError(f"{name} is '{text}'; expected true or false")
    return word in _TRUE


def number(name: str, text: str) -> float:
    """Return a launch argument as a number; raise ValueError for other text."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} is '{text}'; expected a number") from None


def existing_file(name: str, text: str) -> str:
    """Return the path of a file that a launch argument names; raise ValueError if there is no such file."""
    path = Path(text).expanduser()
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise ValueError(f"{name} {path.absolute()} {found}; correct the path, or leave {name} out")
    return str(path)


def logger(namespace: str, node: str) -> str:
    """Return the name of the logger of a node, which has dots where the namespace has slashes."""
    return ".".join([part for part in namespace.split("/") if part] + [node])


def beside(topic: str, name: str) -> str:
    """Return a topic in the namespace of another one."""
    space, slash, _ = topic.rpartition("/")
    return f"{space}{slash}{name}"
