"""Publish reasoning while it is written, then one segmentation for each target."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.duration import Duration
from rclpy.exceptions import InvalidHandle
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from lens_ros.codes import Code, Coded, code_of
from lens_ros.msg import Reasoning as ReasoningMessage
from lens_ros.msg import Segmentation as SegmentationMessage
from lens_ros.nodes.perception.camera_images import CameraImages
from lens_ros.nodes.perception.camera_info import CameraInfoInput
from lens_ros.nodes.perception.depth_images import DepthImages
from lens_ros.nodes.perception.measurements import Event, Measurements, Series, Trouble
from lens_ros.nodes.perception.object_ids import ObjectIds
from lens_ros.nodes.perception.objects_3d import add_poses
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.nodes.perception.picture_publisher import Identified, PicturePublisher
from lens_ros.nodes.perception.tasks import Frame, Outcome, Target
from lens_ros.ros import conversions
from lens_ros.ros.endpoints import Endpoints
from lens_ros.ros.reporting import described, is_ours, request_log, survives, traced
from lens_ros.ros.texts import shortened
from lens_ros.system.memory import is_out_of_memory

if TYPE_CHECKING:
    from lens_ros.segmentation import Segmentation

DELIVERY_S = 1.0  # longest wait for a subscriber, which may have been killed
DELIVERY_POLL_S = 0.01
# Notes of measurements for /diagnostics, until the next answer; where only goals are sent, for a while.
NOTED_S = 60.0


class AnswerPublisher:
    """The `Listener` of an `InferenceWorker`: publishes, logs and counts what the worker's thread reports."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: Callable[[], PerceptionParameters],
        measured: Measurements,
        images: CameraImages,
        camera_info: CameraInfoInput,
        depths: DepthImages,
    ) -> None:
        self.node = node
        self.model_id = ""
        self._settings = settings
        self._measured = measured
        self._images = images
        self._depths = depths
        self._started_at = 0.0
        self._endpoints = Endpoints(
            node, lambda topic, text: measured.note(Trouble.ANSWER_MISMATCH, text, about=topic)
        )
        self._log = request_log(node)
        self._segmentations: Any = None
        self._reasonings: Any = None
        self._pictures = PicturePublisher(node, camera_info, measured)
        self._streams: dict[int, ReasoningStream] = {}  # of the targets in progress, by id
        self._identities = ObjectIds()
        self._reasoned_stamps: dict[int, Any] = {}  # of the images that were reasoned about, by target
        self._lock = threading.Lock()  # of these two
        self._shown_number = 0  # of the image that the latest pictures are about
        self._shown: dict[int, tuple[Target, Identified]] = {}  # what they show, by target

    def open(self) -> None:
        """Create the publishers; raise what rclpy raises for unusable qos_overrides."""
        self._log = request_log(self.node)
        # Many instructions may be answered at once, say when the node is deactivated.
        self._segmentations = self._endpoints.publisher(SegmentationMessage, "segmentation", 100)
        self._reasonings = self._endpoints.publisher(ReasoningMessage, "reasoning", 50)
        self._pictures.open()

    def flush(self) -> None:
        """Wait, for a moment, until every subscriber has every answer.

        What a publisher has not delivered is lost when it is destroyed.
        """
        for publisher in (self._reasonings, self._segmentations):
            if publisher is None:
                continue
            deadline = time.monotonic() + DELIVERY_S
            # At the end of the process a cleanup may be going on in another thread, which waits as well.
            with contextlib.suppress(InvalidHandle):
                # A blocking wait would keep the interpreter's lock, and with it all other threads.
                while not publisher.wait_for_all_acked(Duration()) and time.monotonic() < deadline:
                    time.sleep(DELIVERY_POLL_S)

    def close(self) -> None:
        """Destroy the publishers."""
        self.flush()
        self._segmentations = self._reasonings = None
        self._pictures.close()
        self._endpoints.close()

    def begin(self) -> None:
        """Prepare for a new worker, whose images are numbered from 1."""
        self._shown_number, self._shown = 0, {}

    def forget_objects(self) -> None:
        """Give all objects new ids from now on."""
        with self._lock:
            self._identities.clear()

    # What the worker calls ----------------------------------------------------------------------------------

    def ended(self, target: Target) -> None:
        """Free the ids of the target's objects and forget its trouble."""
        self._measured.note(Trouble.FAILED_TARGET, "", about=_about(target))
        with self._lock:
            self._forget(target)

    def started(self, targets: Sequence[Target], frame: Frame) -> None:
        """Start counting the reasoning of each target."""
        self._started_at = time.monotonic()
        rate = self._settings().reasoning_rate_hz
        self._streams = {target.id: ReasoningStream(rate) for target in targets}

    @survives
    def text(self, target: Target, frame: Frame, text: str) -> None:
        """Publish the reasoning so far, unless the last message is too recent."""
        stream = self._streams[target.id]
        if stream.add(text):
            self._publish_reasoning(target, frame.message.header, text, stream.tokens)

    @survives
    def answered(self, frame: Frame, rgb: np.ndarray, answers: Sequence[Outcome]) -> None:
        """Publish a segmentation and the final reasoning of each target, then the pictures of all."""
        header = frame.message.header
        given = [answer for answer in answers if answer.result is not None]
        identified = self._publish_segmentations(header, given, reasoned=True)
        for answer in answers:
            stream = self._streams.pop(answer.target.id)
            if answer.result is None:
                self.publish_unanswered(answer.target, header, answer.reason, stream)
                self._say(answer.target, f"no answer: {answer.reason}")
            else:
                self._conclude_reasoning(answer, header, stream)
        self._show(frame, rgb, given, identified)
        for answer in given:
            self._measured.count(Event.ANSWER)
            self._measure(answer.result)
            self._say(answer.target, _summary(answer.result))
            self._measured.note(Trouble.FAILED_TARGET, "", about=_about(answer.target))
        if given:
            self._measured.forget(Trouble.FAILED_OTHER, Trouble.REFUSED_INSTRUCTION)
            self._measured.add(Series.TOTAL, 1e3 * (time.monotonic() - self._started_at))
            self._measure_age(frame)

    @survives
    def followed(self, frame: Frame, rgb: np.ndarray, answers: Sequence[Outcome]) -> None:
        """Publish a segmentation of each target, then the pictures of all."""
        identified = self._publish_segmentations(frame.message.header, answers, reasoned=False)
        self._show(frame, rgb, answers, identified)
        self._measured.add(Series.TRACK, answers[0].result.preprocess_ms + answers[0].result.decode_ms)
        self._measured.count(Event.TRACKED)
        self._measure_age(frame)

    def _publish_segmentations(
        self, header: Header, answers: Sequence[Outcome], *, reasoned: bool
    ) -> list[Identified]:
        identified = []
        for answer in answers:
            target, result = answer.target, answer.result
            with self._lock:
                ids = self._identities.assign(target.id, result.instances)
                if reasoned:
                    self._reasoned_stamps[target.id] = header.stamp
                stamp = self._reasoned_stamps.get(target.id, header.stamp)
                if target.ended:
                    self._forget(target)
            message = conversions.segmentation_to_message(result, header, target_id=target.id, ids=ids)
            message.instruction, message.reasoned_stamp = target.instruction, stamp
            objects = add_poses(message, result, self._depths)
            self._segmentations.publish(message)
            how = "reasoned" if reasoned else "tracked"
            self.node.get_logger().debug(f"target {target.id}: {len(result.instances)} objects, {how}")
            identified.append(Identified(result, ids, objects))
        return identified

    def _show(
        self, frame: Frame, rgb: np.ndarray, answers: Sequence[Outcome], identified: Sequence[Identified]
    ) -> None:
        """Publish pictures of all targets with an answer about this image, earlier ones included.

        No-op if a newer image was shown while the reasoner worked: pictures never go back in time.
        """
        if frame.number < self._shown_number:
            return
        if frame.number > self._shown_number:
            self._shown_number, self._shown = frame.number, {}
        for answer, each in zip(answers, identified, strict=True):
            self._shown[answer.target.id] = answer.target, each
        present = [each for target, each in self._shown.values() if not target.ended]
        self._pictures.publish(frame.message.header, rgb, present)

    def _conclude_reasoning(self, answer: Outcome, header: Header, stream: ReasoningStream) -> None:
        text = answer.result.reasoning or stream.text  # the latter when the answer is malformed
        self._publish_reasoning(answer.target, header, text, answer.result.tokens, finished=True)

    def _publish_reasoning(
        self,
        target: Target,
        header: Header,
        text: str,
        tokens: int,
        *,
        finished: bool = False,
        reason: str = "",
    ) -> None:
        self._reasonings.publish(
            ReasoningMessage(
                header=header,
                target_id=target.id,
                instruction=target.instruction,
                text=text,
                tokens=tokens,
                finished=finished,
                reason=reason,
                code=code_of(reason),
            )
        )

    def _say(self, target: Target, what: str) -> None:
        self._log.info("answer", f"'{shortened(target.instruction)}': {what}")

    def _measure(self, result: Segmentation) -> None:
        self._measured.add(Series.PREPROCESS, result.preprocess_ms)
        self._measured.add(Series.REASON, result.reason_ms)
        self._measured.add(Series.DECODE, result.decode_ms)

    def _measure_age(self, frame: Frame) -> None:
        age = self._images.age_ms(frame.message)
        if age is not None:
            self._measured.add(Series.AGE_PUBLISHED, age)

    def _forget(self, target: Target) -> None:
        self._identities.forget(target.id)
        self._reasoned_stamps.pop(target.id, None)

    @survives
    def unanswered(self, target: Target, reason: str) -> None:
        """Publish that a target ended before the model started on it."""
        self.publish_unanswered(target, Header(), reason)
        self._say(target, f"no answer: {reason}")

    @survives
    def unusable(self, frame: Frame, error: Exception) -> None:
        """Log why the image cannot be used."""
        self._images.complain(error)

    def failed(self, instruction: str, error: Exception, target: Target | None = None) -> str:
        """Log a failure of the model; return the reason to publish.

        /diagnostics shows a target's failure until it is answered or ends.
        """
        code = Code.OUT_OF_MEMORY if is_out_of_memory(error) else Code.MODEL_FAILED
        reason = Coded(described(error), code)
        details = "" if is_ours(error) else "\n".join(traced(error))
        self._measured.count(Event.FAILURE)
        trouble = f"'{shortened(instruction)}' failed: {reason}"
        if target is None:
            self._measured.note(Trouble.FAILED_OTHER, trouble, seconds=NOTED_S)
        else:
            self._measured.note(Trouble.FAILED_TARGET, trouble, about=_about(target))
            if target.ended:  # in another thread, maybe before the note
                self._measured.note(Trouble.FAILED_TARGET, "", about=_about(target))
        self._log.error(f"failed, {type(error).__name__}", trouble, details)
        return reason

    def publish_unanswered(
        self, target: Target, header: Header, reason: str, stream: ReasoningStream | None = None
    ) -> None:
        """Publish a segmentation and a final reasoning that say why there is no answer."""
        text, tokens = (stream.text, stream.tokens) if stream is not None else ("", 0)
        self._publish_reasoning(target, header, text, tokens, finished=True, reason=reason)
        self._segmentations.publish(
            SegmentationMessage(
                header=header,
                target_id=target.id,
                instruction=target.instruction,
                reasoning=text,
                reason=reason,
                code=code_of(reason),
                reasoned_stamp=header.stamp,
                model=self.model_id,
            )
        )


class ReasoningStream:
    """Counts the tokens of one answer and decides which of them are worth a message."""

    def __init__(self, rate_hz: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.text = ""
        self.tokens = 0
        self._interval = 1.0 / rate_hz if rate_hz > 0 else 0.0
        self._clock = clock
        self._next = -1.0

    def add(self, text: str) -> bool:
        """Take the text so far, once per token; return whether to publish it now.

        The first one is always published.
        """
        self.text = text
        self.tokens += 1
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True


def _about(target: Target) -> str:
    """Return the key of a target's trouble; keys sort like ids."""
    return f"{target.id:05d}"


def _summary(result: Segmentation) -> str:
    accepted = sum(not instance.rejected for instance in result.instances)
    found = f"{accepted} object(s)" if accepted else f"nothing ({result.reason})"
    return f"{found} in {result.preprocess_ms + result.reason_ms + result.decode_ms:.0f} ms"
