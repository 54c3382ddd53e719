"""Publish mask, labels, overlay, detections and markers of a processed image.

One message each per processed image, over all targets that were answered about it. Nothing is computed for a
topic that nobody subscribes to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from lens_ros.geometry.cameras import Camera
from lens_ros.geometry.objects import Located
from lens_ros.nodes.perception.camera_info import CameraInfoInput
from lens_ros.nodes.perception.markers import markers
from lens_ros.nodes.perception.measurements import Measurements, Trouble
from lens_ros.ros import conversions
from lens_ros.ros.endpoints import Endpoints

try:
    import vision_msgs.msg as vision_msgs
except ImportError:  # an optional package
    vision_msgs = None

if TYPE_CHECKING:
    from lens_ros.instances import Instance
    from lens_ros.segmentation import Segmentation


@dataclass(frozen=True)
class Identified:
    """An answer, the id of each of its instances, and the located ones by their id."""

    result: Segmentation
    ids: Sequence[int]
    objects: Mapping[int, Located] = field(default_factory=dict)


class PicturePublisher:
    """Publisher of masks, overlays and markers of all targets of an image.

    Topics: `mask`, `labels`, `overlay`, `overlay/compressed`, `markers` (with a calibrated camera) and, with
    vision_msgs, `detections`.
    """

    def __init__(self, node: LifecycleNode, camera_info: CameraInfoInput, measured: Measurements) -> None:
        self._node = node
        self._camera_info = camera_info
        self._endpoints = Endpoints(
            node, lambda topic, text: measured.note(Trouble.ANSWER_MISMATCH, text, about=topic)
        )

    def open(self) -> None:
        """Create the publishers; raise what rclpy raises for unusable qos_overrides."""
        self._masks = self._endpoints.publisher(Image, "mask", 5)
        self._labels = self._endpoints.publisher(Image, "labels", 5)
        self._overlays = self._endpoints.publisher(Image, "overlay", 5)
        # Remapping `overlay` moves the compressed topic along, as with image_transport.
        compressed = self._node.resolve_topic_name("overlay") + "/compressed"
        self._compressed_overlays = self._endpoints.publisher(CompressedImage, compressed, 5)
        self._markers = self._endpoints.publisher(MarkerArray, "markers", 5)
        self._detections: Any = None
        if vision_msgs is not None:
            self._detections = self._endpoints.publisher(vision_msgs.Detection2DArray, "detections", 5)

    def close(self) -> None:
        """Destroy the publishers."""
        self._endpoints.close()

    def publish(self, header: Header, rgb: np.ndarray, answers: Sequence[Identified]) -> None:
        """Publish every picture of one image that has subscribers.

        Args:
            rgb: (H, W, 3) uint8, the image.
            answers: of all targets that have one; those without add nothing.
        """
        size = rgb.shape[:2]
        if _wanted(self._masks):
            masks = [answer.result.mask for answer in answers]
            union = np.logical_or.reduce(masks) if masks else np.zeros(size, bool)
            self._masks.publish(conversions.mask_to_image(union, header))
        if _wanted(self._labels):
            self._labels.publish(conversions.labels_to_image(label_image(size, answers), header))
        if _wanted(self._detections):
            self._detections.publish(_detections(header, answers))
        objects = {number: each for answer in answers for number, each in answer.objects.items()}
        raw, compressed = _wanted(self._overlays), _wanted(self._compressed_overlays)
        camera = None
        if _wanted(self._markers) or (objects and (raw or compressed)):
            camera = self._camera_info.of_image(*size)
        if _wanted(self._markers) and camera is not None:
            self._markers.publish(markers(header, _accepted(answers), camera, objects))
        if raw or compressed:
            picture = _drawn(rgb, [answer.result for answer in answers])
            if camera is not None:
                picture = _with_boxes(picture, camera, objects.values())
            if raw:
                self._overlays.publish(conversions.rgb_to_image(picture, header))
            if compressed:
                self._compressed_overlays.publish(conversions.rgb_to_compressed(picture, header))


def label_image(size: tuple[int, int], answers: Sequence[Identified]) -> np.ndarray:
    """Return (H, W) uint16: the id of the best accepted instance at each pixel, 0 elsewhere."""
    labels = np.zeros(size, np.uint16)
    for number, instance in sorted(_accepted(answers), key=lambda each: each[1].score):
        labels[instance.mask] = number
    return labels


def _accepted(answers: Sequence[Identified]) -> list[tuple[int, Instance]]:
    """Return id and instance of everything that was accepted."""
    return [
        (number, instance)
        for answer in answers
        for number, instance in zip(answer.ids, answer.result.instances, strict=True)
        if not instance.rejected
    ]


def _wanted(publisher: Any) -> bool:
    return publisher is not None and publisher.get_subscription_count() > 0


def _drawn(rgb: np.ndarray, results: Sequence[Segmentation]) -> np.ndarray:
    if not results:
        return rgb
    from lens_ros.visualization import overlay

    instances = tuple(instance for result in results for instance in result.instances)
    return overlay(rgb, dataclasses.replace(results[0], instances=instances))


def _with_boxes(picture: np.ndarray, camera: Camera, objects: Iterable[Located]) -> np.ndarray:
    from lens_ros.visualization import draw_box

    picture = picture.copy()
    for each in objects:
        draw_box(picture, camera, each.box.corners)
    return picture


def _detections(header: Header, answers: Sequence[Identified]) -> Any:
    """Return the accepted instances as vision_msgs/Detection2DArray: name, score, box."""
    message = vision_msgs.Detection2DArray(header=header)
    for number, instance in _accepted(answers):
        x1, y1, x2, y2 = (float(edge) for edge in instance.box)
        hypothesis = vision_msgs.ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = instance.label
        hypothesis.hypothesis.score = float(instance.score)
        detection = vision_msgs.Detection2D(header=header, id=str(number), results=[hypothesis])
        detection.bbox.center.position.x, detection.bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
        detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
        message.detections.append(detection)
    return message
