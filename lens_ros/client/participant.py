"""Hold a separate ROS context: a node that a thread spins, and a `LensClient` in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.task import Future

from lens_ros.client.errors import LensError
from lens_ros.client.lens_client import LensClient
from lens_ros.ros import starting
from lens_ros.ros.middleware import fitted_profile
from lens_ros.ros.starting import StartError
from lens_ros.ros.workarounds.executor import spin

POLL_S = 0.02


class Participant:
    """A participant of the ROS graph, as long as it is open. Any thread but its own may wait."""

    def __init__(self, node_name: str, perception: str, server_timeout_s: float) -> None:
        self._context = rclpy.Context()
        try:
            with fitted_profile() as trouble:
                starting.init(context=self._context)
                self.node = rclpy.create_node(node_name, context=self._context)
        except StartError as error:
            raise LensError(str(error)) from error
        if trouble:
            self.node.get_logger().warning(trouble)
        self.client = LensClient(self.node, perception, server_timeout_s=server_timeout_s)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="lens client", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and the context; no-op if they have ended."""
        if not self._context.ok():
            return
        self._executor.shutdown()
        self._thread.join()
        self.client.close()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def wait(self, start: Callable[[], Future]) -> Any:
        """Return the result of the future that `start` makes, or raise what it fails with.

        Raises:
            LensError: this is closed meanwhile; also as `check_thread`.
        """
        self.check_thread()
        ended = threading.Event()
        future = start()
        future.add_done_callback(lambda _: ended.set())
        while not ended.wait(0.5):  # timeouts are the future's own, as long as the thread lives
            if not self._thread.is_alive():
                raise LensError("the client was closed, or ROS was shut down, while it waited")
        return future.result()

    def settle(self, future: Future) -> None:
        """Wait a moment, so that a cancel request is sent."""
        until = time.monotonic() + 1.0
        while not future.done() and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(POLL_S)

    def check_thread(self) -> None:
        """Raise RuntimeError in the own thread, where a wait cannot end, and `LensError` after `close`."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking call inside on_feedback would wait for itself; make it after the answer, or use "
                "LensClient"
            )
        if not self._thread.is_alive():
            raise LensError("the client is closed, or ROS was shut down; make a new one")

    def _spin(self) -> None:
        try:
            spin(self._executor)
        except ExternalShutdownException:
            pass
