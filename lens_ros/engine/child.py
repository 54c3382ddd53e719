"""Run a module of this package as a child process that reports in JSON lines on standard output.

Loads nothing heavy: a compiler's process must keep its memory for the compiler.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_LINES_KEPT = 3  # of output that is not JSON, for the message of a failure

Message = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Result of a child process."""

    status: int  # exit status; the negative number of the signal that ended it
    last: Message  # last message, empty without one
    noise: tuple[str, ...]  # last lines that were no JSON, such as a traceback

    @property
    def killed_by(self) -> signal.Signals | None:
        """Signal that ended the process before it could report an error."""
        return signal.Signals(-self.status) if self.status < 0 and "error" not in self.last else None

    @property
    def failure(self) -> str:
        """Reason of a failure: the reported error, else the last lines, else the exit status."""
        return self.last.get("error") or "; ".join(self.noise) or f"exit status {self.status}"


def start(module: str, argument: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start ``python -m MODULE ARGUMENT`` with this very package first on its search path.

    Args:
        environment: variables that replace those of this process.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, argument],
        env={**package_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def package_environment() -> dict[str, str]:
    """Return this process's environment with this very package first on Python's search path."""
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def follow(process: subprocess.Popen[str], received: Callable[[Message], None]) -> Outcome:
    """Pass on each message of a child until it ends; kill it if this is interrupted."""
    last: Message = {}
    noise: list[str] = []
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                try:
                    message = json.loads(line)
                except ValueError:
                    message = None
                if isinstance(message, dict):
                    last = message
                    received(message)
                else:
                    noise = [*noise, line.strip()][-_LINES_KEPT:]
        except BaseException:  # do not wait for it: it may work for minutes
            process.kill()
            raise
    return Outcome(process.returncode, last, tuple(noise))


def report(message: Message) -> None:
    """Send a message from the child."""
    print(json.dumps(message), flush=True)


def end_with_parent(number: int) -> None:
    """Let the kernel send this signal to the child when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
