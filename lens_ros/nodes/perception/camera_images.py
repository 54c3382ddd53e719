"""Receive camera images, raw or compressed: check them on arrival, decode them when they are used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lens_ros.inputs import as_rgb
from lens_ros.nodes.perception.image_losses import ImageLosses
from lens_ros.nodes.perception.measurements import Event, Measurements, Series, Trouble
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.nodes.perception.stream_changes import StreamChanges
from lens_ros.ros import conversions
from lens_ros.ros.conversions import ConversionError
from lens_ros.ros.endpoints import Endpoints, newest_only
from lens_ros.ros.matching import node_of, type_name
from lens_ros.ros.middleware import PROFILE_VARIABLE
from lens_ros.ros.reporting import ThrottledLog, survives
from lens_ros.ros.stamps import is_valid, nanoseconds

ImageMessage: TypeAlias = "Image | CompressedImage"

LOSS_ADVICE = (
    "check that the CAMERA's process uses lens_ros' config/fastdds.xml and that /dev/shm has room for it "
    "(with Docker: --shm-size=1g or --ipc=host); over a network check net.core.rmem_max and the MTU, or set "
    "image_transport to compressed"
)
CHANGE_NOTED_S = 10.0  # how long /diagnostics shows a momentary change


class CameraImages:
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
        self._endpoints = Endpoints(
            node, lambda topic, text: measured.note(Trouble.IMAGE_MISMATCH, text, about=topic)
        )
        self._log = ThrottledLog(node, settings().log_interval_s)
        self._last_at = 0.0
        self._silence_reported = False
        self._continuity = StreamChanges()
        self._losses = ImageLosses()

    def open(self) -> None:
        """Start receiving images; raise what rclpy raises for unusable qos_overrides."""
        self.close()  # never twice
        settings = self._settings()
        self._log = ThrottledLog(self.node, settings.log_interval_s)
        # Remapping `image` moves the compressed topic along, as with image_transport.
        compressed = settings.image_transport == "compressed"
        self.topic = self.node.resolve_topic_name("image") + ("/compressed" if compressed else "")
        self._last_at = time.monotonic()
        self._silence_reported = False
        self._continuity = StreamChanges()
        self._losses.clear()
        message_type = CompressedImage if compressed else Image
        self._endpoints.subscription(
            message_type, self.topic, self._on_image, newest_only(), self._advice_on_type
        )
        self._endpoints.timer(1.0, self._check_silence)
        self._endpoints.timer(1.0, self._check_losses)

    def close(self) -> None:
        """Stop receiving images."""
        self._endpoints.close()
        self._measured.forget(
            Trouble.NO_IMAGES, Trouble.UNUSABLE_IMAGE, Trouble.IMAGE_CHANGE, Trouble.IMAGE_LOSS
        )

    def note_info(self, message: CameraInfo) -> None:
        """Note that a camera_info has arrived: each is to have its image."""
        self._losses.info(nanoseconds(message.header.stamp))

    @property
    def form(self) -> str:
        """Size, encoding and frame of the latest usable image; empty before the first one."""
        return self._continuity.form

    def complain(self, error: Exception) -> None:
        """Report why an image cannot be used; log a flood of one kind once, and count the rest."""
        kind = error.kind if isinstance(error, ConversionError) else type(error).__name__
        self._measured.count(Event.UNUSABLE_IMAGE)
        self._complain(kind, f"image on {self.topic} is not usable: {error}")

    def fresh(self, message: ImageMessage) -> bool:
        """Return whether an image may still be used, by its stamp and the node's clock.

        It must be no older than max_image_age_ms, and no further in the future, where its age is unknown. An
        image without a stamp has no age and may be used. One with an invalid stamp may be used unless there
        is a limit.
        """
        limit = self.node.get_parameter("max_image_age_ms").value
        if not is_valid(message.header.stamp):
            if limit:
                self._measured.count(Event.UNUSABLE_IMAGE)
                self._complain_of_stamp(message, limit)
            return not limit
        age = self.age_ms(message) if limit else None
        if age is None or abs(age) <= limit:
            return True
        self._measured.count(Event.OLD_IMAGE if age > 0 else Event.FUTURE_IMAGE)
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
        """Return the milliseconds since the image's stamp by the node's clock.

        None for an image without a stamp, or with an invalid one.
        """
        stamp = message.header.stamp
        if not nanoseconds(stamp) or not is_valid(stamp):
            return None
        return (self.node.get_clock().now().nanoseconds - nanoseconds(stamp)) / 1e6

    def _complain(self, kind: str, text: str) -> None:
        self._measured.note(Trouble.UNUSABLE_IMAGE, text)
        self._log.warning(kind, text)

    @survives
    def _on_image(self, message: ImageMessage) -> None:
        self._last_at = time.monotonic()
        age = self.age_ms(message)
        self._measured.count(Event.IMAGE)
        self._measured.add(Series.IMAGE, 0.0)
        if age is not None:
            self._measured.add(Series.AGE_RECEIVED, age)
        self._losses.image(nanoseconds(message.header.stamp))
        if self._silence_reported:
            self._silence_reported = False
            self._measured.forget(Trouble.NO_IMAGES)
            self._log.info("silence", f"images arrive again on {self.topic}")
        try:
            check(message)
        except ConversionError as error:
            self.complain(error)
        else:
            self._tell_changes(message)
            fresh = self.fresh(message)
            fate = "used unless a newer one comes" if fresh else "stale, dropped"
            self.node.get_logger().debug(f"image of {nanoseconds(message.header.stamp) / 1e9:.3f} s: {fate}")
            if fresh:
                if is_valid(message.header.stamp):
                    self._measured.forget(Trouble.UNUSABLE_IMAGE)
                else:
                    self._complain_of_stamp(message, 0)
                self._deliver(message)

    def _tell_changes(self, message: ImageMessage) -> None:
        for change in self._continuity.observe(message):
            text = f"{self.topic}: {change.text}"
            self._measured.count(Event.TIME_JUMP if change.kind == "time" else Event.CHANGE_OF_FORM)
            self._measured.note(Trouble.IMAGE_CHANGE, text, about=change.kind, seconds=CHANGE_NOTED_S)
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
        infos = self._losses.infos_since(timeout)
        mismatch = self._endpoints.why_silent(self.topic)
        if publishers == 0:
            why = (
                "nobody publishes there: is the camera running, and is `image` remapped to its topic? "
                "(the parameter image_transport chooses between raw and compressed)"
            )
        elif mismatch:
            why = mismatch
        elif infos:
            why = f"{infos} camera_info arrived meanwhile, so images may get lost on their way: {LOSS_ADVICE}"
        else:
            raw = not self.topic.endswith("/compressed")
            why = (
                f"{publishers} publisher(s) there: if the images are larger than 0.5 MB, Fast DDS drops "
                "them silently unless the CAMERA's process uses lens_ros' config/fastdds.xml "
                f"({PROFILE_VARIABLE}); otherwise look at the camera"
                f"{', or set image_transport to compressed' if raw else ''}"
            )
        # Where images came before and their camera is there, the other transport is not the cause.
        reasons = [self._other_transport(), why]
        if self.form and publishers:
            reasons.reverse()
        text = "; ".join([f"no image on {self.topic} for {silence:.0f} s", *filter(None, reasons)])
        # The diagnostics show the mismatch already.
        self._measured.note(Trouble.NO_IMAGES, text.replace(f"; {mismatch}", "") if mismatch else text)
        self._log.warning("silence", text)

    @survives
    def _check_losses(self) -> None:
        loss = self._losses.loss()
        if loss is None:
            self._measured.forget(Trouble.IMAGE_LOSS)
            return
        text = (
            f"images arrive on {self.topic} at {loss.images_hz:.1f} Hz and their camera_info at "
            f"{loss.infos_hz:.1f} Hz, so most images get lost on their way: {LOSS_ADVICE}"
        )
        self._measured.note(Trouble.IMAGE_LOSS, text)
        self._log.warning("loss", text)

    def _other_transport(self) -> str:
        """Return what to do where images of the other transport are there, or the empty string."""
        other, transport, kind = self.topic + "/compressed", "compressed", CompressedImage
        if self.topic.endswith("/compressed"):
            other, transport, kind = self.topic.removesuffix("/compressed"), "raw", Image
        infos = self.node.get_publishers_info_by_topic(other)
        nodes = sorted({node_of(info) for info in infos if info.topic_type == type_name(kind)})
        if not nodes:
            return ""
        return (
            f"{type_name(kind)} is published on {other} by {', '.join(nodes)}: to use that, set the "
            f"parameter image_transport to {transport}"
        )

    def _advice_on_type(self, foreign: str) -> str:
        """Return what to do about publishers of another type on the topic."""
        if foreign == type_name(CompressedImage):
            base = self.topic.removesuffix("/compressed")
            renamed = f"`image` to {base}" if base != self.topic else f"{self.topic} to NAME/compressed"
            return f"set the parameter image_transport to compressed, and remap {renamed}"
        if foreign == type_name(Image):
            return f"set the parameter image_transport to raw, and remap `image` to {self.topic}"
        return "remap `image` to the topic of a camera"


def check(message: ImageMessage) -> None:
    """Check what can be judged without decoding; raise `ConversionError`."""
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
