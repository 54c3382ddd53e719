"""An action client that may send goals all day, from any thread."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node

from lens_ros.ros.endpoints import goal_requests


class GoalClient(ActionClient):
    """An action's client that may send goals all day, from any thread, with `goal_requests`.

    `send_goal_async` of Kilted makes two futures for each goal and returns the second. The first stays with
    the executor, which looks at it in each turn: after 4,000 goals an answer took twice as long. And a
    response that another thread takes before the second is there goes to the first. On Humble and
    Jazzy, without their fixes of October 2025, a response that is taken before its request is noted goes to
    nobody (ros2/rclpy#1123), be it to a goal, to a cancel or to a result's request.
    """

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
        """Also where another thread was quicker."""
        with contextlib.suppress(ValueError):
            super().remove_future(future)
