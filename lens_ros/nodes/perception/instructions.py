"""Receive instructions by topic and by service."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSDurabilityPolicy
from std_msgs.msg import Header, String

from lens_ros.codes import Code, Coded, code_of
from lens_ros.inputs import InstructionError, check_instruction
from lens_ros.nodes.perception.answer_publisher import NOTED_S, AnswerPublisher
from lens_ros.nodes.perception.measurements import Event, Measurements, Trouble
from lens_ros.nodes.perception.scheduler import Scheduler
from lens_ros.nodes.perception.tasks import StoppedError, Target, TooManyError
from lens_ros.ros.endpoints import Endpoints, SubscriptionEventCallbacks, kept, reliable
from lens_ros.ros.reporting import request_log, survives
from lens_ros.ros.texts import shortened
from lens_ros.srv import SetInstruction

QUEUE = 1000  # instructions that may come in one burst; DDS drops what is more without a word
KEPT = 10  # instructions per publisher that are asked for from before the subscription
LOOK_S = 0.5  # between two looks for publishers that keep instructions for late subscribers
REMEMBERED = 100  # instructions received on one of the subscriptions that may come on the other as well
ECHOED_CHARACTERS = 1000  # of a refused instruction, in the answer that says why
INACTIVE = Coded("the node is inactive; activate it first", Code.INACTIVE)


class Instructions:
    """The subscriptions to `instruction` and the service `~/set_instruction`.

    A volatile subscription matches every reliable publisher, but gets nothing from before it was there. While
    the node is active and a publisher with transient-local durability exists, a second subscription asks for
    what that kept. Where none exists there is no second one: volatile publishers would warn about it.

    `scheduler()` is None while the node is inactive; `image_topic()` is for the log.
    """

    def __init__(
        self,
        node: LifecycleNode,
        scheduler: Callable[[], Scheduler | None],
        answers: AnswerPublisher,
        measured: Measurements,
        image_topic: Callable[[], str],
    ) -> None:
        self.node = node
        self._scheduler = scheduler
        self._answers = answers
        self._measured = measured
        self._image_topic = image_topic
        self._endpoints = Endpoints(
            node, lambda topic, text: measured.note(Trouble.INSTRUCTION_MISMATCH, text, about=topic)
        )
        self._log = request_log(node)
        self._receiving = threading.Lock()
        self._received: deque[tuple[int, str]] = deque(maxlen=REMEMBERED)
        self._newest = 0  # when the newest instruction was published, in ns of its publisher's clock
        self._kept: Any = None
        self._kept_for: Scheduler | None = None  # another one after each activation

    def open(self) -> None:
        """Start listening; raise what rclpy raises for unusable qos_overrides."""
        self._log = request_log(self.node)
        self._endpoints.subscription(String, "instruction", self._on_instruction, reliable(QUEUE))
        self._endpoints.timer(LOOK_S, self._look_for_kept)
        self._endpoints.service(SetInstruction, "~/set_instruction", self._on_set_instruction)

    def close(self) -> None:
        """Stop listening."""
        self._endpoints.close()
        self._close_kept()

    def follow(self, instruction: str) -> None:
        """Replace the active instructions by `instruction`, or report why it is refused."""
        scheduler = self._scheduler()
        if scheduler is None:
            self._ignore(instruction)
            return
        objection = instruction_objection(instruction)
        if objection:
            self._refuse(objection)
            refused = Target(0, instruction[:ECHOED_CHARACTERS])
            self._answers.publish_unanswered(refused, Header(), objection)
            return
        if scheduler.active_alone(instruction) is not None:
            return  # published again and again: replaced each time, it would never be answered
        self._announce(scheduler, instruction)
        try:
            scheduler.set_instruction(instruction)
        except StoppedError:
            self._ignore(instruction)

    def _ignore(self, instruction: str) -> None:
        self._log.warning(
            "ignored",
            f"instruction '{shortened(instruction)}' ignored: the node is inactive; activate it and send it "
            "again",
        )

    @survives
    def _on_instruction(self, message: String, info: Mapping[str, Any]) -> None:
        if self._is_new(message, info, kept=False):
            self.follow(message.data)

    @survives
    def _on_kept_instruction(self, message: String, info: Mapping[str, Any]) -> None:
        # The node may have been deactivated meanwhile; it comes again after the next activation.
        if self._scheduler() is not None and self._is_new(message, info, kept=True):
            self.follow(message.data)

    def _is_new(self, message: String, info: Mapping[str, Any], *, kept: bool) -> bool:
        """Return whether a message came on neither subscription before, nor a later one where it was kept."""
        published = int(info["source_timestamp"])
        with self._receiving:
            if (published, message.data) in self._received or (kept and published < self._newest):
                return False
            if self._scheduler() is not None:
                self._received.append((published, message.data))
                self._newest = max(self._newest, published)
            return True

    @survives
    def _look_for_kept(self) -> None:
        scheduler = self._scheduler()
        if scheduler is not self._kept_for:
            self._close_kept()
            self._kept_for = scheduler
            with self._receiving:  # what is kept is followed again after each activation
                self._received.clear()
                self._newest = 0
        wanted = scheduler is not None and any(
            each.qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
            for each in self.node.get_publishers_info_by_topic(self.node.resolve_topic_name("instruction"))
        )
        if not wanted:
            self._close_kept()
        elif self._kept is None:
            callback: Any = self._on_kept_instruction  # rclpy 7 does not declare the second argument
            self._kept = self.node.create_subscription(
                String,
                "instruction",
                callback,
                kept(KEPT),
                callback_group=MutuallyExclusiveCallbackGroup(),
                # Without the default's warning about volatile publishers: the other subscription hears them.
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )

    def _close_kept(self) -> None:
        subscription, self._kept = self._kept, None
        if subscription is not None:
            self.node.destroy_subscription(subscription)

    @survives
    def _on_set_instruction(
        self, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> SetInstruction.Response:
        scheduler = self._scheduler()
        if scheduler is None:
            _fail(response, INACTIVE, INACTIVE.code)
            return response
        kinds = SetInstruction.Request
        if request.operation in (kinds.SET, kinds.ADD):
            self._start(scheduler, request, response)
        elif request.operation == kinds.REMOVE:
            self._remove(scheduler, request, response)
        elif request.operation == kinds.CLEAR:
            scheduler.clear(Coded("the instruction was cleared", Code.CLEARED))
            response.success, response.message = True, "cleared"
        elif request.operation == kinds.LIST:
            response.success, response.message = True, "listed"
        else:
            _fail(
                response,
                f"unknown operation {request.operation}; expected SET, ADD, REMOVE, CLEAR or LIST (0..4)",
                Code.UNKNOWN_OPERATION,
            )
        for target in scheduler.targets:
            response.target_ids.append(target.id)
            response.instructions.append(target.instruction)
        return response

    def _start(
        self, scheduler: Scheduler, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> None:
        objection = instruction_objection(request.instruction)
        if objection:
            _fail(response, objection, code_of(objection))
            self._refuse(objection)
            return
        adding = request.operation == SetInstruction.Request.ADD
        same = None if adding else scheduler.active_alone(request.instruction)
        if same is not None and not same.reported:  # asked again before it was answered
            response.success, response.target_id, response.message = True, same.id, "set"
            return
        try:
            start = scheduler.add_instruction if adding else scheduler.set_instruction
            target = start(request.instruction)
        except TooManyError:
            _fail(
                response,
                f"{len(scheduler.targets)} instructions are active, and max_targets allows no more; "
                "REMOVE one of them, use SET to replace them, or raise the parameter max_targets",
                Code.TOO_MANY_TARGETS,
            )
            return
        except StoppedError:
            _fail(response, INACTIVE, INACTIVE.code)
            return
        self._announce(scheduler, request.instruction)
        response.success, response.target_id = True, target.id
        response.message = "added" if adding else "set"

    def _remove(
        self, scheduler: Scheduler, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> None:
        target = scheduler.remove(request.target_id, Coded("the instruction was removed", Code.REMOVED))
        if target is None:
            active = ", ".join(str(each.id) for each in scheduler.targets) or "none"
            text = f"no active instruction has the id {request.target_id}; active: {active}"
            _fail(response, text, Code.UNKNOWN_TARGET)
            return
        response.success, response.target_id, response.message = True, target.id, "removed"

    def _refuse(self, objection: str) -> None:
        self._measured.count(Event.REFUSAL)
        self._measured.note(Trouble.REFUSED_INSTRUCTION, f"instruction refused: {objection}", seconds=NOTED_S)
        self._log.warning("refused", f"instruction refused: {objection}")

    def _announce(self, scheduler: Scheduler, instruction: str) -> None:
        waits = ""
        if not scheduler.enabled:
            waits = f" waits: camera images are disabled ({self.node.resolve_service_name('~/enable')})"
        elif not scheduler.has_frame:
            waits = f" waits for the first usable image on {self._image_topic()}"
        self._log.info("instruction", f"instruction '{shortened(instruction)}'{waits}")


def _fail(response: SetInstruction.Response, text: str, code: Code) -> None:
    response.message, response.code = text, code


def instruction_objection(instruction: str) -> str:
    """Return why `instruction` cannot be followed and what was expected, or the empty string."""
    try:
        check_instruction(instruction)
    except InstructionError as error:
        return Coded(str(error), Code.BAD_INSTRUCTION)
    if not any(c.isprintable() and not c.isspace() for c in instruction):
        return Coded(
            f"the instruction has {len(instruction)} characters, none of them printable; say what to look "
            "for, such as 'the red mug'",
            Code.BAD_INSTRUCTION,
        )
    return ""
