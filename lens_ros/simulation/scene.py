"""Describe a tabletop scene as its camera sees it: objects, frames and the camera itself.

World frame: metres, z up, the table top is z = 0 and its centre the origin. Camera frame: optical, REP-103
(x right, y down, z forward). Pixels: x to the right, y down, the centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lens_ros.simulation.meshes import Shape

_SILHOUETTE_PIXELS = 192  # longer side of the canvas on which silhouettes are measured
_NEAREST_DEPTH = 0.05  # metres; nothing is projected from nearer than this


@dataclass(frozen=True)
class SceneObject:
    """One object on the table, as the frame's camera sees it.

    index: value in Frame.instances, from 1. extent: largest horizontal extent, metres.
    position: base centre, metres, world frame. yaw: radians about z.
    box: x1, y1, x2, y2 of the visible pixels, x2 and y2 exclusive; all zero when nothing is visible.
    area: visible pixels. visible_fraction: area over the pixels of the whole silhouette on an unbounded
    image, 0..1. lateral: metres to the right of the camera along its horizontal right vector.
    forward: metres in front of the camera along the ground. distance: metres from camera to centre.
    """

    index: int
    category: str
    color: str
    extent: float
    position: tuple[float, float, float]
    yaw: float
    box: tuple[int, int, int, int]
    area: int
    visible_fraction: float
    lateral: float
    forward: float
    distance: float


@dataclass(frozen=True)
class Frame:
    """A rendered view.

    rgb: (H, W, 3) uint8. depth: (H, W) float32 metres along the optical axis; (0, 0) when not asked for.
    instances: (H, W) uint8, 0 is background and k is objects[k - 1]. intrinsics: (3, 3) float64 pixels.
    camera_pose: (4, 4) float64 world_from_camera.
    """

    rgb: np.ndarray
    depth: np.ndarray
    instances: np.ndarray
    intrinsics: np.ndarray
    camera_pose: np.ndarray
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    pose: (4, 4) world_from_camera, optical frame. fovy: vertical field of view, degrees.
    """

    pose: np.ndarray
    fovy: float

    @classmethod
    def looking_at(
        cls, eye: Sequence[float] | np.ndarray, target: Sequence[float] | np.ndarray, fovy: float
    ) -> Camera:
        """Return a camera at `eye` whose axis passes through `target`, horizon level.

        Raises ValueError if it is vertical.
        """
        position = np.asarray(eye, float)
        forward = np.asarray(target, float) - position
        right = np.cross(forward, (0.0, 0.0, 1.0))
        if np.linalg.norm(right) < 1e-6:
            raise ValueError("the camera looks straight up or down: its right vector is undefined; tilt it")
        forward /= np.linalg.norm(forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = position
        return cls(pose, float(fovy))

    def intrinsics(self, size: tuple[int, int]) -> np.ndarray:
        """Return the (3, 3) float64 matrix for an image of `size` (width, height).

        Pixels are square, the principal point is in the centre.
        """
        width, height = size
        focal = height / 2 / np.tan(np.radians(self.fovy) / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])

    def project(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return pixels (N, 2) of world points (N, 3).

        Points nearer than 5 cm are moved to that depth.
        """
        local = (np.asarray(points, float) - self.pose[:3, 3]) @ self.pose[:3, :3]
        matrix = self.intrinsics(size)
        depth = np.maximum(local[:, 2:], _NEAREST_DEPTH)
        return local[:, :2] / depth * matrix[[0, 1], [0, 1]] + matrix[:2, 2]


@dataclass(frozen=True)
class Placement:
    """An object on the table: its shape in the pool, color, albedo, place and yaw."""

    pool_index: int
    category: str
    color: str
    albedo: tuple[float, float, float]
    position: tuple[float, float, float]
    yaw: float


def observe(
    placements: Sequence[Placement], shapes: Sequence[Shape], camera: Camera, instances: np.ndarray
) -> tuple[SceneObject, ...]:
    """Describe every placement as `camera` sees it.

    Args:
        shapes: one per placement.
        instances: (H, W) uint8 with k for placements[k - 1].
    """
    size = (instances.shape[1], instances.shape[0])
    eye, axis = camera.pose[:3, 3], camera.pose[:3, 2]
    right = camera.pose[:3, 0]
    ground = np.array([axis[0], axis[1], 0.0]) / np.linalg.norm(axis[:2])
    objects = []
    for index, (placement, shape) in enumerate(zip(placements, shapes, strict=True), start=1):
        box, area = _visible_box(instances == index)
        offset = np.array(placement.position) - eye
        center = offset + (0, 0, shape.height / 2)
        whole = _silhouette_area(shape, placement, camera, size) if area else 1.0
        objects.append(
            SceneObject(
                index=index,
                category=placement.category,
                color=placement.color,
                extent=shape.extent,
                position=placement.position,
                yaw=placement.yaw,
                box=box,
                area=area,
                visible_fraction=float(min(1.0, area / max(whole, 1.0))),
                lateral=float(offset @ right),
                forward=float(offset @ ground),
                distance=float(np.linalg.norm(center)),
            )
        )
    return tuple(objects)


def mirror(objects: Sequence[SceneObject], width: int) -> tuple[SceneObject, ...]:
    """Return the objects as the left-right flipped image of `width` pixels shows them.

    Box and lateral change sides. `position` and `yaw` stay in the original world.
    """
    flipped = []
    for item in objects:
        x1, y1, x2, y2 = item.box
        box = (width - x2, y1, width - x1, y2) if item.area else item.box
        flipped.append(replace(item, box=box, lateral=-item.lateral))
    return tuple(flipped)


def _visible_box(mask: np.ndarray) -> tuple[tuple[int, int, int, int], int]:
    area = int(np.count_nonzero(mask))
    if area == 0:
        return (0, 0, 0, 0), 0
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), area


def _silhouette_area(shape: Shape, placement: Placement, camera: Camera, size: tuple[int, int]) -> float:
    """Return the pixels that the object alone would cover on an unbounded image.

    This is the union of its projected hulls.
    """
    hulls = [hull for part in shape.parts for hull in part.surface.hulls]
    cos, sin = np.cos(placement.yaw), np.sin(placement.yaw)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    pixels = camera.project(np.concatenate(hulls) @ rotation.T + placement.position, size)
    low = pixels.min(0)
    scale = _SILHOUETTE_PIXELS / max((pixels.max(0) - low).max(), 1.0)
    corners = ((pixels - low) * scale * 16).astype(np.int32)
    canvas = np.zeros((_SILHOUETTE_PIXELS + 2, _SILHOUETTE_PIXELS + 2), np.uint8)
    start = 0
    for hull in hulls:
        outline = cv2.convexHull(corners[start : start + len(hull)])
        cv2.fillConvexPoly(canvas, outline, 1, shift=4)
        start += len(hull)
    return float(np.count_nonzero(canvas)) / scale**2
