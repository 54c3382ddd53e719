"""Serve single requests, switch the camera stream on and off, reset tracking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from lens_ros.codes import Code, Coded, code_of
from lens_ros.nodes.perception.answer_publisher import AnswerPublisher
from lens_ros.nodes.perception.camera_images import CameraImages
from lens_ros.nodes.perception.depth_images import DepthImages
from lens_ros.nodes.perception.instructions import INACTIVE, instruction_objection
from lens_ros.nodes.perception.measurements import Event, Measurements
from lens_ros.nodes.perception.objects_3d import add_poses
from lens_ros.nodes.perception.scheduler import Scheduler
from lens_ros.nodes.perception.tasks import DISABLED, Job
from lens_ros.ros import conversions
from lens_ros.ros.conversions import ConversionError
from lens_ros.ros.endpoints import Endpoints
from lens_ros.ros.reporting import request_log, survives
from lens_ros.srv import Segment

WAITING_SEGMENT_CALLS = (
    2  # calls of ~/segment that may wait for the model at once; each holds one executor thread
)
# rclpy sends a response some time after the callback has returned, without a notice; then DDS delivers it.
RESPONSE_GRACE_S = 0.5


class Services:
    """`~/segment`, `~/enable` and `~/reset_tracking`; `scheduler()` is None while the node is inactive."""

    def __init__(
        self,
        node: LifecycleNode,
        scheduler: Callable[[], Scheduler | None],
        images: CameraImages,
        answers: AnswerPublisher,
        measured: Measurements,
        depths: DepthImages,
    ) -> None:
        self.node = node
        self._depths = depths
        self._measured = measured
        self._scheduler = scheduler
        self._images = images
        self._answers = answers
        self._endpoints = Endpoints(node)
        self._log = request_log(node)
        self._segment_slots = threading.BoundedSemaphore(WAITING_SEGMENT_CALLS)
        self._responded_at = float("-inf")

    def open(self) -> None:
        """Start serving."""
        self._log = request_log(self.node)
        self._endpoints.service(Segment, "~/segment", self._on_segment, ReentrantCallbackGroup())
        self._endpoints.service(SetBool, "~/enable", self._on_enable)
        self._endpoints.service(Trigger, "~/reset_tracking", self._on_reset_tracking)

    def drain(self, timeout: float) -> None:
        """Wait until every call of `~/segment` has its response; call it once the scheduler has stopped."""
        deadline = time.monotonic() + timeout
        taken = [
            self._segment_slots.acquire(timeout=max(0.0, deadline - time.monotonic()))
            for _ in range(WAITING_SEGMENT_CALLS)
        ]
        for _ in range(sum(taken)):
            self._segment_slots.release()
        left = self._responded_at + RESPONSE_GRACE_S - time.monotonic()
        if left > 0:
            time.sleep(left)

    def close(self) -> None:
        """Stop listening; call `drain` before."""
        self._endpoints.close()

    @survives
    def _on_segment(self, request: Segment.Request, response: Segment.Response) -> Segment.Response:
        scheduler = self._scheduler()
        image: Any = request.image
        if scheduler is None:
            objection: str = INACTIVE
        elif is_empty(request.image):
            image = scheduler.latest
            objection = instruction_objection(request.instruction)
            if not objection and image is None:
                objection = self._without_image(scheduler)
        else:
            objection = request_objection(request)
        if not objection and not self._segment_slots.acquire(blocking=False):
            objection = Coded(
                f"busy: {WAITING_SEGMENT_CALLS} requests are waiting for the model already; try again "
                "later, or use the action ~/segment_instruction, which queues",
                Code.BUSY,
            )
        if scheduler is None or objection:
            self._measured.count(Event.REFUSAL)
            self._log.warning("request refused", f"request refused: {objection}")
            response.message, response.code = objection, code_of(objection)
            return response
        job = Job(request.instruction, image)
        try:
            scheduler.submit(job)
            job.done.wait()
        finally:
            self._responded_at = time.monotonic()
            self._segment_slots.release()
        if job.error:
            response.message, response.code = job.error, code_of(job.error)
        else:
            response.success = True
            response.segmentation = conversions.segmentation_to_message(job.result, image.header)
            response.segmentation.instruction = request.instruction
            if image is not request.image:  # there is no depth for an image that a client brings
                add_poses(response.segmentation, job.result, self._depths)
        return response

    def _without_image(self, scheduler: Scheduler) -> str:
        if not scheduler.enabled:
            return DISABLED
        return Coded(
            f"the request holds no image, and no recent one has come on {self._images.topic}; start the "
            "camera, or send an image along",
            Code.NO_IMAGE,
        )

    @survives
    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._images.changing:  # a transition opens and closes them in another thread
            scheduler = self._scheduler()
            if scheduler is None:
                response.message = INACTIVE
                return response
            # The subscription is destroyed as well: unused images are not even received.
            if request.data and not scheduler.enabled:
                self._images.open()
            elif not request.data:
                self._images.close()
            scheduler.enable(request.data)
        count = len(scheduler.targets)
        response.success = True
        response.message = (
            f"camera images are looked at; {count} active instruction(s)"
            if request.data
            else f"camera images are ignored; {count} active instruction(s) wait for ~/enable"
        )
        self._log.info("enable", response.message)
        return response

    @survives
    def _on_reset_tracking(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        scheduler = self._scheduler()
        if scheduler is None:
            response.message = INACTIVE
            return response
        self._answers.forget_objects()
        response.success = True
        response.message = f"{scheduler.ask_again()} active instruction(s) are answered anew"
        self._log.info("reset tracking", response.message)
        return response


def is_empty(image: Image) -> bool:
    """Return whether a message is as it was made, but for its header."""
    return not (image.height or image.width or image.encoding or image.step or len(image.data))


def request_objection(request: Segment.Request) -> str:
    """Return what is wrong with the instruction or the image of a request, or the empty string."""
    objection = instruction_objection(request.instruction)
    if not objection and is_empty(request.image):
        return Coded(
            "the request holds no image; expected one, or use_latest_image for the camera's next image: set "
            "one of these fields",
            Code.NO_IMAGE,
        )
    if not objection:
        try:
            conversions.check_image(request.image)
        except ConversionError as error:
            return Coded(str(error), Code.BAD_IMAGE)
    return objection
