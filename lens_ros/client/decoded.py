"""Hold received answers with their masks as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lens_ros.codes import Code, known_code
from lens_ros.msg import Instance as InstanceMessage
from lens_ros.msg import Segmentation
from lens_ros.ros import conversions


@dataclass(frozen=True)
class Found:
    """One object: `message` as it was received (label, score, rejected, ...), `mask` (H, W) bool."""

    message: InstanceMessage
    mask: np.ndarray

    @property
    def accepted(self) -> bool:
        """Whether it may be acted upon; otherwise `message.rejected` says why not."""
        return not self.message.rejected

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 in pixels, x to the right, y down, x2 and y2 exclusive."""
        box = self.message.box
        return box.x_offset, box.y_offset, box.x_offset + box.width, box.y_offset + box.height


@dataclass(frozen=True)
class Answer:
    """The answer to one instruction about one image: `message` as received, `instances` best first."""

    message: Segmentation
    instances: tuple[Found, ...]

    @property
    def accepted(self) -> tuple[Found, ...]:
        """The objects that may be acted upon; without any, `message.reason` says why."""
        return tuple(instance for instance in self.instances if instance.accepted)

    @property
    def code(self) -> Code:
        """Code of `message.reason`; OK if an object was accepted."""
        return known_code(self.message.code)

    @cached_property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool, all accepted objects together; None without one."""
        masks = [instance.mask for instance in self.accepted]
        return np.logical_or.reduce(masks) if masks else None

    @classmethod
    def decoded(cls, message: Segmentation) -> Answer:
        """Return the answer with masks as arrays.

        Raises `ConversionError` for a damaged message.
        """
        instances = (Found(each, conversions.decode_mask(each.mask)) for each in message.instances)
        return cls(message, tuple(instances))
