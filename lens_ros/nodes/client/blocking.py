"""`BlockingLensClient`: `perception` asked from a script that has no node and no executor."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.task import Future
from sensor_msgs.msg import Image

from lens_ros.action import SegmentInstruction
from lens_ros.nodes.client.decoded import Answer
from lens_ros.nodes.client.errors import LensError, LensTimeoutError, LensUnavailableError, missing
from lens_ros.nodes.client.lens_client import ANSWER_TIMEOUT_S, KEPT_ANSWERS, SERVER_TIMEOUT_S, LensClient

POLL_S = 0.02


class BlockingLensClient:
    """Each method returns the answer itself or raises what the futures of `LensClient` fail with.

    Brings its own ROS context, node and executor thread, so it works in a script, a notebook or a test, and
    beside an rclpy that is in use. Any thread may call, but not `on_feedback`. Inside a node, use
    `LensClient`: a callback that blocks keeps its executor from everything else. A context manager that
    closes at its end.
    """

    def __init__(
        self,
        perception: str = "perception",
        *,
        server_timeout_s: float = SERVER_TIMEOUT_S,
        node_name: str = "lens_client",
    ) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(node_name, context=self._context)
        self.client = LensClient(self.node, perception, server_timeout_s=server_timeout_s)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="lens client", daemon=True)
        self._thread.start()

    def __enter__(self) -> BlockingLensClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread and the context; may be called twice."""
        if not self._context.ok():
            return
        self._executor.shutdown()
        self._thread.join()
        self.client.close()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def wait_for_server(self, timeout_s: float | None = None) -> None:
        """Returns once the node offers its services; see `LensClient.wait_for_server`."""
        self._wait(lambda: self.client.wait_for_server(timeout_s))

    def segment(
        self, image: Image | np.ndarray, instruction: str, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Answer:
        """See `LensClient.segment`."""
        return self._wait(lambda: self.client.segment(image, instruction, timeout_s=timeout_s))

    def ask(
        self,
        instruction: str,
        *,
        image: Image | np.ndarray | None = None,
        on_feedback: Callable[[SegmentInstruction.Feedback], None] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """See `LensClient.ask`. Ctrl-C, and an error of `on_feedback`, cancel the goal.

        `on_feedback` is called in the client's thread.
        """
        self._check_thread()
        question = self.client.ask(instruction, image=image, on_feedback=on_feedback, timeout_s=timeout_s)
        try:
            return self._wait(lambda: question.future)
        except BaseException:
            if not question.done():
                question.cancel()
                self._settle(question.future)
            raise

    def set_instruction(self, instruction: str) -> int:
        """See `LensClient.set_instruction`."""
        return self._wait(lambda: self.client.set_instruction(instruction))

    def add(self, instruction: str) -> int:
        """See `LensClient.add`."""
        return self._wait(lambda: self.client.add(instruction))

    def remove(self, target_id: int) -> int:
        """See `LensClient.remove`."""
        return self._wait(lambda: self.client.remove(target_id))

    def clear(self) -> None:
        """See `LensClient.clear`."""
        self._wait(self.client.clear)

    def list(self) -> dict[int, str]:
        """See `LensClient.list`."""
        return self._wait(self.client.list)

    def listen(self, target_id: int | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Answers:
        """The answers about camera images, to iterate over: of one instruction, or of all.

        Listen before the instruction is set, so that no answer is missed. `timeout_s` is the longest wait for
        the next answer.
        """
        self._check_thread()
        return Answers(self.client, target_id, timeout_s)

    def _wait(self, start: Callable[[], Future]) -> Any:
        self._check_thread()
        ended = threading.Event()
        future = start()
        future.add_done_callback(lambda _: ended.set())
        while not ended.wait(0.5):  # timeouts are the future's own, as long as the thread lives
            if not self._thread.is_alive():
                raise LensError("the client was closed, or ROS was shut down, while it waited")
        return future.result()

    def _settle(self, future: Future) -> None:
        """A moment for a cancel request to go out."""
        until = time.monotonic() + 1.0
        while not future.done() and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(POLL_S)

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking call inside on_feedback would wait for itself; make it after the answer, or use "
                "LensClient"
            )
        if not self._thread.is_alive():
            raise LensError("the client is closed, or ROS was shut down; make a new one")

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass


class Answers:
    """Iterates over answers as they arrive; raises `LensTimeoutError` when none comes in time.

    A reader that is slow gets the newest `KEPT_ANSWERS`. A context manager that closes at its end.
    """

    def __init__(self, client: LensClient, target_id: int | None, timeout_s: float) -> None:
        self._topic = client.topic("segmentation")
        self._timeout_s = timeout_s
        self._queue: queue.Queue[Answer] = queue.Queue(KEPT_ANSWERS)
        self._subscription = client.subscribe(self._put, target_id)
        deadline = time.monotonic() + client.server_timeout_s
        while not client.node.count_publishers(self._topic):
            if time.monotonic() > deadline:
                self.close()
                raise LensUnavailableError(missing(client.node, client.perception, client.server_timeout_s))
            time.sleep(POLL_S)

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Answers:
        return self

    def __next__(self) -> Answer:
        try:
            return self._queue.get(timeout=self._timeout_s)
        except queue.Empty:
            raise LensTimeoutError(
                f"no answer on {self._topic} within {self._timeout_s:g} s; is an instruction active, and "
                "does a camera publish? `lens watch` shows it"
            ) from None

    def close(self) -> None:
        """Listens no more."""
        self._subscription.close()

    def _put(self, answer: Answer) -> None:
        while True:
            try:
                return self._queue.put_nowait(answer)
            except queue.Full:
                try:
                    self._queue.get_nowait()
                except queue.Empty:
                    pass
