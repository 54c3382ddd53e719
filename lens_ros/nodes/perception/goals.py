"""Serve the action `~/segment_instruction`: one instruction for one image, with progress and cancellation.

Goals wait in the scheduler's queue, not in threads of the executor, so that services stay responsive with any
number of clients. No goal is dropped without a result: one that cannot be served is aborted with the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.action import CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from lens_ros.action import SegmentInstruction
from lens_ros.codes import Code, Coded, code_of
from lens_ros.nodes.perception.answer_publisher import ReasoningStream
from lens_ros.nodes.perception.depth_images import DepthImages
from lens_ros.nodes.perception.instructions import INACTIVE, instruction_objection
from lens_ros.nodes.perception.measurements import Event, Measurements
from lens_ros.nodes.perception.objects_3d import add_poses
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.nodes.perception.scheduler import Scheduler
from lens_ros.nodes.perception.services import RESPONSE_GRACE_S, request_objection
from lens_ros.nodes.perception.tasks import Job
from lens_ros.ros import conversions
from lens_ros.ros.endpoints import goal_requests
from lens_ros.ros.reporting import described, request_log
from lens_ros.ros.texts import shortened
from lens_ros.ros.workarounds.action_server import DeferringActionServer

MAX_WAITING_GOALS = 32  # each may hold an image
# For clients that ask late. A change of one goal's state is published with the states of all kept goals:
# with the 15 minutes that are Humble's default, busy clients would slow each other down.
RESULTS_KEPT_S = 15
CANCELLED = Coded("cancelled by its client", Code.CANCELLED)
Feedback = SegmentInstruction.Feedback


class Goals:
    """The action server; `scheduler()` is None while the node is inactive."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: Callable[[], PerceptionParameters],
        scheduler: Callable[[], Scheduler | None],
        measured: Measurements,
        depths: DepthImages,
    ) -> None:
        self._node = node
        self._depths = depths
        self._measured = measured
        self._settings = settings
        self._scheduler = scheduler
        self._server: DeferringActionServer | None = None
        self._log = request_log(node)
        self._changed = threading.Condition()
        self._goals: dict[bytes, _Goal] = {}  # those without a result, by goal id
        self._cancelled_early: set[bytes] = set()
        self._arriving = 0  # goals that were let in and are not in `_goals` yet
        self._ending = False
        self._concluded_at = float("-inf")

    def open(self) -> None:
        """Start accepting goals."""
        self._ending = False
        self._log = request_log(self._node)
        self._server = DeferringActionServer(
            self._node,
            SegmentInstruction,
            "~/segment_instruction",
            self._conclude,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self._let_in,
            handle_accepted_callback=self._accepted,
            cancel_callback=self._cancel,
            result_timeout=RESULTS_KEPT_S,
            **goal_requests(),
        )

    def close(self) -> None:
        """Destroy the server; call `drain` before, once the scheduler has stopped."""
        server, self._server = self._server, None
        if server is not None:
            server.destroy()

    def drain(self, timeout: float) -> None:
        """Accept no more goals and wait until every one has its result.

        The results need another thread of the executor.
        """
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: not self._goals and not self._arriving, timeout)
            left = self._concluded_at + RESPONSE_GRACE_S - time.monotonic()
        if left > 0:
            time.sleep(left)

    def _let_in(self, request: SegmentInstruction.Goal) -> GoalResponse:
        """Accept every goal; one that cannot be served is aborted with the reason.

        A rejection could not say why. At the end nobody is left to abort it.
        """
        with self._changed:
            if self._ending:
                return GoalResponse.REJECT
            self._arriving += 1
            return GoalResponse.ACCEPT

    def _accepted(self, handle: Any) -> None:
        server = self._server
        assert server is not None
        goal = _Goal(handle, server, self._settings())
        with self._changed:
            self._arriving -= 1
            self._goals[goal.key] = goal
            cancelled = goal.key in self._cancelled_early
            self._cancelled_early.discard(goal.key)
        if cancelled:
            goal.job.finish(error=CANCELLED)
            return
        scheduler = self._scheduler()
        objection = INACTIVE if scheduler is None else _objection(scheduler, handle.request)
        if objection:
            self._measured.count(Event.REFUSAL)
            self._log.warning("goal refused", f"goal refused: {objection}")
            goal.job.finish(error=objection)
        elif scheduler is not None:
            self._log.info("goal", f"goal '{shortened(handle.request.instruction)}'")
            goal.tell(Feedback.WAITING)
            scheduler.submit(goal.job)

    def _cancel(self, handle: Any) -> CancelResponse:
        with self._changed:
            goal = self._goals.get(_key(handle))
            if goal is None:
                # rclpy tells the client that its goal is accepted before it calls `_accepted`, and a quick
                # client cancels in between. (A goal with a result is refused by rclpy itself.)
                self._cancelled_early.add(_key(handle))
                return CancelResponse.ACCEPT
        scheduler = self._scheduler()
        if scheduler is not None:
            scheduler.cancel(goal.job, CANCELLED)
        goal.job.finish(error=CANCELLED)
        return CancelResponse.ACCEPT

    def _conclude(self, handle: Any) -> SegmentInstruction.Result:
        """Return the goal's result; the execute callback, run when the goal's job is done."""
        with self._changed:
            goal = self._goals[_key(handle)]
        result = SegmentInstruction.Result()
        try:
            result.message, result.code = goal.job.error, code_of(goal.job.error)
            if goal.job.error == CANCELLED:
                goal.await_cancel_request()
                handle.canceled()
            elif goal.job.error:
                handle.abort()
            else:
                result.segmentation = conversions.segmentation_to_message(
                    goal.job.result, goal.job.message.header
                )
                result.segmentation.instruction = handle.request.instruction
                if handle.request.use_latest_image:
                    add_poses(result.segmentation, goal.job.result, self._depths)
                result.success = True
                handle.succeed()
        except Exception as error:  # such as a result that does not fit into its message
            result = SegmentInstruction.Result(
                message=f"internal error: {described(error)}", code=Code.INTERNAL_ERROR
            )
            self._log.error(f"goal, {type(error).__name__}", result.message)
            if handle.is_active:
                handle.abort()
        finally:
            with self._changed:
                del self._goals[goal.key]
                del goal.job  # it refers back, and would keep its image and masks until garbage is collected
                handle.request.image = Image()  # rclpy keeps the request for as long as the result
                self._concluded_at = time.monotonic()
                self._changed.notify_all()
        how = result.message or "answered"
        self._log.info("goal ended", f"goal '{shortened(handle.request.instruction)}': {how}")
        return result


class _Goal:
    """A goal and its job: passes progress on to the client, and the end of the job to the server."""

    def __init__(self, handle: Any, server: DeferringActionServer, settings: PerceptionParameters) -> None:
        self.key = _key(handle)
        self._handle = handle
        self._server = server
        self._max_new_tokens = settings.max_new_tokens
        self._stream = ReasoningStream(settings.reasoning_rate_hz)
        self._executing = threading.Lock()
        self._executed = False
        request = handle.request
        self.job = Job(
            request.instruction,
            None if request.use_latest_image else request.image,
            on_start=self._start,
            on_text=self._text,
            on_decode=lambda: self.tell(Feedback.DECODING),
            on_done=self._done,
        )

    def tell(self, stage: str) -> None:
        """Send feedback: the stage, and the progress."""
        written = min(self._stream.tokens / self._max_new_tokens, 1.0)
        progress = {
            Feedback.WAITING: 0.0,
            Feedback.ENCODING: 0.05,
            Feedback.REASONING: 0.1 + 0.8 * written,
            Feedback.DECODING: 0.9,
        }[stage]
        feedback = Feedback(
            stage=stage,
            partial_reasoning=self._stream.text,
            tokens=self._stream.tokens,
            progress=progress,
        )
        self._handle.publish_feedback(feedback)

    def await_cancel_request(self) -> None:
        """Wait until the goal is CANCELING; its job ends inside the cancel callback, just before."""
        deadline = time.monotonic() + 2.0
        while not self._handle.is_cancel_requested and time.monotonic() < deadline:
            time.sleep(0.001)

    def _start(self) -> None:
        self._execute()
        self.tell(Feedback.ENCODING)

    def _text(self, text: str) -> None:
        if self._stream.add(text):
            self.tell(Feedback.REASONING)

    def _done(self, job: Job) -> None:
        self._execute()
        self._server.conclude(self._handle)

    def _execute(self) -> None:
        """Change the state from ACCEPTED to EXECUTING, unless the goal is CANCELING."""
        with self._executing:
            if self._executed:
                return
            self._executed = True
            try:
                self._handle.execute()
            except Exception:
                # A cancel request came between execute's test and its change of state.
                if not self._handle.is_cancel_requested:
                    raise


def _objection(scheduler: Scheduler, goal: SegmentInstruction.Goal) -> str:
    if scheduler.waiting_jobs >= MAX_WAITING_GOALS:
        return Coded(
            f"busy: {scheduler.waiting_jobs} goals and requests are waiting already; try again later",
            Code.BUSY,
        )
    return instruction_objection(goal.instruction) if goal.use_latest_image else request_objection(goal)


def _key(handle: Any) -> bytes:
    return bytes(handle.goal_id.uuid)
