"""The lifecycle node `perception`: camera images and instructions in, reasoning and masks out.

Subscribed:
- `image`, sensor_msgs/Image, BEST_EFFORT, depth 1; or `image/compressed`, by the parameter image_transport
- `camera_info`, sensor_msgs/CameraInfo, BEST_EFFORT, depth 1, for the markers
- `instruction`, std_msgs/String, RELIABLE, depth 1000; a new one replaces the present ones, the same one
  again changes nothing; one of a TRANSIENT_LOCAL publisher is received by a node that starts later

Published, RELIABLE, with the header of the camera image:
- `segmentation`, lens_ros/Segmentation: exactly one per processed image and instruction that was asked about
  it, also when nothing was found
- `reasoning`, lens_ros/Reasoning, while it is generated; the last one of an answer has finished = true
- `mask`, `labels`, `overlay`, `overlay/compressed`, `markers`, `detections`: one each per processed image,
  over all its instructions, computed only for subscribers (see `pictures`); a second one when an answer about
  an image comes after its other instructions were followed to it, and no newer image was

Services and the action:
- `~/set_instruction`, lens_ros/SetInstruction: several active instructions
- `~/segment`, lens_ros/Segment, and `~/segment_instruction`, lens_ros/SegmentInstruction: one image and one
  instruction
- `~/enable`, std_srvs/SetBool: whether camera images are looked at; `~/reset_tracking`, std_srvs/Trigger

An instruction that cannot be followed, or has no image yet when it is replaced, is answered as well: with an
empty header, no instances, and the reason. A goal that cannot be served is aborted with the reason.

The model is loaded when the node is configured and released when it is cleaned up. While the node is active,
inference runs in the thread of an `InferenceWorker`; callbacks of the executor never wait for the model,
except for `~/segment`, which has threads set aside.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from lens_ros.codes import Code, Coded
from lens_ros.nodes.perception import model_loading
from lens_ros.nodes.perception.answer_publisher import AnswerPublisher
from lens_ros.nodes.perception.camera_images import CameraImages, ImageMessage, decode
from lens_ros.nodes.perception.camera_info import CameraInfoInput
from lens_ros.nodes.perception.depth_images import DepthImages
from lens_ros.nodes.perception.diagnostics import Diagnostics, Situation
from lens_ros.nodes.perception.engine_upgrade import EngineUpgrade
from lens_ros.nodes.perception.goals import Goals
from lens_ros.nodes.perception.inference import Inference
from lens_ros.nodes.perception.instructions import Instructions
from lens_ros.nodes.perception.measurements import Measurements
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.nodes.perception.scheduler import Scheduler
from lens_ros.nodes.perception.services import WAITING_SEGMENT_CALLS, Services
from lens_ros.nodes.perception.worker import InferenceWorker
from lens_ros.ros import command_line, conversions, overrides, parameters, process
from lens_ros.ros.endpoints import EndpointError
from lens_ros.ros.reporting import PythonWarnings, ThrottledLog, described, traced
from lens_ros.ros.texts import SENTENCE, shortened
from lens_ros.ros.workarounds.executor import CallbackExecutor
from lens_ros.ros.workarounds.lifecycle import PromptLifecycleNode, TransitionRefused
from lens_ros.srv import Segment
from lens_ros.system.memory import give_back

if TYPE_CHECKING:
    from lens_ros.lens import Lens

# What waits, for the model or for what a transition takes; everything else is answered at once.
WAITING_SERVICES = (Segment, ChangeState)
WAITING_THREADS = WAITING_SEGMENT_CALLS + 2
DRAIN_S = 5.0  # longest wait for the executor to send the results of goals
LETTING_GO_S = 30.0  # longest wait for the model at its next token, or in what comes before the first
STATES = ("unconfigured", "inactive", "active", "finalized")  # between which the lifecycle moves
ENDING_S = 4.0  # the same at the process' end: `ros2 launch` kills 10 s after it has asked


Transition = Callable[["PerceptionNode", LifecycleState], TransitionCallbackReturn]


def _transition(during: str, afterwards: str) -> Callable[[Transition], Transition]:
    """Keep the diagnostics informed, and log why a transition met an error, which rclpy does not."""

    def decorate(transition: Transition) -> Transition:
        @functools.wraps(transition)
        def guarded(self: PerceptionNode, state: LifecycleState) -> TransitionCallbackReturn:
            situation = self._situation
            before, situation.state = situation.state, during
            if during != "errorprocessing":
                situation.failure = ""
            try:
                result = transition(self, state)
            except Exception as error:
                situation.failure = f"internal error while {during}: {described(error)}"
                self.get_logger().error(
                    "\n".join([f"{situation.failure}; please report this", *traced(error)])
                )
                return TransitionCallbackReturn.ERROR  # on_error comes next
            situation.state = afterwards if result == TransitionCallbackReturn.SUCCESS else before
            return result

        return guarded

    return decorate


class PerceptionNode(PromptLifecycleNode):
    """The node. Construct it, add it to a `CallbackExecutor`, then configure and activate it.

    Raises `ParameterError` for a parameter that cannot be used.
    """

    def __init__(self, name: str = "perception", **options: Any) -> None:
        super().__init__(name, **options)
        # First: from Kilted on, rclpy destroys nodes at shutdown, also one whose parameters raise below.
        self._python_warnings = PythonWarnings(self.get_logger())
        parameters.declare(self, PerceptionParameters)
        self.add_on_set_parameters_callback(
            parameters.validator(PerceptionParameters, unconfigured=self._is_unconfigured)
        )
        self._lens: Lens | None = None
        self._worker: InferenceWorker | None = None
        self._hanging: list[InferenceWorker] = []
        self._ending = False
        self._loading = model_loading.Interruptible()
        self._situation = Situation()
        measured = Measurements()
        self._images = CameraImages(self, self._settings, measured, self._on_image, self._on_silence)
        self._camera_info = CameraInfoInput(self, self._settings, measured, self._images.note_info)
        self._depths = DepthImages(self, self._settings, measured, self._camera_info)
        self._answers = AnswerPublisher(
            self, self._settings, measured, self._images, self._camera_info, self._depths
        )
        self._instructions = Instructions(
            self, self.scheduler, self._answers, measured, lambda: self._images.topic
        )
        self._calls = Services(self, self.scheduler, self._images, self._answers, measured, self._depths)
        self._goals = Goals(self, self._settings, self.scheduler, measured, self._depths)
        self._warmer = EngineUpgrade(self, self._situation, self.scheduler)
        self._diagnostics = Diagnostics(self, self._situation, self._settings, measured, self.worker)

    def worker(self) -> InferenceWorker | None:
        """Return the inference thread's worker; None unless the node is active."""
        return self._worker

    def scheduler(self) -> Scheduler | None:
        """Return the worker's scheduler; None unless the node is active."""
        worker = self._worker
        return None if worker is None else worker.scheduler

    @property
    def in_transition(self) -> bool:
        """Whether the lifecycle is between two states."""
        return self._situation.state not in STATES

    @property
    def hangs(self) -> bool:
        """Whether a thread is still inside a model that did not return."""
        return any(worker.alive for worker in self._hanging)

    @property
    def hang_timeout_s(self) -> float:
        """Seconds without a callback after which the process is ended (the parameter of this name)."""
        return float(self.get_parameter("hang_timeout_s").value)

    def _is_unconfigured(self) -> bool:
        return self._lens is None and not self.in_transition

    def _settings(self) -> PerceptionParameters:
        return parameters.read(self, PerceptionParameters)

    @_transition("configuring", "inactive")
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and open the endpoints.

        Returns FAILURE, and the node stays unconfigured, if there is no model.
        """
        settings = self._settings()
        what = f"'{shortened(settings.model, SENTENCE)}'"
        self.get_logger().info(f"loading model {what} on {shortened(settings.device)}")
        started = time.monotonic()
        try:
            with self._loading:
                self._lens = model_loading.load_lens(settings)
        except model_loading.Interrupted:
            self.get_logger().info("not configured: the node is ending")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            return self._fail(f"cannot configure: {model_loading.load_failure(error, settings)}")
        self._answers.model_id = self._lens.model_id
        try:
            for part in (self._answers, self._instructions, self._calls, self._goals):
                part.open()
        except Exception as error:
            self._release()
            return self._fail(f"cannot configure: {_endpoint_failure(error)}")
        self._situation.model = self._lens.model_id
        self._situation.backend = model_loading.backend_of(self._lens)
        self.get_logger().info(
            f"model {what} loaded on {shortened(settings.device)} in {time.monotonic() - started:.1f} s"
        )
        self._warmer.configured(self._lens, settings)
        return super().on_configure(state)

    @_transition("activating", "active")
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the inference thread and subscribe to images."""
        result = super().on_activate(
            state
        )  # first the publishers: the worker may have something to say at once
        self._answers.begin()
        tones = ThrottledLog(self, self._settings().log_interval_s)
        self._worker = InferenceWorker(
            Inference(self._loaded, self._settings, self._warmer.failed),
            functools.partial(decode, tones=conversions.Tones(functools.partial(tones.info, "tones"))),
            self._answers,
            fresh=self._images.fresh,
            # Asked at each token: all settings would take longer than this one.
            interval=lambda: self.get_parameter("reasoner_interval_s").value,
            max_rate_hz=lambda: self.get_parameter("max_rate_hz").value,
            max_targets=lambda: self.get_parameter("max_targets").value,
            follower=model_loading.follower_of(self._loaded(), self._settings()),
        )
        self._worker.start()
        try:
            with self._images.changing:
                if self._worker.scheduler.enabled:  # `~/enable` is served already
                    self._images.open()
            self._camera_info.open()
            self._depths.open()
        except Exception as error:
            self._stop("the node could not be activated")
            super().on_deactivate(state)
            return self._fail(f"cannot activate: {_endpoint_failure(error)}")
        if self._ending:  # `close` may have come before there was anything to stop
            self._stop("the node is ending")
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self._warmer.activated()
        self.get_logger().info(
            f"active: images from {self._images.topic}, instructions from "
            f"{self.resolve_topic_name('instruction')}"
        )
        if objection := overrides.unknown_policies(self._parameter_overrides, self._parameters):
            self.get_logger().warning(objection)
        instruction = self._settings().instruction
        if instruction:
            self._instructions.follow(instruction)
        return result

    @_transition("deactivating", "inactive")
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Interrupt the model, answer what is pending with the reason, stop listening to images.

        The model stays loaded; what it needed to work is freed. Returns ERROR, and the node drops the model,
        if it does not return.
        """
        if not self._stop("the node was deactivated"):
            return TransitionCallbackReturn.ERROR  # on_error comes next
        give_back()
        self.get_logger().info("deactivated: images and instructions are not heard, the model stays loaded")
        return super().on_deactivate(state)

    @_transition("cleaningup", "unconfigured")
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the endpoints and release the model's memory."""
        self._release()
        self.get_logger().info("cleaned up: the model is released; configure the node to load it again")
        return super().on_cleanup(state)

    @_transition("shuttingdown", "finalized")
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End everything, from any state; the process runs on, idle, until a signal ends it."""
        self._stop("the node was shut down")
        self._release()
        self.get_logger().info("shut down: the node does nothing more; end its process")
        return super().on_shutdown(state)

    @_transition("errorprocessing", "unconfigured")
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured, so that the node can be configured again."""
        self._stop("the node met an error")
        self._release()
        self.get_logger().info("unconfigured after an error: the model is released; configure the node again")
        return super().on_error(state)

    def begin(self) -> None:
        """Configure and activate if the parameter autostart says so.

        A restarted process would otherwise wait for a request of launch's that went to its dead predecessor.
        """
        if not self.get_parameter("autostart").value:
            name = self.get_fully_qualified_name()
            self.get_logger().info(
                f"waits to be configured: ros2 lifecycle set {name} configure, then: ros2 lifecycle set "
                f"{name} activate. With --ros-args -p autostart:=true it does both itself"
            )
            return
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        except TransitionRefused as busy:  # a lifecycle manager was quicker
            self.get_logger().info(f"does not start by itself: {busy}")

    def close(self) -> None:
        """Answer everything that is pending, end loading and the inference thread.

        Call it before the node is destroyed, while its executor still spins.
        """
        self._ending = True
        self.interrupt()
        self._warmer.close()
        self._stop("the node is ending", grace_s=ENDING_S)
        self._answers.flush()
        self._goals.drain(DRAIN_S)
        self._diagnostics.close()
        gc.unfreeze()  # what was exempt from garbage collection (`lens_ros.system.memory`) ends with the node

    def destroy_node(self) -> None:
        """See `Node`."""
        self._python_warnings.close()
        super().destroy_node()

    def interrupt(self) -> None:
        """Give up the loading of a model, if it is in progress, and any that would begin later."""
        self._loading.interrupt()

    def _fail(self, why: str) -> TransitionCallbackReturn:
        self._situation.failure = shortened(why, SENTENCE)
        self.get_logger().error(self._situation.failure)
        return TransitionCallbackReturn.FAILURE

    def _stop(self, reason: str, *, grace_s: float | None = None) -> bool:
        """Stop the worker; return whether the model has returned."""
        with self._images.changing:
            worker, self._worker = self._worker, None
            self._images.close()
        self._camera_info.close()
        self._depths.close()
        grace_s = LETTING_GO_S if grace_s is None else grace_s
        let_go = worker is None or worker.stop(Coded(reason, Code.ENDED), grace_s=grace_s)
        self._hanging = [each for each in self._hanging if each.alive]
        if worker is not None and not let_go:
            self._hanging.append(worker)
            self._situation.failure = (
                f"the model did not let go within {grace_s:.0f} s (it is at {worker.whereabouts}); expected "
                "a stop at the next token. Its memory and a thread stay lost: end the process, or configure "
                "the node again to load the model anew"
            )
            self.get_logger().error(self._situation.failure)
        self._warmer.end()
        return let_go

    def _release(self) -> None:
        self._warmer.end()
        self._calls.drain(DRAIN_S)
        self._goals.drain(DRAIN_S)
        for part in (self._goals, self._calls, self._instructions, self._answers):
            part.close()
        self._situation.model = self._situation.backend = ""
        self._warmer.released()
        if self._lens is not None:
            self._lens = None
            give_back()

    def _on_image(self, message: ImageMessage) -> None:
        worker = self._worker
        if worker is not None:
            worker.scheduler.set_frame(message)

    def _on_silence(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.scheduler.forget_frame()  # an answer about the past would mislead

    def _loaded(self) -> Lens:
        lens = self._lens
        if lens is None:
            raise RuntimeError("the model was released while it was needed")
        return lens


def _endpoint_failure(error: Exception) -> str:
    """Return why publishers, subscriptions or services could not be created, and what to do."""
    return f"{described(error)}; then try again" if isinstance(error, EndpointError) else described(error)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit status (`command_line`)."""
    command_line.parse("perception", arguments)
    return process.run(PerceptionNode, lambda: CallbackExecutor(WAITING_SERVICES, WAITING_THREADS), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
