"""Convert answers of `Lens` to messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from lens_ros.codes import code_of
from lens_ros.geometry.objects import Located
from lens_ros.msg import Instance as InstanceMessage
from lens_ros.msg import Segmentation as SegmentationMessage
from lens_ros.ros.conversions.masks import encode_mask

if TYPE_CHECKING:
    from lens_ros.segmentation import Segmentation


def segmentation_to_message(
    result: Segmentation,
    header: Header,
    *,
    target_id: int = 0,
    ids: Sequence[int] | None = None,
) -> SegmentationMessage:
    """Return the answer of `Lens` as a message with the camera image's header.

    `ids` are those of the instances, in their order; 1, 2, ... if omitted.
    """
    instances = []
    numbers = range(1, len(result.instances) + 1) if ids is None else ids
    for number, instance in zip(numbers, result.instances, strict=True):
        region = box_to_region(instance.box, *instance.mask.shape)
        instances.append(
            InstanceMessage(
                id=number,
                label=instance.label,
                score=float(instance.score),
                consistency=float(instance.consistency),
                rejected=instance.rejected,
                rejected_code=code_of(instance.rejected),
                box=region,
                mask=encode_mask(instance.mask, region),
            )
        )
    return SegmentationMessage(
        header=header,
        target_id=target_id,
        instruction=result.instruction,
        instances=instances,
        reasoning=result.reasoning,
        answer=result.answer,
        reason=result.reason,
        code=code_of(result.reason),
        reasoned_stamp=header.stamp,
        score_threshold=float(result.score_threshold),
        tokens=result.tokens,
        preprocess_ms=float(result.preprocess_ms),
        reason_ms=float(result.reason_ms),
        decode_ms=float(result.decode_ms),
        model=result.model,
    )


def set_pose(message: InstanceMessage, located: Located) -> None:
    """Fill an instance's fields of three dimensions: pose, size, depth_median, visible_fraction."""
    box = located.box
    turn = cv2.Rodrigues(box.rotation)[0].ravel()  # axis times angle
    angle = float(np.linalg.norm(turn))
    x, y, z = turn * (math.sin(angle / 2) / angle if angle > 0 else 0.5)
    message.has_pose = True
    message.pose = Pose(
        position=Point(**dict(zip("xyz", map(float, box.center), strict=True))),
        orientation=Quaternion(x=float(x), y=float(y), z=float(z), w=math.cos(angle / 2)),
    )
    message.size = Vector3(**dict(zip("xyz", map(float, box.size), strict=True)))
    message.depth_median = located.depth_median
    message.visible_fraction = located.visible_fraction


def box_to_region(box: Iterable[float], height: int, width: int) -> RegionOfInterest:
    """Return the smallest region of whole pixels around a box.

    The box is (x1, y1, x2, y2) in pixels, x2 and y2 exclusive.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return RegionOfInterest()
    left, top = min(max(math.floor(x1), 0), width), min(max(math.floor(y1), 0), height)
    right, bottom = min(max(math.ceil(x2), left), width), min(max(math.ceil(y2), top), height)
    return RegionOfInterest(x_offset=left, y_offset=top, width=right - left, height=bottom - top)
