"""Record the demo: a camera that moves along an arc in front of a table, as a ROS 2 bag without ROS.

python -m lens_ros.simulation.recording --out demo/tabletop --seed 20006

The bag (MCAP) holds JPEG color images with camera_info, and depth registered to color as 16-bit PNG in
millimetres; what was taken at one moment carries one stamp. Beside the bag, scene.json lists what stands on
the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from lens_ros.simulation import catalog
from lens_ros.simulation.layout import Layout, Pool, place_shapes, sample_layout, sample_pool
from lens_ros.simulation.renderer import SimulatorUnavailable, TabletopSimulator
from lens_ros.simulation.scene import Camera, Frame, Placement, SceneObject

COLOR_TOPIC = "/camera/color/image_raw/compressed"
CAMERA_INFO_TOPIC = "/camera/color/camera_info"
DEPTH_TOPIC = "/camera/depth/image_raw/compressedDepth"
FRAME_ID = "camera_color_optical_frame"
IMAGE_SIZE = (640, 480)
DURATION = 24.0  # seconds
COLOR_RATE = 10.0  # images per second
DEPTH_EVERY = 2  # color images per depth image

# What a demo can be asked about: two mugs that differ in size and color, tools, food, things to drink from.
# (category, color, rank of the size among the pool's three shapes of the category, 0 is the smallest)
TABLE = (
    ("mug", "blue", 2),
    ("mug", "white", 0),
    ("bowl", "yellow", 1),
    ("bottle", "red", 1),
    ("hammer", "orange", 1),
    ("banana", "yellow", 1),
    ("apple", "green", 2),
    ("can", "purple", 1),
    ("sponge", "pink", 2),
)

_START_NS = 1_700_000_000_000_000_000  # any fixed time: the same command writes the same bytes
_TARGET = np.array([0.0, 0.0, 0.03])
_DISTANCE = 0.84  # metres
_PLACED_WITHIN = 0.72  # metres: objects are spread as for a nearer camera, so that none leaves the image
_FOVY = 44.0  # degrees
_JPEG_QUALITY = 82
_ARRANGEMENTS = 400
_LEAST_VISIBLE = 0.8
_CHECKED_MOMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CHECK_SIZE = (160, 120)


@dataclass(frozen=True)
class Summary:
    """Result of a recording. size_bytes: of the bag on disk. objects: as seen in the first image."""

    color_images: int
    depth_images: int
    size_bytes: int
    objects: tuple[SceneObject, ...]


def camera_at(progress: float) -> Camera:
    """Return the demo's camera at `progress` 0..1: it starts and ends at rest, rises in the middle."""
    eased = (1 - np.cos(np.pi * np.clip(progress, 0, 1))) / 2
    azimuth = np.radians(-26 + 52 * eased)
    elevation = np.radians(40 + 9 * np.sin(np.pi * eased))
    ground = _DISTANCE * np.cos(elevation)
    offset = np.array([ground * np.sin(azimuth), -ground * np.cos(azimuth), _DISTANCE * np.sin(elevation)])
    return Camera.looking_at(_TARGET + offset, _TARGET, _FOVY)


def record(out: Path, seed: int, *, duration: float = DURATION) -> Summary:
    """Record `duration` seconds into the bag folder `out` (replaced) and scene.json next to it.

    The same seed on the same machine gives the same bytes.

    Raises:
        SimulatorUnavailable: there is no OpenGL.
        ValueError: no arrangement of the objects keeps all of them visible.
        ImportError: rosbags is missing.
    """
    moments = max(1, round(duration * COLOR_RATE))
    with TabletopSimulator() as simulator:
        layout = _arrange(simulator, seed)
        shutil.rmtree(out, ignore_errors=True)
        with _Bag(out) as bag:
            for moment in tqdm(range(moments), unit="image"):
                camera = camera_at(moment / max(1, moments - 1))
                with_depth = moment % DEPTH_EVERY == 0
                frame = simulator.render(seed, 0, layout, camera=camera, size=IMAGE_SIZE, depth=with_depth)
                bag.write(_START_NS + round(moment / COLOR_RATE * 1e9), frame)
        first = simulator.render(seed, 0, layout, camera=camera_at(0), size=IMAGE_SIZE, depth=False)
    _write_scene(out.with_name("scene.json"), seed, first)
    size = sum(path.stat().st_size for path in out.iterdir())
    return Summary(moments, -(-moments // DEPTH_EVERY), size, first.objects)


def _arrange(simulator: TabletopSimulator, seed: int) -> Layout:
    """Place the demo's objects on the table of scene 0 of `seed`, under its light, none ever hidden."""
    pool = sample_pool(seed, 0)
    stage = sample_layout(pool, seed, 0)
    chosen = [_shape_of_rank(pool, category, rank) for category, _, rank in TABLE]
    shapes = [pool.shapes[i] for i in chosen]
    for attempt in range(_ARRANGEMENTS):
        rng = np.random.default_rng([seed, attempt])
        spots = place_shapes(rng, shapes, camera_at(0.5), _TARGET, _PLACED_WITHIN, IMAGE_SIZE)
        placements = tuple(
            Placement(i, category, color, catalog.COLOR_ALBEDO[color], (spot[0], spot[1], 0.0), spot[2])
            for i, (category, color, _), spot in zip(chosen, TABLE, spots, strict=True)
            if spot is not None
        )
        layout = replace(stage, placements=placements)
        if len(placements) == len(TABLE) and _all_visible(simulator, seed, layout):
            return layout
    raise ValueError(f"seed {seed}: no arrangement keeps all {len(TABLE)} objects visible; try another seed")


def _shape_of_rank(pool: Pool, category: str, rank: int) -> int:
    members = [i for i, name in enumerate(pool.categories) if name == category]
    return sorted(members, key=lambda i: pool.shapes[i].extent)[rank]


def _all_visible(simulator: TabletopSimulator, seed: int, layout: Layout) -> bool:
    for progress in _CHECKED_MOMENTS:
        camera = camera_at(progress)
        frame = simulator.render(seed, 0, layout, camera=camera, size=_CHECK_SIZE, depth=False)
        if min(item.visible_fraction for item in frame.objects) < _LEAST_VISIBLE:
            return False
    return True


def _write_scene(path: Path, seed: int, first: Frame) -> None:
    objects = [asdict(item) for item in first.objects]
    description = {
        "seed": seed,
        "frame": "world: metres, z up, origin at the centre of the table top",
        "seen_from": "the first image; box is x1, y1, x2, y2 in pixels of the visible part",
        "image_size": IMAGE_SIZE,
        "objects": objects,
    }
    path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


class _Bag:
    """A rosbag2 folder being written, in bag format 8 with Humble's definitions."""

    def __init__(self, out: Path) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore

        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._types = self._store.types
        out.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(out, version=8, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> _Bag:
        self._writer.open()
        for topic, message_type in (
            (COLOR_TOPIC, "CompressedImage"),
            (CAMERA_INFO_TOPIC, "CameraInfo"),
            (DEPTH_TOPIC, "CompressedImage"),
        ):
            self._connections[topic] = self._writer.add_connection(
                topic, f"sensor_msgs/msg/{message_type}", typestore=self._store
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, stamp_ns: int, frame: Frame) -> None:
        """Write the frame's color image and camera_info, and its depth if it has any."""
        self._publish(CAMERA_INFO_TOPIC, stamp_ns, self._camera_info(stamp_ns, frame))
        jpeg = _encode(".jpg", frame.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        self._publish(COLOR_TOPIC, stamp_ns, self._compressed(stamp_ns, "rgb8; jpeg compressed bgr8", jpeg))
        if frame.depth.size:
            content = compressed_depth(frame.depth)
            self._publish(
                DEPTH_TOPIC, stamp_ns, self._compressed(stamp_ns, "16UC1; compressedDepth png", content)
            )

    def _publish(self, topic: str, stamp_ns: int, message: Any) -> None:
        content = self._store.serialize_cdr(message, message.__msgtype__)
        self._writer.write(self._connections[topic], stamp_ns, content)

    def _header(self, stamp_ns: int) -> Any:
        stamp = self._types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
        return self._types["std_msgs/msg/Header"](stamp, FRAME_ID)

    def _compressed(self, stamp_ns: int, image_format: str, content: np.ndarray) -> Any:
        return self._types["sensor_msgs/msg/CompressedImage"](self._header(stamp_ns), image_format, content)

    def _camera_info(self, stamp_ns: int, frame: Frame) -> Any:
        height, width = frame.rgb.shape[:2]
        projection = np.hstack([frame.intrinsics, np.zeros((3, 1))])
        return self._types["sensor_msgs/msg/CameraInfo"](
            header=self._header(stamp_ns),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=frame.intrinsics.ravel(),
            r=np.eye(3).ravel(),
            p=projection.ravel(),
            binning_x=0,
            binning_y=0,
            roi=self._types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
        )


def compressed_depth(depth: np.ndarray) -> np.ndarray:
    """Encode depth (H, W) in metres as a `16UC1; compressedDepth png` image.

    Returns (N,) uint8.

    That format (of ROS's compressed_depth_image_transport) is a 12-byte header, int32 0 and two float32 that
    only 32FC1 images use, and a PNG of millimetres; 0 means no measurement.
    """
    millimetres = np.rint(depth * 1000)
    png = _encode(".png", np.where(millimetres < 65535, millimetres, 0).astype(np.uint16), _SMALLEST_PNG)
    return np.concatenate([np.frombuffer(struct.pack("<iff", 0, 0.0, 0.0), np.uint8), png])


_SMALLEST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 9]


def _encode(extension: str, image: np.ndarray, parameters: list[int]) -> np.ndarray:
    done, content = cv2.imencode(extension, np.ascontiguousarray(image), parameters)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {extension} images: install opencv-python-headless >= 4.8")
    return content.ravel()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record the demo bag of a simulated tabletop.")
    parser.add_argument("--out", type=Path, default=Path("demo/tabletop"), help="bag folder, replaced")
    parser.add_argument("--seed", type=int, default=20006)
    parser.add_argument("--duration", type=float, default=DURATION, help="seconds")
    options = parser.parse_args(arguments)
    try:
        summary = record(options.out, options.seed, duration=options.duration)
    except (SimulatorUnavailable, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.out}: {summary.color_images} color and {summary.depth_images} depth images, "
        f"{len(summary.objects)} objects, {summary.size_bytes / 1e6:.1f} MB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
