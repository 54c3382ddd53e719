"""Send action goals all day, from any thread.

Symptom: each goal leaves a future with the executor, so that answers take twice as long after 4,000 goals;
    a response that another thread takes before its request is noted is lost, and the call never ends.
Upstream: https://github.com/ros2/rclpy/issues/1123, fixed by https://github.com/ros2/rclpy/pull/1532 (October
    2025; #1536 for Jazzy, #1537 for Humble).
Versions: Kilted's wheel 9.1.2 (second future); Jazzy's wheel 7.1.6 and older Humble (lost responses).
Test: tests/nodes/test_client.py::test_goals_leave_nothing_with_the_executor
Test: tests/nodes/test_client.py::test_a_response_may_come_before_the_request_has_returned
May go: when all supported distributions ship the fixes.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node

from lens_ros.ros.endpoints import goal_requests


class GoalClient(ActionClient):
    """An `ActionClient` with `goal_requests` quality of service; see the module."""

    def __init__(self, node: Node, action_type: type, action_name: str, **options: Any) -> None:
        # Before the client is in the node: a spinning executor calls `take_data` from then on.
        self._sending = threading.Lock()
        super().__init__(node, action_type, action_name, **goal_requests(), **options)

    def send_goal_async(self, goal: Any, feedback_callback: Any = None, goal_uuid: Any = None) -> Any:
        """See `ActionClient`."""
        with self._sending:
            sent = super().send_goal_async(goal, feedback_callback, goal_uuid)
        pending = (self._pending_goal_requests, self._pending_cancel_requests, self._pending_result_requests)
        awaited = {id(future) for requests in pending for future in list(requests.values())}
        for future in [each for each in self._futures if id(each) not in awaited]:
            self.remove_future(future)
        return sent

    def _cancel_goal_async(self, goal_handle: Any) -> Any:
        with self._sending:
            return super()._cancel_goal_async(goal_handle)

    def _get_result_async(self, goal_handle: Any) -> Any:
        with self._sending:
            return super()._get_result_async(goal_handle)

    def take_data(self) -> Any:
        """See `ActionClient`."""
        with self._sending:
            return super().take_data()

    def remove_future(self, future: Any) -> None:
        """Remove the future, even if another thread was quicker."""
        with contextlib.suppress(ValueError):
            super().remove_future(future)
