"""Receive the camera's calibration, and report what is wrong with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo

from lens_ros.geometry.cameras import Camera
from lens_ros.nodes.perception.measurements import Measurements, Trouble
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.ros.conversions import ConversionError, camera_of, is_rectified
from lens_ros.ros.endpoints import Endpoints, newest_only
from lens_ros.ros.reporting import ThrottledLog

NOTED_S = 10.0  # how long the note outlives the last image that somebody wanted markers of


class CameraInfoInput:
    """The subscription to `camera_info`, for those outputs that need a calibration.

    A message is checked once, when an image of another size or a message with other content comes. What is
    wrong with it is said once, and stays in /diagnostics until there is a usable one.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Callable[[], PerceptionParameters],
        measured: Measurements,
        on_info: Callable[[CameraInfo], None],
    ) -> None:
        """Call `on_info(message)` for every message."""
        self._node = node
        self._settings = settings
        self._measured = measured
        self._on_info = on_info
        self._endpoints = Endpoints(
            node, lambda topic, text: measured.note(Trouble.IMAGE_MISMATCH, text, about=topic)
        )
        self._log = ThrottledLog(node, settings().log_interval_s)
        self._last: CameraInfo | None = None
        self._content: Hashable = None  # of `_last`
        self._checked: Hashable = None  # the content and the image's size that `_camera` is about
        self._camera: Camera | ConversionError | None = None
        self._said = False  # whether it was logged why `_camera` is None
        self._looking = threading.Lock()  # the inference thread, a service's and the executor's ask

    def open(self) -> None:
        """Start receiving camera_info; raise what rclpy raises for unusable qos_overrides."""
        self._log = ThrottledLog(self._node, self._settings().log_interval_s)
        self._endpoints.subscription(CameraInfo, "camera_info", self._keep, newest_only())

    def close(self) -> None:
        """Stop receiving, and forget the calibration: the next camera may be another."""
        self._endpoints.close()
        self._last = self._content = self._checked = self._camera = None
        self._measured.note(Trouble.CALIBRATION, "")

    def of_image(self, height: int, width: int) -> Camera | None:
        """Return the camera of an image of this size; None, and a line in the log, without a usable one."""
        with self._looking:
            return self._of_image(height, width)

    def _of_image(self, height: int, width: int) -> Camera | None:
        info, content = self._last, self._content
        topic = self._node.resolve_topic_name("camera_info")
        if info is None:
            text = f"no message on {topic} yet; markers and poses need the camera's calibration"
            self._measured.note(Trouble.CALIBRATION, text, seconds=NOTED_S)
            self._log.warning("missing", text)
            return None
        checked = content, height, width
        if checked != self._checked:
            self._checked, self._said = checked, False
            rectified = is_rectified(self._node.resolve_topic_name("image"))
            try:
                self._camera = camera_of(info, height, width, rectified=rectified)
            except ConversionError as error:
                self._camera = error
        if isinstance(self._camera, ConversionError):
            text = f"the message on {topic} cannot be used for markers and poses: {self._camera}"
            self._measured.note(Trouble.CALIBRATION, text, seconds=NOTED_S)
            # Throttled as well: the content may change with every message.
            self._said = self._said or self._log.warning(self._camera.kind, text)
            return None
        self._measured.note(Trouble.CALIBRATION, "")
        return self._camera

    def _keep(self, message: CameraInfo) -> None:
        self._content = _content(message)
        self._last = message
        self._on_info(message)


def _content(message: CameraInfo) -> Hashable:
    """Return all of a message but its header, so that NaN equals itself."""
    roi = message.roi
    return (
        message.height,
        message.width,
        message.distortion_model,
        bytes(memoryview(message.d)),
        message.k.tobytes(),
        message.r.tobytes(),
        message.p.tobytes(),
        message.binning_x,
        message.binning_y,
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
    )
