"""Ask the node `perception` from a script that has neither a node nor an executor."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rclpy.node import Node
from rclpy.task import Future

from lens_ros.action import SegmentInstruction
from lens_ros.client.decoded import Answer
from lens_ros.client.errors import LensTimeoutError, LensUnavailableError, missing
from lens_ros.client.given import Picture
from lens_ros.client.lens_client import ANSWER_TIMEOUT_S, KEPT_ANSWERS, SERVER_TIMEOUT_S, LensClient
from lens_ros.client.participant import POLL_S, Participant

# After which a node that was not found is looked for by another participant, with other ports. A program
# that is killed while it opens shared memory leaves that locked; Fast DDS breaks such locks after 2 s by
# deleting, by name, what may be another's by then, and who has such a port hears nothing (eProsima/Fast-DDS
# #5053 and #5469 read like it; here once in 454 clients beside 225 killed programs).
RENEWED_AFTER_S = 10.0


class BlockingLensClient:
    """Each method returns the answer itself or raises what the futures of `LensClient` fail with.

    Brings its own ROS context, node and executor thread, so it works in a script, a notebook or a test, and
    beside an rclpy that is in use; all of them anew where the node is not found at first. Any thread may
    call, but not `on_feedback`. Inside a node, use `LensClient`: a callback that blocks keeps its executor
    from everything else. A context manager that closes at its end.
    """

    def __init__(
        self,
        perception: str = "perception",
        *,
        server_timeout_s: float = SERVER_TIMEOUT_S,
        node_name: str = "lens_client",
    ) -> None:
        self._finding = threading.Lock()
        self._found = self._closed = False
        self._participant = Participant(node_name, perception, server_timeout_s)

    @property
    def node(self) -> Node:
        """The client's ROS node; replaced by another if the first one did not find the perception node."""
        return self._participant.node

    @property
    def client(self) -> LensClient:
        """The `LensClient` in `node`."""
        return self._participant.client

    def __enter__(self) -> BlockingLensClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and the context; no-op if they have ended."""
        self._closed = True
        self._participant.close()

    def wait_for_server(self, timeout_s: float | None = None) -> None:
        """Wait until the node offers its services; see `LensClient.wait_for_server`."""
        self._find(timeout_s)
        self._participant.wait(lambda: self.client.wait_for_server(timeout_s))

    def segment(self, image: Picture, instruction: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """See `LensClient.segment`."""
        return self._wait(lambda client: client.segment(image, instruction, timeout_s=timeout_s))

    def ask(
        self,
        instruction: str,
        *,
        image: Picture | None = None,
        on_feedback: Callable[[SegmentInstruction.Feedback], None] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """See `LensClient.ask`. Ctrl-C, and an error of `on_feedback`, cancel the goal.

        `on_feedback` is called in the client's thread.
        """
        self._find()
        question = self.client.ask(instruction, image=image, on_feedback=on_feedback, timeout_s=timeout_s)
        try:
            return self._participant.wait(lambda: question.future)
        except BaseException:
            if not question.done():
                question.cancel()
                self._participant.settle(question.future)
            raise

    def set_instruction(self, instruction: str) -> int:
        """See `LensClient.set_instruction`."""
        return self._wait(lambda client: client.set_instruction(instruction))

    def add(self, instruction: str) -> int:
        """See `LensClient.add`."""
        return self._wait(lambda client: client.add(instruction))

    def remove(self, target_id: int) -> int:
        """See `LensClient.remove`."""
        return self._wait(lambda client: client.remove(target_id))

    def clear(self) -> None:
        """See `LensClient.clear`."""
        self._wait(LensClient.clear)

    def list(self) -> dict[int, str]:
        """See `LensClient.list`."""
        return self._wait(LensClient.list)

    def listen(self, target_id: int | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Answers:
        """Return an iterator of the answers about camera images: of one instruction, or of all.

        Listen before the instruction is set, so that no answer is missed. `timeout_s` is the longest wait for
        the next answer.
        """
        self._find()
        return Answers(self.client, target_id, timeout_s)

    def _wait(self, start: Callable[[LensClient], Future]) -> Any:
        self._find()
        return self._participant.wait(lambda: start(self.client))

    def _find(self, timeout_s: float | None = None) -> None:
        """Wait until the node was found, possibly by another participant, or raise."""
        self._participant.check_thread()
        with self._finding:
            if self._found:
                return
            patience = self.client.server_timeout_s if timeout_s is None else timeout_s
            try:
                self._look(min(patience, RENEWED_AFTER_S))
            except LensUnavailableError:
                if patience <= RENEWED_AFTER_S:
                    raise
                self._renew()
                try:
                    self._look(patience - RENEWED_AFTER_S)
                except LensUnavailableError:
                    raise LensUnavailableError(missing(self.node, self.client.perception, patience)) from None

    def _look(self, seconds: float) -> None:
        self._participant.wait(lambda: self.client.wait_for_server(seconds))
        self._found = True

    def _renew(self) -> None:
        former = self._participant
        client = former.client
        # The former one lives until the other has ports: it would get the same.
        name = f"{former.node.get_name()}_again"  # two nodes of one name would share a logger
        self._participant = Participant(name, client.perception, client.server_timeout_s)
        former.close()
        if self._closed:
            self.close()


class Answers:
    """Iterator over answers as they arrive; raises `LensTimeoutError` when none comes in time.

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
        """Stop listening."""
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
