"""Check that the node's clock runs if it follows `/clock` (use_sim_time)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

STILL_S = 3.0  # without progress from which on simulated time is said to stand still


class SimulatedTime:
    """Checker of simulated time. `ros_clock` is a node's `ROSClock`."""

    def __init__(self, ros_clock: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ros_clock = ros_clock
        self._clock = clock
        self._time = -1
        self._since = 0.0

    def trouble(self) -> str:
        """Return what is wrong and what to do; empty if nothing is, or time is not simulated."""
        if not self._ros_clock.ros_time_is_active:
            self._time = -1
            return ""
        present, now = self._ros_clock.now().nanoseconds, self._clock()
        if present != self._time:
            self._time, self._since = present, now
        if present == 0:
            return (
                "simulated time has not begun: use_sim_time is set and nothing came on /clock; start the "
                "simulator or the player (with --clock), or set use_sim_time to false"
            )
        if now - self._since >= STILL_S:
            return (
                f"simulated time stands still at {present / 1e9:.1f} s: is the simulator or the player on "
                "/clock paused or gone?"
            )
        return ""
