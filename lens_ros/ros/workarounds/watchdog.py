"""End a process in which nothing moves any more, so that launch starts it again.

A callback that never returns, or a library that waits for ever while it holds the interpreter's lock, can
only be noticed by a thread outside of Python (faulthandler).

Symptom: after 84 to 117 minutes of soak, Fast DDS deadlocks; whatever creates an endpoint then blocks for
    ever.
Upstream: https://github.com/eProsima/Fast-DDS/issues/6502 (open since August 2026; the same two functions).
    `python -m benchmarks.discovery_deadlock` reproduces it.
Versions: Fast DDS of Kilted; seen in soaks on the wheels.
Test: tests/nodes/test_watchdog.py::test_a_middleware_that_has_locked_itself_up_ends_the_process
May go: when that issue is fixed in all supported distributions. A hanging model still needs a supervisor.
"""

from __future__ import annotations

import faulthandler
import sys
import time

ALIVE_PERIOD_S = 1.0  # each call restarts the thread
LEAST_S = 3.0  # an idle executor makes a turn each second
# Before Python 3.11 faulthandler's thread waits by the system's clock (bpo-41710): one that is set
# forward, as on a robot that gets its time from the network, would end a node that is well.
BY_STEADY_CLOCK = sys.version_info >= (3, 11)


class Watchdog:
    """Ends the process `limit_s`, at least 3 s, after the last sign of life, with exit status 1.

    Before, it prints to stderr `Timeout` and where each thread is. Time in which the process is stopped
    (SIGSTOP, a debugger) counts. Never on Python before 3.11 (Humble).
    """

    def __init__(self) -> None:
        self._told_at = float("-inf")
        self._limit_s = 0.0

    def alive(self, limit_s: float) -> None:
        """Note a sign of life; with a limit of 0 the process is never ended."""
        now = time.monotonic()
        if now < self._told_at + ALIVE_PERIOD_S and limit_s == self._limit_s:
            return
        self._told_at, self._limit_s = now, limit_s
        if limit_s > 0 and BY_STEADY_CLOCK:
            faulthandler.dump_traceback_later(max(limit_s, LEAST_S), exit=True)
        else:
            faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()
