"""Add poses and sizes in three dimensions to the accepted objects of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lens_ros.codes import Code, Coded, code_of
from lens_ros.geometry.depth_views import DepthView
from lens_ros.geometry.errors import GeometryError
from lens_ros.geometry.objects import Located, locate
from lens_ros.msg import Segmentation as SegmentationMessage
from lens_ros.nodes.perception.depth_images import DepthImages
from lens_ros.ros import conversions

if TYPE_CHECKING:
    from lens_ros.segmentation import Segmentation


def add_poses(message: SegmentationMessage, result: Segmentation, depths: DepthImages) -> dict[int, Located]:
    """Fill pose, size and depth of the accepted instances, or say of each why it has none.

    No-op if depth is not read. Rejected instances get no pose and no reason.

    Returns:
        The located objects by the id of their instance.
    """
    accepted = [
        (instance, found)
        for instance, found in zip(message.instances, result.instances, strict=True)
        if not found.rejected
    ]
    if not accepted:
        return {}
    view = depths.view_of(message.header, result.mask.shape[:2])  # type: ignore[arg-type]
    if view is None:
        return {}
    objects = {}
    for instance, found in accepted:
        located = _located(view, found.mask)
        if isinstance(located, Located):
            conversions.set_pose(instance, located)
            objects[instance.id] = located
            message.pose_frame_id = message.header.frame_id
        else:
            instance.pose_reason, instance.pose_code = str(located), code_of(located)
    return objects


def _located(view: DepthView | Coded, mask: np.ndarray) -> Located | Coded:
    """Return the object in three dimensions, or why it has no place there."""
    if isinstance(view, Coded):
        return view
    try:
        return locate(view, mask)
    except GeometryError as error:
        return error.reason
    except Exception as error:  # two dimensions must go out, whatever happens in the third
        return Coded(f"internal error: {error!r}; please report this", Code.INTERNAL_ERROR)
