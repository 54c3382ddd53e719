"""What a camera can show without a camera: recordings and folders of pictures, as ROS messages with their
times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lens_ros.inputs import ImageError, printable, read_picture

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
DEFAULT_FRAME_ID = "camera_color_optical_frame"
_MESSAGE_TYPES: dict[str, Any] = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/CameraInfo": CameraInfo,
}

Stream = Literal["color", "depth", "camera_info"]


class SourceError(Exception):
    """A source that cannot be played: what was wrong, what was expected, what to do."""


@dataclass(frozen=True)
class Shot:
    """One thing to publish, `at` seconds after the beginning.

    `content` is a message, with the header as recorded, or an (H, W, 3) uint8 RGB picture without one.
    """

    at: float
    stream: Stream
    content: Image | CompressedImage | CameraInfo | np.ndarray


class Source(Protocol):
    """Plays as often as asked."""

    description: str
    duration: float  # seconds from the first shot to where the first would come again

    def shots(self) -> Iterator[Shot | str]:
        """Everything in order of time; a string says why one item had to be left out."""


def open_source(
    path: str | Path,
    *,
    frame_rate_hz: float = 10.0,
    color_topic: str = "",
    depth_topic: str = "",
    camera_info_topic: str = "",
) -> Source:
    """The recording or the folder of pictures at `path`.

    `frame_rate_hz` is for pictures, the topics are for recordings (empty: the first one that fits).
    Raises `SourceError`.
    """
    if not str(path):
        raise SourceError(
            "no source is given; expected a rosbag2 folder or a folder of pictures: "
            "set the parameter source, such as -p source:=demo/tabletop"
        )
    folder = Path(path).expanduser()
    if folder.is_file() and (folder.parent / "metadata.yaml").is_file():
        folder = folder.parent  # people point at the .mcap or .db3 file inside the recording's folder
    if not folder.is_dir():
        raise SourceError(
            f"source '{path}' is not a folder; expected a rosbag2 folder (with metadata.yaml) or a folder "
            "of pictures: "
            f"correct the parameter source (the present folder is {Path.cwd()})"
        )
    if (folder / "metadata.yaml").is_file():
        return BagSource(folder, color_topic, depth_topic, camera_info_topic)
    return PictureSource(folder, frame_rate_hz)


class PictureSource:
    """The pictures of a folder in order of their names, at a rate of its own."""

    def __init__(self, folder: Path, frame_rate_hz: float) -> None:
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        if not self._paths:
            raise SourceError(
                f"folder '{folder}' holds neither metadata.yaml (a recording) nor a picture "
                f"({', '.join(sorted(PICTURE_SUFFIXES))}): correct the parameter source"
            )
        self._interval = 1.0 / frame_rate_hz
        self.duration = len(self._paths) * self._interval
        self.description = f"{len(self._paths)} picture(s) in {folder} at {frame_rate_hz:g} Hz"

    def shots(self) -> Iterator[Shot | str]:
        """See `Source`; raises `SourceError` when not one of the pictures can be read."""
        readable = 0
        for number, path in enumerate(self._paths):
            try:
                rgb = read_picture(path)
            except ImageError as error:
                yield f"{printable(path)} cannot be read as a picture ({error}); it is left out"
                continue
            readable += 1
            yield Shot(number * self._interval, "color", rgb)
        if not readable:
            raise SourceError(
                f"none of the {len(self._paths)} picture(s) can be read; replace {printable(self._paths[0])}"
            )


class BagSource:
    """Color, depth and camera_info of a rosbag2 recording (MCAP or SQLite), at the recorded times."""

    def __init__(self, folder: Path, color_topic: str, depth_topic: str, camera_info_topic: str) -> None:
        self._folder = folder
        with self._reader() as reader:
            topics = {connection.topic: connection for connection in reader.connections}
            color = self._choose("color", color_topic, topics)
            if color is None:
                raise SourceError(
                    f"recording '{folder}' has no color images; expected a topic of type "
                    "sensor_msgs/msg/Image or "
                    f"CompressedImage; it has {_listed(topics)}: name one with the parameter color_topic"
                )
            self._streams: dict[str, Stream] = {color: "color"}
            if depth := self._choose("depth", depth_topic, topics):
                self._streams[depth] = "depth"
            if info := self._choose("camera_info", camera_info_topic, topics, beside=color):
                self._streams[info] = "camera_info"
            frames = topics[color].msgcount
            if not frames:
                raise SourceError(f"recording '{folder}' holds no message on {color}; record it again")
            self._start = reader.start_time
            length = reader.duration * 1e-9
        self.duration = length * frames / (frames - 1) if frames > 1 else 1.0
        self.description = f"{frames} images in {length:.1f} s from {folder} ({', '.join(self._streams)})"

    def shots(self) -> Iterator[Shot | str]:
        """See `Source`; raises `SourceError` when the recording breaks off."""
        with self._reader() as reader:
            connections = [c for c in reader.connections if c.topic in self._streams]
            messages = reader.messages(connections)
            while True:
                try:
                    connection, time_ns, data = next(messages)
                except StopIteration:
                    return
                except (
                    Exception
                ) as error:  # rosbags raises what its readers meet: struct, zstd, sqlite, assertions
                    raise SourceError(
                        f"recording '{self._folder}' is damaged ({error}); copy it again"
                    ) from error
                try:
                    message = deserialize_message(bytes(data), _MESSAGE_TYPES[connection.msgtype])
                except Exception as error:
                    yield f"a message on {connection.topic} cannot be read ({error}); it is left out"
                    continue
                yield Shot((time_ns - self._start) * 1e-9, self._streams[connection.topic], message)

    def _reader(self) -> Any:
        return _Opened(self._folder)

    def _choose(
        self, stream: Stream, wanted: str, topics: dict[str, Connection], *, beside: str = ""
    ) -> str | None:
        if wanted:
            if wanted not in topics or topics[wanted].msgtype not in _MESSAGE_TYPES:
                raise SourceError(
                    f"recording '{self._folder}' has no topic '{wanted}' that holds images or camera_info; "
                    f"it has {_listed(topics)}: correct the parameter {stream}_topic"
                )
            return wanted
        fitting = [name for name, connection in topics.items() if _fits(stream, name, connection.msgtype)]
        return max(fitting, key=lambda name: _common_prefix(name, beside), default=None)


class _Opened:
    """`AnyReader` as a context manager that explains itself when the recording cannot be opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> AnyReader:
        # A folder of pictures needs none of it.
        from rosbags.highlevel import AnyReader

        try:
            self._reader = AnyReader([self._folder])
            self._reader.open()
        except Exception as error:
            raise SourceError(
                f"recording '{self._folder}' cannot be opened ({error}); expected a rosbag2 folder "
                "with metadata.yaml and its MCAP or SQLite files: copy or record it again"
            ) from error
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()


def _fits(stream: Stream, topic: str, message_type: str) -> bool:
    if stream == "camera_info":
        return message_type == "sensor_msgs/msg/CameraInfo"
    if message_type not in ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"):
        return False
    return ("depth" in topic.lower()) == (stream == "depth")


def _common_prefix(first: str, second: str) -> int:
    for length, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return length
    return min(len(first), len(second))


def _listed(topics: dict[str, Connection]) -> str:
    return ", ".join(f"{name} ({connection.msgtype})" for name, connection in topics.items()) or "no topic"
