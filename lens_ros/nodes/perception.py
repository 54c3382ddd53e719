"""The lifecycle node `perception`: camera images and instructions in, reasoning and masks out.

Subscribed:
- `image`, sensor_msgs/Image, BEST_EFFORT, depth 1; or `image/compressed`, by the parameter image_transport
- `instruction`, std_msgs/String, RELIABLE, depth 10; a new one replaces the present one

Published, RELIABLE, with the header of the camera image:
- `segmentation`, lens_ros/Segmentation: exactly one for each processed image, also when nothing was found
- `mask`, sensor_msgs/Image, mono8, 0 or 255, size of the camera image: the union of the accepted objects
- `reasoning`, lens_ros/Reasoning, while it is generated; the last one of an answer has finished = true
- `overlay`, sensor_msgs/Image, rgb8: computed only for subscribers

Services:
- `~/set_instruction`, lens_ros/SetInstruction
- `~/segment`, lens_ros/Segment: one image and one instruction, independent of the camera

An instruction that cannot be followed, or has no image yet when it is replaced, is answered as well: with an
empty header, no instances, and the reason.

The model is loaded when the node is configured and released when it is cleaned up. While the node is active,
inference runs in the thread of an `InferenceWorker`; callbacks of the executor never wait for the model,
except for `~/segment`, which has threads set aside.
"""

from __future__ import annotations

import functools
import gc
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from lens_ros.msg import Reasoning as ReasoningMessage
from lens_ros.msg import Segmentation as SegmentationMessage
from lens_ros.nodes import conversions, parameters
from lens_ros.nodes.conversions import ConversionError
from lens_ros.nodes.parameters import ParameterError, PerceptionParameters
from lens_ros.nodes.throttle import Throttle
from lens_ros.nodes.worker import Frame, InferenceWorker, Target
from lens_ros.srv import Segment, SetInstruction

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]

if TYPE_CHECKING:
    from lens_ros.lens import Lens, Segmentation

ECHOED_CHARACTERS = 1000  # of a refused instruction, in the answer that says why
WAITING_SEGMENT_CALLS = (
    2  # calls of ~/segment that may wait for the model at once; each holds one executor thread
)
EXECUTOR_THREADS = WAITING_SEGMENT_CALLS + 3

Callback = TypeVar("Callback", bound=Callable[..., Any])


def _survives(callback: Callback) -> Callback:
    """Logs what nobody foresaw instead of letting it end the executor, and with it the node."""

    @functools.wraps(callback)
    def guarded(self: PerceptionNode, *arguments: Any) -> Any:
        try:
            return callback(self, *arguments)
        except Exception as error:
            if not self.context.ok():  # shutting down: publishers are gone, and nobody listens
                return arguments[-1] if arguments else None
            self.get_logger().error(
                f"internal error in {callback.__name__}: {_described(error)}; the node goes on, please "
                "report this\n" + traceback.format_exc()
            )
            return arguments[-1] if arguments else None  # what a service returns: its response

    return guarded  # type: ignore[return-value]


class PerceptionNode(LifecycleNode):
    """See the module. Construct it, add it to a `MultiThreadedExecutor`, then configure and activate it.

    Raises `ParameterError` for a parameter that cannot be used.
    """

    def __init__(self, name: str = "perception", **options: Any) -> None:
        super().__init__(name, **options)
        parameters.declare(self, PerceptionParameters)
        self.add_on_set_parameters_callback(
            parameters.validator(PerceptionParameters, unconfigured=lambda: self._lens is None)
        )
        self._complaints = Throttle(self._settings.log_interval_s)
        self._lens: Lens | None = None
        self._worker: InferenceWorker | None = None
        self._stream = _ReasoningStream(0.0)
        self._segment_slots = threading.BoundedSemaphore(WAITING_SEGMENT_CALLS)
        self._last_image_at = 0.0
        self._silence_reported = False
        self._image_subscription: Any = None
        self._watchdog: Any = None
        self._entities: list[
            tuple[Callable[[Any], Any], Any]
        ] = []  # (how to destroy it, what on_configure created)

    @property
    def _settings(self) -> PerceptionParameters:
        return parameters.read(self, PerceptionParameters)

    # Lifecycle ----------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model and opens the endpoints; FAILURE, and the node stays unconfigured, if there is no
        model.
        """
        settings = self._settings
        started = time.monotonic()
        try:
            self._lens = _load_lens(settings)
        except Exception as error:
            self.get_logger().error(f"cannot configure: {_load_failure(error, settings)}")
            return TransitionCallbackReturn.FAILURE
        self._complaints = Throttle(settings.log_interval_s)
        try:
            self._open_endpoints()
        except Exception as error:
            self._release()
            self.get_logger().error(f"cannot configure: {_endpoint_failure(error)}")
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(
            f"model '{settings.model}' loaded on {settings.device} in {time.monotonic() - started:.1f} s"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts the inference thread and subscribes to images."""
        result = super().on_activate(
            state
        )  # first the publishers: the worker may have something to say at once
        settings = self._settings
        self._worker = InferenceWorker(
            self._infer, _decode, self, interval=lambda: self._settings.reasoner_interval_s
        )
        self._worker.start()
        try:
            self._subscribe_to_images(settings)
        except Exception as error:
            self._stop("the node could not be activated")
            super().on_deactivate(state)
            self.get_logger().error(f"cannot activate: {_endpoint_failure(error)}")
            return TransitionCallbackReturn.FAILURE
        self._last_image_at = time.monotonic()
        self._silence_reported = False
        self._watchdog = self.create_timer(
            1.0,
            self._check_silence,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(
                clock_type=ClockType.STEADY_TIME
            ),  # silence is silence, also while simulated time stands still
        )
        self.get_logger().info(
            f"active: images from {self._image_topic}, instructions from "
            f"{self.resolve_topic_name('instruction')}"
        )
        if settings.instruction:
            self._take_instruction(settings.instruction)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Interrupts the model, answers what is pending with the reason, stops listening to images."""
        self._stop("the node was deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Closes the endpoints and releases the model's memory."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends everything, from any state."""
        self._stop("the node was shut down")
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, so that the node can be configured again."""
        self._stop("the node met an error")
        self._release()
        return super().on_error(state)

    def close(self) -> None:
        """Ends the inference thread; call before the node is destroyed."""
        self._stop("the node is ending")

    def _stop(self, reason: str) -> None:
        worker, self._worker = self._worker, None
        if self._watchdog is not None:
            self.destroy_timer(self._watchdog)
            self._watchdog = None
        if self._image_subscription is not None:
            self.destroy_subscription(self._image_subscription)
            self._image_subscription = None
        if worker is not None:
            worker.stop(reason)

    def _release(self) -> None:
        while self._entities:
            destroy, entity = self._entities.pop()
            destroy(entity)
        on_gpu = self._lens is not None and self._settings.device != "cpu"
        self._lens = None
        gc.collect()
        if on_gpu:
            import torch

            torch.cuda.empty_cache()

    # Endpoints ----------------------------------------------------------------------------------------------

    def _open_endpoints(self) -> None:
        def publisher(message_type: type, topic: str, depth: int) -> Any:
            created: Any = self.create_lifecycle_publisher(
                message_type,
                topic,
                _reliable(depth),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            self._entities.append((self.destroy_lifecycle_publisher, created))
            return created

        self._segmentations = publisher(SegmentationMessage, "segmentation", 5)
        self._masks = publisher(Image, "mask", 5)
        self._reasonings = publisher(ReasoningMessage, "reasoning", 50)
        self._overlays = publisher(Image, "overlay", 5)
        subscription = self.create_subscription(
            String,
            "instruction",
            self._on_instruction,
            _reliable(10),
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=self._qos_events("instruction"),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._entities.append((self.destroy_subscription, subscription))
        for service_type, name, callback, group in (
            (SetInstruction, "~/set_instruction", self._on_set_instruction, MutuallyExclusiveCallbackGroup()),
            (Segment, "~/segment", self._on_segment, ReentrantCallbackGroup()),
        ):
            service = self.create_service(service_type, name, callback, callback_group=group)
            self._entities.append((self.destroy_service, service))

    def _subscribe_to_images(self, settings: PerceptionParameters) -> None:
        # Remapping `image` moves the compressed topic along, as with image_transport.
        compressed = settings.image_transport == "compressed"
        self._image_topic = self.resolve_topic_name("image") + ("/compressed" if compressed else "")
        self._image_subscription = self.create_subscription(
            CompressedImage if compressed else Image,
            self._image_topic,
            self._on_image,
            QoSProfile(
                history=QoSHistoryPolicy.KEEP_LAST,
                depth=1,  # newest only
                reliability=QoSReliabilityPolicy.BEST_EFFORT,  # matches every camera driver (REP-2003)
                durability=QoSDurabilityPolicy.VOLATILE,
            ),
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=self._qos_events(self._image_topic),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _qos_events(self, topic: str) -> SubscriptionEventCallbacks:
        resolved = self.resolve_topic_name(topic)

        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            name = str(policy).split(".")[-1]
            self.get_logger().warning(
                f"a publisher on {resolved} offers a quality of service that does not match ({name}): "
                "nothing is "
                "received from it; change the publisher, or the parameters "
                f"qos_overrides.{resolved}.subscription.*"
            )

        return SubscriptionEventCallbacks(incompatible_qos=incompatible)

    # Images -------------------------------------------------------------------------------------------------

    @_survives
    def _on_image(self, message: Image | CompressedImage) -> None:
        worker = self._worker
        if worker is None:
            return
        self._last_image_at = time.monotonic()
        if self._silence_reported:
            self._silence_reported = False
            self.get_logger().info(f"images arrive again on {self._image_topic}")
        try:
            _check(message)
        except ConversionError as error:
            self._complain_about_image(error)
        else:
            worker.set_frame(message)

    def _complain_about_image(self, error: Exception) -> None:
        kind = error.kind if isinstance(error, ConversionError) else type(error).__name__
        text = self._complaints(kind, f"image on {self._image_topic} is not usable: {error}")
        if text is not None:
            self.get_logger().warning(text)

    @_survives
    def _check_silence(self) -> None:
        timeout = self._settings.image_timeout_s
        silence = time.monotonic() - self._last_image_at
        if timeout <= 0 or silence < timeout or self._silence_reported:
            return
        self._silence_reported = True
        publishers = self.count_publishers(self._image_topic)
        if publishers == 0:
            why = (
                "nobody publishes there: is the camera running, and is `image` remapped to its topic? "
                "(the parameter image_transport chooses between raw and compressed)"
            )
        else:
            why = (
                f"{publishers} publisher(s) there: if the images are larger than 0.5 MB, Fast DDS drops "
                "them silently "
                "unless the CAMERA's process uses lens_ros' config/fastdds.xml "
                "(FASTDDS_DEFAULT_PROFILES_FILE); "
                "otherwise look at the camera, or set image_transport to compressed"
            )
        self.get_logger().warning(f"no image on {self._image_topic} for {silence:.0f} s; {why}")

    # Instructions -------------------------------------------------------------------------------------------

    @_survives
    def _on_instruction(self, message: String) -> None:
        if self._worker is None:
            self.get_logger().warning(
                f"instruction '{_shortened(message.data)}' ignored: the node is inactive; activate it and "
                "send it again"
            )
            return
        objection = instruction_objection(message.data)
        if objection:
            self.get_logger().warning(f"instruction refused: {objection}")
            self._publish_unanswered(Target(0, message.data[:ECHOED_CHARACTERS]), Header(), "", objection)
            return
        self._take_instruction(message.data)

    def _take_instruction(self, instruction: str) -> Target | None:
        worker = self._worker
        if worker is None:
            return None
        if worker.has_frame:
            self.get_logger().info(f"instruction '{_shortened(instruction)}'")
        else:
            self.get_logger().info(
                f"instruction '{_shortened(instruction)}' waits for the first usable image on "
                f"{self._image_topic}"
            )
        return worker.set_instruction(instruction)

    @_survives
    def _on_set_instruction(
        self, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> SetInstruction.Response:
        worker = self._worker
        if worker is None:
            response.message = "the node is inactive; activate it first"
            return response
        present = worker.target
        if request.operation in (SetInstruction.Request.SET, SetInstruction.Request.ADD):
            objection = instruction_objection(request.instruction)
            if request.operation == SetInstruction.Request.ADD and present is not None:
                objection = (
                    f"'{_shortened(present.instruction)}' is active, and this node follows one instruction "
                    "at a time; "
                    "use SET to replace it"
                )
            if objection:
                response.message = objection
            else:
                target = self._take_instruction(request.instruction)
                response.success = target is not None
                response.target_id = target.id if target is not None else 0
                response.message = "set"
        elif request.operation == SetInstruction.Request.REMOVE:
            if present is None or present.id != request.target_id:
                known = f"{present.id}" if present is not None else "none"
                response.message = f"no active instruction has the id {request.target_id}; active: {known}"
            else:
                worker.clear("the instruction was removed")
                response.success, response.target_id, response.message = True, present.id, "removed"
        elif request.operation == SetInstruction.Request.CLEAR:
            worker.clear("the instruction was cleared")
            response.success, response.message = True, "cleared"
        elif request.operation == SetInstruction.Request.LIST:
            response.success, response.message = True, "listed"
        else:
            response.message = (
                f"unknown operation {request.operation}; expected SET, ADD, REMOVE, CLEAR or LIST (0..4)"
            )
        active = worker.target
        if active is not None:
            response.target_ids, response.instructions = [active.id], [active.instruction]
        return response

    @_survives
    def _on_segment(self, request: Segment.Request, response: Segment.Response) -> Segment.Response:
        worker = self._worker
        if worker is None:
            response.message = "the node is inactive; activate it first"
            return response
        response.message = instruction_objection(request.instruction)
        if not response.message:
            try:
                conversions.check_image(request.image)
            except ConversionError as error:
                response.message = str(error)
        if response.message:
            self.get_logger().warning(f"request refused: {response.message}")
            return response
        if not self._segment_slots.acquire(blocking=False):
            response.message = (
                f"busy: {WAITING_SEGMENT_CALLS} requests are waiting for the model already; try again later"
            )
            return response
        try:
            job = worker.submit(request.image, request.instruction)
            job.done.wait()
        finally:
            self._segment_slots.release()
        if job.error:
            response.message = job.error
        else:
            response.success = True
            response.segmentation = conversions.segmentation_to_message(job.result, request.image.header)
            response.segmentation.instruction = request.instruction
        return response

    # What the worker calls, from its own thread -------------------------------------------------------------

    def _infer(
        self,
        rgb: np.ndarray,
        instruction: str,
        *,
        on_text: Callable[[str], None] | None,
        cancelled: Callable[[], bool],
    ) -> Segmentation:
        settings = self._settings
        self._stream = _ReasoningStream(settings.reasoning_rate_hz)
        lens = self._lens
        if lens is None:
            raise RuntimeError("the model was released while it was needed")
        return lens.segment(
            rgb, instruction, on_text=on_text, cancelled=cancelled, max_new_tokens=settings.max_new_tokens
        )

    @_survives
    def text(self, target: Target, frame: Frame, text: str) -> None:
        """Publishes the reasoning so far, unless the last message went out too short a time ago."""
        if self._stream.add(text):
            self._reasonings.publish(
                ReasoningMessage(
                    header=frame.message.header,
                    target_id=target.id,
                    instruction=target.instruction,
                    text=text,
                    tokens=self._stream.tokens,
                )
            )

    @_survives
    def answered(self, target: Target, frame: Frame, rgb: np.ndarray, result: Segmentation) -> None:
        """Publishes the answer: the last reasoning, the segmentation, the mask, and the overlay if someone
        looks.
        """
        header = frame.message.header
        self._reasonings.publish(
            ReasoningMessage(
                header=header,
                target_id=target.id,
                instruction=target.instruction,
                text=result.reasoning or self._stream.text,  # the latter when the answer is malformed
                tokens=result.tokens,
                finished=True,
            )
        )
        message = conversions.segmentation_to_message(result, header, target_id=target.id)
        message.instruction = target.instruction
        self._segmentations.publish(message)
        self._masks.publish(conversions.mask_to_image(result.mask, header))
        if self._overlays.get_subscription_count() > 0:
            from lens_ros.visualization import overlay

            self._overlays.publish(conversions.rgb_to_image(overlay(rgb, result), header))
        accepted = sum(not instance.rejected for instance in result.instances)
        found = f"{accepted} object(s)" if accepted else f"nothing ({result.reason})"
        milliseconds = result.preprocess_ms + result.reason_ms + result.decode_ms
        self.get_logger().info(f"'{_shortened(target.instruction)}': {found} in {milliseconds:.0f} ms")

    @_survives
    def unanswered(self, target: Target, frame: Frame | None, rgb: np.ndarray | None, reason: str) -> None:
        """Publishes that there is no answer, and why; with an empty mask when an image had been taken up."""
        header = frame.message.header if frame is not None else Header()
        self._publish_unanswered(target, header, self._stream.text if frame is not None else "", reason)
        if rgb is not None:
            self._masks.publish(conversions.mask_to_image(np.zeros(rgb.shape[:2], bool), header))
        self.get_logger().info(f"'{_shortened(target.instruction)}' has no answer: {reason}")

    @_survives
    def unusable(self, frame: Frame, error: Exception) -> None:
        """Logs why the image cannot be used."""
        self._complain_about_image(error)

    def failed(self, instruction: str, error: Exception) -> str:
        """Logs what went wrong in the model; returns the reason to publish."""
        described = _described(error)
        details = "" if isinstance(error, ValueError) else "\n" + "".join(traceback.format_exception(error))
        self.get_logger().error(f"'{_shortened(instruction)}' failed: {described}{details}")
        return described

    def _publish_unanswered(self, target: Target, header: Header, text: str, reason: str) -> None:
        self._reasonings.publish(
            ReasoningMessage(
                header=header,
                target_id=target.id,
                instruction=target.instruction,
                text=text,
                tokens=self._stream.tokens if text else 0,
                finished=True,
                reason=reason,
            )
        )
        self._segmentations.publish(
            SegmentationMessage(
                header=header,
                target_id=target.id,
                instruction=target.instruction,
                reasoning=text,
                reason=reason,
                reasoned_stamp=header.stamp,
                model=self._lens.model_id if self._lens is not None else "",
            )
        )


class _ReasoningStream:
    """Counts the tokens of one answer and decides which of them are worth a message."""

    def __init__(self, rate_hz: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.text = ""
        self.tokens = 0
        self._interval = 1.0 / rate_hz if rate_hz > 0 else 0.0
        self._clock = clock
        self._next = -1.0

    def add(self, text: str) -> bool:
        """Takes the text so far, once per token; whether to publish it now. The first one is always
        published.
        """
        self.text = text
        self.tokens += 1
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True


def instruction_objection(instruction: str) -> str:
    """Why `instruction` cannot be followed (what is wrong, what was expected), or the empty string."""
    from lens_ros.lens import InstructionError, check_instruction

    try:
        check_instruction(instruction)
    except InstructionError as error:
        return str(error)
    return ""


def _check(message: Image | CompressedImage) -> None:
    if isinstance(message, CompressedImage):
        conversions.check_compressed_image(message)
    else:
        conversions.check_image(message)


def _decode(message: Image | CompressedImage) -> np.ndarray:
    from lens_ros.lens import as_rgb

    convert = (
        conversions.compressed_to_rgb if isinstance(message, CompressedImage) else conversions.image_to_rgb
    )
    return as_rgb(convert(message))  # which also says when an image is too small for the model


def _load_lens(settings: PerceptionParameters) -> Lens:
    # Imported here and not above: torch takes seconds, and a machine without it should hear so from the log,
    # not from a traceback at start.
    from lens_ros.lens import Lens

    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    return Lens.from_pretrained(settings.model, device=settings.device)


def _load_failure(error: Exception, settings: PerceptionParameters) -> str:
    from_checkpoint = type(error).__name__ == "CheckpointError"
    if from_checkpoint:
        return f"{error} (parameter model: '{settings.model}'); then configure the node again"
    if isinstance(error, ImportError):
        return f"{error}; expected the Python packages of requirements.txt: install them for this Python"
    return (
        f"model '{settings.model}' does not load on device '{settings.device}': {_described(error)}; "
        "correct the parameters model and device, then configure the node again"
    )


def _endpoint_failure(error: Exception) -> str:
    return f"{_described(error)}; correct the parameters qos_overrides.*, then try again"


def _described(error: Exception) -> str:
    """An error in one line: what our own errors say, or the type and text of a foreign one."""
    return str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"


def _shortened(text: str, limit: int = 80) -> str:
    """One line for the log."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _reliable(depth: int) -> QoSProfile:
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM; returns the process' exit code."""
    rclpy.init(args=arguments)
    try:
        node = PerceptionNode()
    except ParameterError as error:
        get_logger("perception").fatal(str(error))
        rclpy.try_shutdown()
        return 1
    executor = MultiThreadedExecutor(num_threads=EXECUTOR_THREADS)
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # the ordinary ways to end
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
