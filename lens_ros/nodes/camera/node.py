"""The node `camera`: publishes a recording or a folder of pictures like a camera.

Published, RELIABLE (so that every subscriber matches), each form only while someone subscribes to it:
- `image`, sensor_msgs/Image: rgb8, or as recorded where the recording is not compressed
- `image/compressed`, sensor_msgs/CompressedImage: as recorded, else JPEG
- `depth`, sensor_msgs/Image: 16UC1 millimetres or 32FC1 metres, as recorded
- `camera_info`, sensor_msgs/CameraInfo: as recorded

Messages that were recorded with one stamp keep one stamp. Best-effort subscribers get images above 0.5 MB
only if this process uses the Fast DDS profile in config/ (FASTDDS_DEFAULT_PROFILES_FILE); the launch files
see to it.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from lens_ros import interrupts
from lens_ros.nodes.camera.parameters import CameraParameters
from lens_ros.nodes.camera.sources import DEFAULT_FRAME_ID, Shot, SourceError, open_source
from lens_ros.ros import command_line, conversions, overrides, parameters, starting
from lens_ros.ros.command_line import CRASHED, ENDED, UNUSABLE
from lens_ros.ros.conversions import ConversionError
from lens_ros.ros.middleware import fitted_profile
from lens_ros.ros.parameters import ParameterError
from lens_ros.ros.process import SIGNAL_POLL_S, ended_by_signal
from lens_ros.ros.reporting import ThrottledLog
from lens_ros.ros.starting import StartError
from lens_ros.ros.texts import SENTENCE, shortened
from lens_ros.ros.workarounds.executor import spin

LATEST = (
    0.5  # seconds behind its time from which on playing goes on from now instead of catching up in a burst
)
PAUSE_POLL_S = 0.05
COMPLAINTS_S = 5.0  # interval of the log lines about items that cannot be played


class CameraNode(Node):
    """Play in a separate thread from construction until `close()`; `finished` then holds the exit code.

    Raises `ParameterError` or `SourceError`.
    """

    def __init__(self, name: str = "camera", **options: Any) -> None:
        super().__init__(name, **options)
        self._settings = parameters.declare(self, CameraParameters)
        self._source = open_source(
            self._settings.source,
            frame_rate_hz=self._settings.frame_rate_hz,
            color_topic=self._settings.color_topic,
            depth_topic=self._settings.depth_topic,
            camera_info_topic=self._settings.camera_info_topic,
        )
        self._images = self._publisher(Image, "image")
        self._compressed = self._publisher(CompressedImage, self.resolve_topic_name("image") + "/compressed")
        self._depths = self._publisher(Image, "depth")
        self._infos = self._publisher(CameraInfo, "camera_info")
        if objection := overrides.unknown_policies(self._parameter_overrides, self._parameters):
            self.get_logger().warning(objection)
        self._stamps: OrderedDict[tuple[int, int], Time] = OrderedDict()
        self._log = ThrottledLog(self, COMPLAINTS_S)
        self._tones = conversions.Tones(functools.partial(self._log.info, "tones"))
        self._stopping = threading.Event()
        self.finished: Future = Future()
        self._thread = threading.Thread(target=self._run, name="playing", daemon=True)
        self.get_logger().info(
            f"playing {shortened(self._source.description, SENTENCE)} on {self.resolve_topic_name('image')}"
        )
        if self._source.remark:
            self.get_logger().warning(shortened(self._source.remark, SENTENCE))
        self._thread.start()

    def close(self) -> None:
        """Stop playing; call before the node is destroyed."""
        self._stopping.set()
        self._thread.join()

    def _publisher(self, message_type: type, topic: str) -> Any:
        return self.create_publisher(
            message_type,
            topic,
            QoSProfile(
                history=QoSHistoryPolicy.KEEP_LAST, depth=5, reliability=QoSReliabilityPolicy.RELIABLE
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    # Playing ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._play_once()
                if self._stopping.is_set() or not self._settings.loop:
                    break
        except SourceError as error:
            self.get_logger().fatal(shortened(str(error), SENTENCE))
            self.finished.set_result(UNUSABLE)
        except Exception:
            if self.context.ok():  # else the publishers went away under us: the node is ending
                self.finished.set_result(CRASHED)
                raise
        else:
            if not self._stopping.is_set():
                self.get_logger().info("the recording is at its end")
            self.finished.set_result(ENDED)

    def _play_once(self) -> None:
        self._stamps.clear()  # a recording that restarts gets new stamps
        begun = time.monotonic()
        for shot in self._source.shots():
            if isinstance(shot, str):
                self._log.warning("left out", shot)
                continue
            begun = self._wait(begun, shot.at)
            if self._stopping.is_set():
                return
            try:
                self._publish(shot)
            except ConversionError as error:
                self._log.warning(
                    (shot.stream, error.kind), f"recorded {shot.stream} cannot be used: {error}"
                )
        self._wait(begun, self._source.duration)

    def _wait(self, begun: float, at: float) -> float:
        """Wait until `at` of a playback that began at `begun`; return the beginning to count from now on."""
        ahead = begun + at / self._settings.rate - time.monotonic()
        if ahead > 0:
            self._stopping.wait(ahead)
        paused = time.monotonic()
        while self.get_parameter("paused").value and not self._stopping.wait(PAUSE_POLL_S):
            begun += time.monotonic() - paused
            paused = time.monotonic()
        return begun - ahead if ahead < -LATEST else begun

    def _publish(self, shot: Shot) -> None:
        content = shot.content
        if isinstance(content, np.ndarray):
            header = Header(
                stamp=self.get_clock().now().to_msg(), frame_id=self._settings.frame_id or DEFAULT_FRAME_ID
            )
            self._publish_picture(content, header)
            return
        content.header = self._header(content.header)
        if shot.stream == "camera_info":
            self._infos.publish(content)
        elif shot.stream == "depth":
            self._publish_depth(content)
        elif isinstance(content, CompressedImage):
            if self._compressed.get_subscription_count():
                self._compressed.publish(content)
            if self._images.get_subscription_count():
                rgb = conversions.compressed_to_rgb(content, self._tones)
                self._images.publish(conversions.rgb_to_image(rgb, content.header))
        else:
            if self._images.get_subscription_count():
                self._images.publish(content)
            if self._compressed.get_subscription_count():
                rgb = conversions.image_to_rgb(content, self._tones)
                self._publish_jpeg(rgb, content.header)

    def _publish_picture(self, rgb: np.ndarray, header: Header) -> None:
        if self._images.get_subscription_count():
            self._images.publish(conversions.rgb_to_image(rgb, header))
        if self._compressed.get_subscription_count():
            self._publish_jpeg(rgb, header)

    def _publish_jpeg(self, rgb: np.ndarray, header: Header) -> None:
        quality = self._settings.jpeg_quality
        self._compressed.publish(conversions.rgb_to_compressed(rgb, header, quality=quality))

    def _publish_depth(self, message: Image | CompressedImage) -> None:
        if not self._depths.get_subscription_count():
            return
        if isinstance(message, CompressedImage):
            encoding = "32FC1" if message.format.startswith("32FC1") else "16UC1"
            metres = conversions.compressed_depth_to_metres(message)
            message = conversions.depth_to_image(metres, message.header, encoding=encoding)
        self._depths.publish(message)

    def _header(self, recorded: Header) -> Header:
        header = Header(stamp=recorded.stamp, frame_id=self._settings.frame_id or recorded.frame_id)
        if self._settings.stamp == "now":
            key = (recorded.stamp.sec, recorded.stamp.nanosec)
            if key not in self._stamps:
                self._stamps[key] = self.get_clock().now().to_msg()
                while len(self._stamps) > 16:  # more instants than are ever interleaved in a recording
                    self._stamps.popitem(last=False)
            header.stamp = self._stamps[key]
        return header


def main(arguments: list[str] | None = None) -> int:
    """Run the node to the end of its source, SIGINT or SIGTERM; return the exit status (`command_line`).

    With rclpy's own signal handlers an exception may come up anywhere in rclpy and leave what it was about to
    let go of.
    """
    command_line.parse("camera", arguments)
    ended = ended_by_signal()
    try:
        with fitted_profile() as trouble:
            starting.init(arguments, signal_handler_options=SignalHandlerOptions.NO)
            node = CameraNode()
    except (StartError, ParameterError, SourceError) as error:
        interrupts.ignore()
        get_logger("camera").fatal(str(error))
        rclpy.try_shutdown()
        return UNUSABLE
    if trouble:
        node.get_logger().warning(trouble)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.finished.add_done_callback(lambda _: ended.set())
    spinning = threading.Thread(target=spin, args=(executor,), name="executor", daemon=True)
    spinning.start()
    while not ended.wait(SIGNAL_POLL_S) and spinning.is_alive():
        pass
    interrupts.ignore()
    crashed = not spinning.is_alive()
    node.close()
    executor.shutdown()
    spinning.join()
    node.destroy_node()
    rclpy.try_shutdown()
    if crashed:
        return CRASHED
    code = node.finished.result() if node.finished.done() else ENDED
    return code or ENDED


if __name__ == "__main__":
    raise SystemExit(main())
