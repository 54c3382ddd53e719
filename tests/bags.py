"""Small recordings for tests, written by rosbags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

START_NS = 1_700_000_000 * 10**9
STEP_NS = 100_000_000
MESSAGES = 3  # on each topic
SIDE = 16  # pixels

# Types that no store knows; what they hold is not read.
FOREIGN = {
    "theora_image_transport/msg/Packet": "uint8[] data",
    "sensor_msgs/msg/Imu": None,
    "std_msgs/msg/String": None,
    "stereo_msgs/msg/DisparityImage": None,
}


def typestore(stores: Stores = Stores.ROS2_HUMBLE) -> Any:
    """Return a type store with ROS's types and those of FOREIGN."""
    store = get_typestore(stores)
    for name, definition in FOREIGN.items():
        if definition is not None:
            store.register(get_types_from_msg(definition, name))
    return store


def pixels_of(encoding: str, value: int) -> np.ndarray:
    """Return an image filled with one value."""
    channels = 3 if encoding.startswith(("rgb", "bgr", "8UC3")) else 1
    dtype = {"16": np.uint16, "32": np.int32}.get(
        next((k for k in ("16", "32") if k in encoding), ""), np.uint8
    )
    dtype = np.float32 if encoding == "32FC1" else dtype
    return np.full((SIDE, SIDE, channels), value, dtype)


def message_of(store: Any, kind: str, encoding: str, index: int) -> Any:
    """Return message `index` of a topic; for a compressed topic `encoding` is its format."""
    types = store.types
    ros1 = "std_msgs/msg/Header" in types and "seq" in types["std_msgs/msg/Header"].__dataclass_fields__
    stamp = types["builtin_interfaces/msg/Time"](START_NS // 10**9, index * STEP_NS)
    header = types["std_msgs/msg/Header"](*((index,) if ros1 else ()), stamp, "camera")
    if kind == "sensor_msgs/msg/Image":
        pixels = pixels_of(encoding, 10 * index)
        step = pixels.nbytes // SIDE
        return types[kind](header, SIDE, SIDE, encoding, 0, step, pixels.reshape(-1).view(np.uint8))
    if kind == "sensor_msgs/msg/CompressedImage":
        gray = encoding.startswith(("mono", "16UC1"))
        pixels = pixels_of(encoding.partition(";")[0] if gray else "rgb8", 10 * index)
        data = cv2.imencode(".png" if "png" in encoding else ".jpg", pixels)[1].ravel()
        if "compressedDepth" in encoding:
            data = np.concatenate([np.zeros(12, np.uint8), data])
        return types[kind](header, encoding, data)
    if kind == "sensor_msgs/msg/CameraInfo":
        roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        matrix = np.array([60, 0, 8, 0, 60, 8, 0, 0, 1], float)
        numbers = np.zeros(5), matrix, np.eye(3).ravel(), np.zeros(12)
        return types[kind](header, SIDE, SIDE, "plumb_bob", *numbers, 0, 0, roi)
    if kind == "std_msgs/msg/String":
        return types[kind]("nothing to see")
    return types[kind](np.zeros(4, np.uint8))  # theora's packet


def write(
    path: Path,
    topics: Mapping[str, tuple[str, str]],
    *,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode | None = None,
    messages: int = MESSAGES,
    late: Mapping[str, int] | None = None,
) -> Path:
    """Write a rosbag2 folder, or a ROS 1 bag if `path` ends in .bag; return `path`.

    Args:
        path: Where to write.
        topics: Type and encoding of each topic.
        storage: Storage plugin of a rosbag2 folder.
        compression: Compression mode; None for none.
        messages: Number of messages per topic.
        late: Delay of the messages of a topic, in nanoseconds.
    """
    ros1 = path.suffix == ".bag"
    store = typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    writer: Any = Writer1(path) if ros1 else Writer(path, version=8, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
    with writer:
        connections = {
            name: writer.add_connection(name, kind, typestore=store) for name, (kind, _) in topics.items()
        }
        for index in range(messages):
            for name, (kind, encoding) in topics.items():
                time = START_NS + index * STEP_NS + (late or {}).get(name, 0)
                message = message_of(store, kind, encoding, index)
                writer.write(connections[name], time, serialize(message, kind))
    return path
