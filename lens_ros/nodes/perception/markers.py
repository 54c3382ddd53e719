"""Make outlines, labels and boxes for RViz: visualization_msgs/MarkerArray.

Boxes are where depth has located the objects. Outlines need no depth: they lie on a plane in front of the
camera, along the lines of sight of their pixels. Seen from the camera, and in RViz's display Camera, they
fall on their objects.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from lens_ros.geometry.cameras import Camera
from lens_ros.geometry.objects import Box, Located

DISTANCE_M = 1.0  # from the camera to the plane
LINE_M, TEXT_M = 0.004, 0.04  # width of lines and height of letters there
SIMPLER_PIXELS = 1.0  # largest distance of a drawn outline from the true one
GOLDEN_ANGLE = 0.381966  # as a share of the circle of hues: neighbours in number differ in color


def markers(
    header: Header, objects: Iterable[tuple[int, Any]], camera: Camera, located: Mapping[int, Located]
) -> MarkerArray:
    """Return an outline and a label per object, and a box if it was located; they replace earlier markers.

    Args:
        header: of the image; its frame is the camera's optical frame.
        objects: id and `lens_ros.instances.Instance` of each.
        camera: of the image.
        located: objects that depth has located, by their ids.
    """
    message = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    for number, instance in objects:
        contours, _ = cv2.findContours(
            instance.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        corners = [cv2.approxPolyDP(contour, SIMPLER_PIXELS, True).reshape(-1, 2) for contour in contours]
        # The end points of every edge of every part, as LINE_LIST wants them.
        ends = [np.stack([part, np.roll(part, -1, axis=0)], axis=1).reshape(-1, 2) for part in corners]
        if not ends:
            continue
        outline = _marker(header, "outlines", number, Marker.LINE_LIST)
        outline.scale.x = LINE_M
        edges = camera.points(np.concatenate(ends), DISTANCE_M).reshape(-1, 2, 3)
        seen = edges[np.isfinite(edges).all(axis=(1, 2))]  # the others are beyond the lens' image circle
        if not len(seen):
            continue
        outline.points = [Point(x=x, y=y, z=z) for x, y, z in seen.reshape(-1, 3).tolist()]
        x1, y1, x2, _ = (float(edge) for edge in instance.box)
        label = _marker(header, "labels", number, Marker.TEXT_VIEW_FACING)
        label.scale.z = TEXT_M
        label.text = f"{number} {instance.label}".strip()
        place = camera.points(np.array([[(x1 + x2) / 2, y1]]), DISTANCE_M)[0]
        if not np.isfinite(place).all():
            place = seen.reshape(-1, 3)[seen[..., 1].argmin()]
        x, y, z = place.tolist()
        label.pose.position = Point(x=x, y=y - TEXT_M / 2, z=z)
        message.markers += [outline, label]
        if number in located:
            message.markers.append(_box(header, number, located[number].box))
    return message


def _box(header: Header, number: int, box: Box) -> Marker:
    """Return the edges of a box in three dimensions."""
    marker = _marker(header, "boxes", number, Marker.LINE_LIST)
    marker.scale.x = LINE_M
    corners = box.corners
    pairs = [(first, first | 1 << axis) for first in range(8) for axis in range(3) if not first >> axis & 1]
    marker.points = [Point(x=x, y=y, z=z) for pair in pairs for x, y, z in corners[list(pair)].tolist()]
    return marker


def _marker(header: Header, namespace: str, number: int, kind: int) -> Marker:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN_ANGLE % 1.0, 0.8, 1.0)
    marker = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.lifetime = Duration()  # until the next image's
    return marker
