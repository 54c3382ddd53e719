"""Camera images: raw or compressed, checked on arrival, decoded when they are used, missed when absent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image

from lens_ros.inputs import as_rgb
from lens_ros.nodes import conversions
from lens_ros.nodes.continuity import Continuity
from lens_ros.nodes.conversions import ConversionError
from lens_ros.nodes.endpoints import Endpoints, newest_only
from lens_ros.nodes.measurements import Measurements
from lens_ros.nodes.middleware import PROFILE_VARIABLE
from lens_ros.nodes.parameters import PerceptionParameters
from lens_ros.nodes.reporting import ThrottledLog, survives
from lens_ros.nodes.stamps import is_valid, nanoseconds

ImageMessage: TypeAlias = "Image | CompressedImage"

CHANGE_NOTED_S = 10.0  # how long /diagnostics tells of a change that is over in a moment


class ImageInput:
    """The subscription to `image`, or to `image/compressed` by the parameter image_transport.

    `on_image(message)` is called for every image that has passed `check` and is `fresh`, `on_silence()` when
    none has come for image_timeout_s. Whoever opens or closes holds `changing`: transitions do so in another
    thread than services.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Callable[[], PerceptionParameters],
        measured: Measurements,
        on_image: Callable[[ImageMessage], None],
        on_silence: Callable[[], None],
    ) -> None:
        self.node = node
        self.changing = threading.RLock()
        self.topic = node.resolve_topic_name("image")
        self._settings = settings
        self._measured = measured
        self._deliver = on_image
        self._fell_silent = on_silence
        self._endpoints = Endpoints(node, lambda topic, text: measured.note(f"mismatch {topic}", text))
        self._log = ThrottledLog(node, settings().log_interval_s)
        self._last_at = 0.0
        self._silence_reported = False
        self._continuity = Continuity()

    def open(self) -> None:
        """Begins to receive. Raises what rclpy raises for unusable qos_overrides."""
        self.close()  # never twice
        settings = self._settings()
        self._log = ThrottledLog(self.node, settings.log_interval_s)
        # Remapping `image` moves the compressed topic along, as with image_transport.
        compressed = settings.image_transport == "compressed"
        self.topic = self.node.resolve_topic_name("image") + ("/compressed" if compressed else "")
        self._last_at = time.monotonic()
        self._silence_reported = False
        self._continuity = Continuity()
        message_type = CompressedImage if compressed else Image
        self._endpoints.subscription(message_type, self.topic, self._on_image, newest_only())
        self._endpoints.timer(1.0, self._check_silence)

    def close(self) -> None:
        """Receives no more."""
        self._endpoints.close()
        for trouble in ("silence", "image trouble", "image change"):
            self._measured.forget_notes(trouble)

    @property
    def form(self) -> str:
        """Size, encoding and frame of the latest usable image; empty before the first one."""
        return self._continuity.form

    def complain(self, error: Exception) -> None:
        """Says why an image cannot be used; a flood of the same kind is counted, not logged."""
        kind = error.kind if isinstance(error, ConversionError) else type(error).__name__
        self._measured.count("unusable images")
        self._complain(kind, f"image on {self.topic} is not usable: {error}")

    def fresh(self, message: ImageMessage) -> bool:
        """Whether an image may still be used: by its stamp and the node's clock no older than
        max_image_age_ms, and no further in the future, where its age is anyone's guess. An image without a
        stamp has no age and may be used. One with an invalid stamp may be used unless there is a limit.
        """
        limit = self.node.get_parameter("max_image_age_ms").value
        if not is_valid(message.header.stamp):
            if limit:
                self._measured.count("unusable images")
                self._complain_of_stamp(message, limit)
            return not limit
        age = self.age_ms(message) if limit else None
        if age is None or abs(age) <= limit:
            return True
        self._measured.count("old images" if age > 0 else "future images")
        when = f"is {age:.0f} ms old by its stamp" if age > 0 else f"is stamped {-age:.0f} ms in the future"
        self._complain(
            "age" if age > 0 else "future",
            f"image on {self.topic} {when} and is not used; expected at most {limit} ms (max_image_age_ms): "
            "look for delays between camera and node, and whether their clocks agree (use_sim_time for a "
            "played recording)",
        )
        return False

    def _complain_of_stamp(self, message: ImageMessage, limit: int) -> None:
        """Say that a stamp is not a time, and what becomes of the image."""
        stamp = message.header.stamp
        fate = (
            f"it is not used, since its age cannot be compared with max_image_age_ms ({limit} ms)"
            if limit
            else "it is used like an image without a stamp"
        )
        self._complain(
            "stamp",
            f"image on {self.topic} has the invalid stamp sec {stamp.sec}, nanosec {stamp.nanosec}; "
            f"expected sec from 0 and nanosec below 1000000000: correct the camera's clock or driver; {fate}",
        )

    def age_ms(self, message: ImageMessage) -> float | None:
        """Return the milliseconds since the image's stamp by the node's clock; None for an image without a
        stamp, or with an invalid one.
        """
        stamp = message.header.stamp
        if not nanoseconds(stamp) or not is_valid(stamp):
            return None
        return (self.node.get_clock().now().nanoseconds - nanoseconds(stamp)) / 1e6

    def _complain(self, kind: str, text: str) -> None:
        self._measured.note("image trouble", text)
        self._log.warning(kind, text)

    @survives
    def _on_image(self, message: ImageMessage) -> None:
        self._last_at = time.monotonic()
        age = self.age_ms(message)
        self._measured.count("images")
        self._measured.add("image", 0.0)
        if age is not None:
            self._measured.add("age", age)
        if self._silence_reported:
            self._silence_reported = False
            self._measured.forget_notes("silence")
            self._log.info("silence", f"images arrive again on {self.topic}")
        try:
            check(message)
        except ConversionError as error:
            self.complain(error)
        else:
            self._tell_changes(message)
            if self.fresh(message):
                if is_valid(message.header.stamp):
                    self._measured.forget_notes("image trouble")
                else:
                    self._complain_of_stamp(message, 0)
                self._deliver(message)

    def _tell_changes(self, message: ImageMessage) -> None:
        for change in self._continuity.observe(message):
            text = f"{self.topic}: {change.text}"
            self._measured.count("time jumps" if change.kind == "time" else "changes of form")
            self._measured.note(f"image change, {change.kind}", text, seconds=CHANGE_NOTED_S)
            self._log.warning(change.kind, text)

    @survives
    def _check_silence(self) -> None:
        timeout = self._settings().image_timeout_s
        silence = time.monotonic() - self._last_at
        if timeout <= 0 or silence < timeout or self._silence_reported:
            return
        self._silence_reported = True
        self._fell_silent()
        publishers = self.node.count_publishers(self.topic)
        if publishers == 0:
            why = (
                "nobody publishes there: is the camera running, and is `image` remapped to its topic? "
                "(the parameter image_transport chooses between raw and compressed)"
            )
        else:
            why = (
                f"{publishers} publisher(s) there: if the images are larger than 0.5 MB, Fast DDS drops "
                "them silently unless the CAMERA's process uses lens_ros' config/fastdds.xml "
                f"({PROFILE_VARIABLE}); otherwise look at the camera, or set image_transport to "
                "compressed"
            )
        text = f"no image on {self.topic} for {silence:.0f} s; {why}"
        self._measured.note("silence", text)
        self._log.warning("silence", text)


def check(message: ImageMessage) -> None:
    """What can be judged without decoding; raises `ConversionError`."""
    if isinstance(message, CompressedImage):
        conversions.check_compressed_image(message)
    else:
        conversions.check_image(message)


def decode(message: ImageMessage, tones: conversions.Tones | None = None) -> np.ndarray:
    """Return a message as (H, W, 3) uint8 RGB; for `tones` see `conversions.image_to_rgb`.

    Raises `ConversionError`, or `ImageError` for a size that the model cannot use.
    """
    convert = (
        conversions.compressed_to_rgb if isinstance(message, CompressedImage) else conversions.image_to_rgb
    )
    return as_rgb(convert(message, tones))
