"""Ask the node `perception` from a node that an executor spins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from lens_ros.action import SegmentInstruction
from lens_ros.client.decoded import Answer
from lens_ros.client.errors import LensCancelledError, LensError, LensRefusedError
from lens_ros.client.given import Picture, checked_instruction, image_message
from lens_ros.client.operation import Operation
from lens_ros.msg import Segmentation
from lens_ros.ros import conversions
from lens_ros.ros.endpoints import reliable, requests
from lens_ros.ros.reporting import ThrottledLog
from lens_ros.ros.workarounds.goal_client import GoalClient
from lens_ros.ros.workarounds.handshake import Handshake
from lens_ros.srv import Segment, SetInstruction

# For a node to be found. That takes a second or two; more on a loaded machine, and where a program was killed
# before: Fast DDS gives its ports to the next one, and writes to what the dead one left of them for a while.
SERVER_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 60.0  # for the model; a long queue may need more
# After which a result is asked for once more, should it have been lost in spite of `requests()`. The node
# keeps it for twice as long (goals.RESULTS_KEPT_S).
RESULT_AGAIN_S = 7.0
DAMAGED_S = 5.0  # interval of the log lines about answers that cannot be used
KEPT_ANSWERS = 16  # for a slow reader of the topic; the oldest go first. All targets are answered at once


class Subscription:
    """The answers about the camera's images, as long as it is open."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def close(self) -> None:
        """Stop listening."""
        self._close()


class Question:
    """A goal of `LensClient.ask`: awaitable, and can be cancelled."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._lock = threading.Lock()
        self._handle: Any = None
        self._cancelled = False
        self.future: Future = operation.future

    def __await__(self) -> Generator[Any, None, Answer]:
        return self.future.__await__()  # type: ignore[return-value]

    def done(self) -> bool:
        """Return whether there is an answer or an error."""
        return self.future.done()

    def cancel(self) -> None:
        """Stop the model within one token; the question then fails with `LensCancelledError`."""
        with self._lock:
            self._cancelled, handle = True, self._handle
        if handle is not None:
            handle.cancel_goal_async()
        elif not self._operation.sent:
            self._operation.fail(LensCancelledError("cancelled before it was sent"))

    def _accepted(self, handle: Any) -> None:
        with self._lock:
            self._handle, cancelled = handle, self._cancelled
        if cancelled or self.future.done():
            handle.cancel_goal_async()


class LensClient:
    """Client of the node `perception` inside a node that an executor spins. No method waits.

    Futures fail with `LensUnavailableError` when the node is not found within `server_timeout_s`, with
    `LensTimeoutError` when it does not answer in time, and with `LensRefusedError` when it says why it will
    not.
    """

    def __init__(
        self, node: Node, perception: str = "perception", *, server_timeout_s: float = SERVER_TIMEOUT_S
    ) -> None:
        """Create the client in `node`.

        `perception` is the other node's name, with its namespace where that differs: /robot/perception.
        """
        self.node = node
        self.perception = perception
        self.server_timeout_s = server_timeout_s
        self._group = ReentrantCallbackGroup()
        self._log = ThrottledLog(node, DAMAGED_S)
        self._segment: Any = self._service(Segment, "segment")
        self._set: Any = self._service(SetInstruction, "set_instruction")
        self._goals: Any = GoalClient(
            node, SegmentInstruction, f"{perception}/segment_instruction", callback_group=self._group
        )
        # Created last: a node that answers it knows all the others.
        self._last: Any = self._service(SetInstruction, "set_instruction")
        self._known = Handshake(self._last, SetInstruction.Request(operation=SetInstruction.Request.LIST))
        self._subscriptions: list[Any] = []

    def close(self) -> None:
        """Destroy what the client created in the node; pending questions get no answer."""
        for subscription in list(self._subscriptions):
            self._forget(subscription)
        self._goals.destroy()
        for client in (self._segment, self._set, self._last):
            self.node.destroy_client(client)

    def wait_for_server(self, timeout_s: float | None = None) -> Future:
        """Return a future whose result is None, once all services and the action were found."""

        def ready() -> bool:
            return (
                self._segment.service_is_ready()
                and self._set.service_is_ready()
                and self._goals.server_is_ready()
            )

        operation = self._operation(ready, lambda operation: operation.finish(None), 0.0, timeout_s)
        operation.begin()
        return operation.future

    def segment(self, image: Picture, instruction: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Future:
        """Return a future of an `Answer` about one image, by the service `~/segment`.

        Args:
            image: a message in any encoding that the topic `image` accepts, the path of a picture, a PIL
                image, or an array (H, W, 3) RGB or (H, W) gray, uint8 or floating-point 0..1.
            instruction: what to segment.

        Raises:
            LensInputError: at once, if the image or the instruction cannot be sent.
        """
        request = Segment.Request(image=image_message(image), instruction=checked_instruction(instruction))
        return self._call(self._segment, request, timeout_s, lambda r: Answer.decoded(r.segmentation))

    def ask(
        self,
        instruction: str,
        *,
        image: Picture | None = None,
        on_feedback: Callable[[SegmentInstruction.Feedback], None] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Question:
        """Return a question to the action `~/segment_instruction`: queued, with progress, cancellable.

        Args:
            instruction: what to segment.
            image: as for `segment`; None means the camera's next image.
            on_feedback: called with stage, partial_reasoning (all of it so far), tokens and progress (0..1).
                If it raises, the goal is cancelled and the question fails with that error.
            timeout_s: after which the goal is cancelled.
        """
        goal = SegmentInstruction.Goal(
            instruction=checked_instruction(instruction), use_latest_image=image is None
        )
        if image is not None:
            goal.image = image_message(image)

        def heard(message: Any) -> None:
            try:
                if on_feedback is not None and not operation.future.done():
                    on_feedback(message.feedback)
            except Exception as error:
                question.cancel()
                operation.fail(error)

        def send(operation: Operation) -> None:
            sent = self._goals.send_goal_async(goal, heard)
            sent.add_done_callback(operation.guard(answered))

        def answered(future: Any) -> None:
            handle = future.result()
            if not handle.accepted:
                raise LensRefusedError("the goal was rejected: the node is being cleaned up, or ends")
            question._accepted(handle)

            def ask_for_result() -> None:
                handle.get_result_async().add_done_callback(operation.guard(concluded))

            ask_for_result()
            operation.every(RESULT_AGAIN_S, ask_for_result)

        def concluded(future: Any) -> None:
            status, result = future.result().status, future.result().result
            if status == GoalStatus.STATUS_UNKNOWN:
                raise LensError(
                    "the answer was lost on its way, and the node keeps it no longer; ask again, and see "
                    "whether the machine or the network is overloaded"
                )
            if status == GoalStatus.STATUS_CANCELED:
                raise LensCancelledError(result.message, result.code)
            if not result.success:
                raise LensRefusedError(
                    result.message or f"the goal ended with the status {status}", result.code
                )
            operation.finish(Answer.decoded(result.segmentation))

        operation = self._operation(self._goals.server_is_ready, send, timeout_s)
        question = Question(operation)
        operation.on_timeout = question.cancel
        operation.begin()
        return question

    def set_instruction(self, instruction: str) -> Future:
        """Replace all active instructions by one; the future holds its id (from 1)."""
        return self._instruct(SetInstruction.Request.SET, instruction=checked_instruction(instruction))

    def add(self, instruction: str) -> Future:
        """Add an active instruction; the future holds its id."""
        return self._instruct(SetInstruction.Request.ADD, instruction=checked_instruction(instruction))

    def remove(self, target_id: int) -> Future:
        """End an instruction; the future holds its id, or `LensRefusedError` if none has it."""
        return self._instruct(SetInstruction.Request.REMOVE, target_id=target_id)

    def clear(self) -> Future:
        """Return a future whose result is 0, once every instruction has ended."""
        return self._instruct(SetInstruction.Request.CLEAR)

    def list(self) -> Future:
        """List the active instructions; the future holds a dictionary of texts by id."""
        request = SetInstruction.Request(operation=SetInstruction.Request.LIST)
        return self._call(
            self._set,
            request,
            self.server_timeout_s,
            lambda r: dict(zip(r.target_ids, r.instructions, strict=True)),
        )

    def subscribe(self, callback: Callable[[Answer], None], target_id: int | None = None) -> Subscription:
        """Call back with each `Answer` on the topic `segmentation`: of one instruction, or of all.

        Subscribe before the instruction is set, so that no answer is missed. Damaged messages are logged.
        """

        def received(message: Segmentation) -> None:
            if target_id is not None and message.target_id != target_id:
                return
            try:
                answer = Answer.decoded(message)
            except conversions.ConversionError as error:
                self._log.error(error.kind, f"a segmentation cannot be used: {error}")
                return
            callback(answer)

        subscription = self.node.create_subscription(
            Segmentation,
            self.topic("segmentation"),
            received,
            reliable(KEPT_ANSWERS),
            callback_group=self._group,
        )
        self._subscriptions.append(subscription)
        return Subscription(lambda: self._forget(subscription))

    def topic(self, name: str) -> str:
        """Return the name of a topic of the other node, as this node resolves it."""
        return beside(self.perception, name)

    def _forget(self, subscription: Any) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self.node.destroy_subscription(subscription)

    def _service(self, service_type: type, name: str) -> Any:
        return self.node.create_client(
            service_type, f"{self.perception}/{name}", qos_profile=requests(), callback_group=self._group
        )

    def _instruct(self, operation: int, **fields: Any) -> Future:
        request = SetInstruction.Request(operation=operation, **fields)
        return self._call(self._set, request, self.server_timeout_s, lambda response: response.target_id)

    def _call(self, client: Any, request: Any, timeout_s: float, read: Callable[[Any], Any]) -> Future:
        def send(operation: Operation) -> None:
            future = client.call_async(request)
            operation.on_timeout = lambda: client.remove_pending_request(future)
            future.add_done_callback(operation.guard(answered))

        def answered(future: Any) -> None:
            response = future.result()
            if not response.success:
                raise LensRefusedError(response.message, response.code)
            operation.finish(read(response))

        operation = self._operation(client.service_is_ready, send, timeout_s)
        operation.begin()
        return operation.future

    def _operation(
        self,
        ready: Callable[[], bool],
        send: Callable[[Operation], None],
        answer_timeout_s: float,
        server_timeout_s: float | None = None,
    ) -> Operation:
        wait = self.server_timeout_s if server_timeout_s is None else server_timeout_s

        def known() -> bool:
            return ready() and self._known()

        return Operation(self.node, self.perception, self._group, known, send, wait, answer_timeout_s)


def beside(node_name: str, topic: str) -> str:
    """Return a topic in the namespace of the node `node_name`."""
    space, slash, _ = node_name.rpartition("/")
    return f"{space}{slash}{topic}"
