"""Receive depth images and find the one that belongs to a camera image."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from lens_ros.codes import Code, Coded
from lens_ros.geometry.depth_views import DepthView
from lens_ros.geometry.errors import GeometryError
from lens_ros.nodes.perception.camera_info import CameraInfoInput
from lens_ros.nodes.perception.measurements import Measurements, Trouble
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.ros.conversions import ConversionError, compressed_depth_to_metres, depth_to_metres
from lens_ros.ros.endpoints import Endpoints, newest_only
from lens_ros.ros.reporting import ThrottledLog
from lens_ros.ros.stamps import nanoseconds
from lens_ros.ros.texts import shortened

KEPT = 16  # depth images; an answer is about an image that is older than the newest depth
NOTED_S = 10.0  # how long a trouble stays in /diagnostics after the last answer that it concerned


class DepthImages:
    """The subscription to `depth`, or to `depth/compressedDepth`, by the parameter depth_transport.

    With depth_transport `none` nothing is subscribed to. The inference thread calls `view_of`.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Callable[[], PerceptionParameters],
        measured: Measurements,
        camera_info: CameraInfoInput,
    ) -> None:
        self._node = node
        self._settings = settings
        self._measured = measured
        self._camera_info = camera_info
        self._endpoints = Endpoints(
            node, lambda topic, text: measured.note(Trouble.IMAGE_MISMATCH, text, about=topic)
        )
        self._log = ThrottledLog(node, settings().log_interval_s)
        self._kept: deque[Image | CompressedImage] = deque(maxlen=KEPT)
        self._topic = ""

    def open(self) -> None:
        """Start receiving depth images, unless depth_transport is `none`."""
        settings = self._settings()
        self._log = ThrottledLog(self._node, settings.log_interval_s)
        if settings.depth_transport == "none":
            return
        compressed = settings.depth_transport == "compressedDepth"
        self._topic = self._node.resolve_topic_name("depth") + ("/compressedDepth" if compressed else "")
        message_type = CompressedImage if compressed else Image
        self._endpoints.subscription(message_type, self._topic, self._keep, newest_only())

    def close(self) -> None:
        """Stop receiving, and forget all depth images."""
        self._endpoints.close()
        self._topic = ""
        self._kept.clear()
        self._measured.note(Trouble.DEPTH, "")

    def _keep(self, message: Image | CompressedImage) -> None:
        self._kept.append(message)

    def view_of(self, header: Header, size: tuple[int, int]) -> DepthView | Coded | None:
        """Return the depth that belongs to a camera image, or why there is none.

        Args:
            header: of the camera image.
            size: height and width of the camera image.

        Returns:
            None if depth is not read at all.
        """
        if not self._topic:
            return None
        found = self._found(header, size)
        if isinstance(found, Coded):
            self._measured.note(Trouble.DEPTH, found, seconds=NOTED_S)
            self._log.warning(found.code.name, found)
        else:
            self._measured.note(Trouble.DEPTH, "")
        return found

    def _found(self, header: Header, size: tuple[int, int]) -> DepthView | Coded:
        message = self._at(nanoseconds(header.stamp))
        if isinstance(message, Coded):
            return message
        if message.header.frame_id != header.frame_id:
            theirs, ours = shortened(message.header.frame_id), shortened(header.frame_id)
            return Coded(
                f"depth on {self._topic} is in the frame '{theirs}', the image in '{ours}'; expected depth "
                "that is registered to the color image: take the aligned depth topic of the camera",
                Code.DEPTH_MISMATCH,
            )
        try:
            if isinstance(message, Image):
                depth = depth_to_metres(message)
            else:
                depth = compressed_depth_to_metres(message)
        except ConversionError as error:
            return Coded(f"depth on {self._topic} is not usable: {error}", Code.BAD_DEPTH)
        camera = self._camera_info.of_image(*size)
        if camera is None:
            return Coded("depth needs a usable camera_info; see the line about it", Code.BAD_CAMERA)
        try:
            return DepthView.registered(depth, camera, size)
        except GeometryError as error:
            return error.reason

    def _at(self, stamp: int) -> Image | CompressedImage | Coded:
        """Return the depth image nearest in time to a stamp in nanoseconds, or why there is none."""
        kept = list(self._kept)
        if not kept:
            return Coded(
                f"no depth image on {self._topic} yet; expected one for each color image: check that the "
                "camera publishes depth there, or set depth_transport to none",
                Code.NO_DEPTH,
            )
        nearest = min(kept, key=lambda each: abs(nanoseconds(each.header.stamp) - stamp))
        off = abs(nanoseconds(nearest.header.stamp) - stamp) / 1e6
        slop = self._settings().depth_slop_ms
        if off > slop:
            return Coded(
                f"the nearest depth image on {self._topic} is {off:.0f} ms from the color image; expected at "
                f"most {slop} ms (depth_slop_ms): check that both carry the time of the same exposure",
                Code.NO_DEPTH,
            )
        return nearest
