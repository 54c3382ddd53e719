"""The camera's calibration: the last message of `camera_info`, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo

from lens_ros.nodes.conversions import ConversionError, check_camera_info
from lens_ros.nodes.endpoints import Endpoints, newest_only
from lens_ros.nodes.measurements import Measurements
from lens_ros.nodes.parameters import PerceptionParameters
from lens_ros.nodes.throttle import Throttle


class CameraInfoInput:
    """The subscription to `camera_info`, for those outputs that need a calibration."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: Callable[[], PerceptionParameters],
        measured: Measurements,
        on_info: Callable[[CameraInfo], None],
    ) -> None:
        """`on_info(message)` is called for every message."""
        self._node = node
        self._settings = settings
        self._on_info = on_info
        self._endpoints = Endpoints(node, lambda topic, text: measured.note(f"mismatch {topic}", text))
        self._complaints = Throttle(settings().log_interval_s)
        self._last: CameraInfo | None = None

    def open(self) -> None:
        """Begins to receive. Raises what rclpy raises for unusable qos_overrides."""
        self._complaints = Throttle(self._settings().log_interval_s)
        self._endpoints.subscription(CameraInfo, "camera_info", self._keep, newest_only())

    def close(self) -> None:
        """Receives no more, and forgets: the next camera may be another."""
        self._endpoints.close()
        self._last = None

    def of_image(self, height: int, width: int) -> CameraInfo | None:
        """The calibration of an image of this size; None, and a line in the log now and then, without one."""
        info = self._last
        topic = self._node.resolve_topic_name("camera_info")
        if info is None:
            kind, text = "missing", f"no message on {topic} yet; markers need the camera's calibration"
        else:
            try:
                check_camera_info(info, height, width)
                return info
            except ConversionError as error:
                kind, text = error.kind, f"the message on {topic} cannot be used for markers: {error}"
        passed = self._complaints(kind, text)
        if passed is not None:
            self._node.get_logger().warning(passed)
        return None

    def _keep(self, message: CameraInfo) -> None:
        self._last = message
        self._on_info(message)
