"""Notice changes from one camera image to the next: size, encoding, frame, time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sensor_msgs.msg import CompressedImage, Image

from lens_ros.ros.stamps import is_valid, nanoseconds
from lens_ros.ros.texts import shortened

JUMP_S = 5.0  # by which stamps may run ahead of the time that passes


@dataclass(frozen=True)
class Change:
    """A change between two images. `kind` is "form" or "time"."""

    kind: str
    text: str


class StreamChanges:
    """Compares every image with the one before."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.form = ""  # of the latest image, in words
        self._clock = clock
        self._stamp = 0.0
        self._at = 0.0

    def observe(self, message: Image | CompressedImage) -> list[Change]:
        """Return what differs from the image before."""
        changes = []
        form, before = _form(message), self.form
        if before and form != before:
            changes.append(Change("form", f"images are now {form}; before: {before}"))
        now = self._clock()
        # An invalid stamp says nothing about time: it is treated as a missing one.
        stamp = 1e-9 * nanoseconds(message.header.stamp) if is_valid(message.header.stamp) else 0.0
        step = stamp - self._stamp
        if stamp and self._stamp and not 0 <= step <= now - self._at + JUMP_S:
            way = "back" if step < 0 else "ahead"
            changes.append(
                Change(
                    "time",
                    f"stamps jumped {way} by {abs(step):.1f} s: a clock that was set, a recording that "
                    "started over, or two cameras on one topic; answers carry the stamps as they come",
                )
            )
        self.form = form
        if stamp:
            self._stamp, self._at = stamp, now
        return changes


def _form(message: Image | CompressedImage) -> str:
    if isinstance(message, CompressedImage):
        kind = f"'{shortened(message.format)}'"
    else:
        kind = f"{message.width} x {message.height} {shortened(message.encoding)}"
    return f"{kind} in frame '{shortened(message.header.frame_id)}'"
