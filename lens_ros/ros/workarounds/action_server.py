"""Let goals be EXECUTING while their jobs run in another thread, without a thread or a coroutine each.

Symptom: an execute callback that awaits a future is polled by the executor at full load; one that blocks
    takes a thread per goal. A server that is destroyed while an executor is about to wait for it raises
    there.
Upstream: none found.
Versions: rclpy of Humble, Jazzy and Kilted.
Test: tests/nodes/test_goals.py::test_eight_clients_at_once
Test: tests/nodes/test_goal_ends.py::test_deactivating_aborts_every_goal_with_the_reason
May go: when rclpy lets a goal be concluded later, from any thread.
"""

from __future__ import annotations

from typing import Any

from rclpy.action import ActionServer


class DeferringActionServer(ActionServer):
    """An action server whose goals execute elsewhere; see the module."""

    _destroyed = False

    def destroy(self) -> None:
        """Destroy the server."""
        self._destroyed = True
        super().destroy()

    def add_to_wait_set(self, wait_set: Any) -> None:
        """Add the server; no-op after `destroy`."""
        if not self._destroyed:
            super().add_to_wait_set(wait_set)

    def is_ready(self, wait_set: Any) -> bool:
        """Return whether there is something to take; false after `destroy`."""
        return not self._destroyed and super().is_ready(wait_set)

    def notify_execute(self, goal_handle: Any, execute_callback: Any) -> None:
        """Ignore the call that `goal_handle.execute()` makes after the change of state."""

    def conclude(self, goal_handle: Any) -> None:
        """Let the executor call the execute callback, which gives the goal its result."""
        super().notify_execute(goal_handle, None)
