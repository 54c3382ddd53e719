"""Handle SIGINT and SIGTERM of programs: the first one starts the end, later ones change nothing."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

INTERRUPTED = 130  # exit status of a program that was interrupted, as shells have it
ENDING = (signal.SIGINT, signal.SIGTERM)
REPEAT_S = 30.0  # longer than any program here takes to end


def ignore() -> None:
    """Ignore SIGINT and SIGTERM until the process has ended.

    Without this a repetition kills the process while the interpreter shuts down: it restores the default
    action of a signal that has a handler in Python, but leaves an ignored one ignored.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def raised_once() -> Iterator[None]:
    """Raise KeyboardInterrupt for the first SIGINT or SIGTERM, and ignore its repetitions from then on.

    A later repetition than `REPEAT_S` raises again: the first one may have been lost, as in a finaliser.
    Handlers are restored where no signal came. A signal that was ignored from the start, as SIGINT is in jobs
    that a script runs in the background, stays ignored. A no-op outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised_at: float | None = None

    def interrupt(*_: Any) -> None:
        nonlocal raised_at
        if raised_at is None or time.monotonic() > raised_at + REPEAT_S:
            raised_at = time.monotonic()
            raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in ENDING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        if raised_at is not None:
            ignore()
            # CPython notes that KeyboardInterrupt left the exec() of a string, as in an import that makes a
            # dataclass, and ends `python -m` by SIGINT even if it was caught. The next exec() forgets that.
            exec("")
        else:
            for number, handler in before.items():
                signal.signal(number, handler)
