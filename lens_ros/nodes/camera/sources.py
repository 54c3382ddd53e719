"""Read recordings and folders of pictures as ROS messages with their times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lens_ros.inputs import ImageError, PathError, expand_path, printable, read_picture
from lens_ros.recording_topics import RecordingError, Topic, choose
from lens_ros.recordings import METADATA, SUFFIXES, Recording, find_recording

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
    """A source that can be played repeatedly."""

    description: str
    remark: str  # a warning about what is played, or empty
    duration: float  # seconds from the first shot to where the first would come again

    def shots(self) -> Iterator[Shot | str]:
        """Yield everything in order of time; a string says why one item was skipped."""


def open_source(
    path: str | Path,
    *,
    frame_rate_hz: float = 10.0,
    color_topic: str = "",
    depth_topic: str = "",
    camera_info_topic: str = "",
) -> Source:
    """Return the recording or the folder of pictures at `path`.

    `frame_rate_hz` is for pictures, the topics are for recordings (empty: see `recordings.choose`).
    Raises `SourceError`.
    """
    if not str(path):
        raise SourceError(
            "no source is given; expected a recording or a folder of pictures: "
            "set the parameter source, such as -p source:=demo/tabletop"
        )
    try:
        place = expand_path(path, "parameter source")
        if find_recording(place):
            return BagSource(place, color_topic, depth_topic, camera_info_topic)
    except PathError as error:
        raise SourceError(str(error)) from error
    except RecordingError as error:
        raise SourceError(f"{error} (parameter source)") from error
    if not place.is_dir():
        raise SourceError(
            f"source '{path}' is not a folder or a recording; expected a rosbag2 folder (with {METADATA}), a "
            f"file {', '.join(SUFFIXES)}, or a folder of pictures: "
            f"correct the parameter source (the present folder is {Path.cwd()})"
        )
    return PictureSource(place, frame_rate_hz)


class PictureSource:
    """Pictures of a folder in order of their names, at a fixed rate."""

    remark = ""

    def __init__(self, folder: Path, frame_rate_hz: float) -> None:
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        if not self._paths:
            raise SourceError(
                f"folder '{folder}' holds neither {METADATA} (a recording), nor the file of a recording "
                f"({', '.join(SUFFIXES)}), nor a picture "
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
    """Color, depth and camera_info of a recording, at the recorded times."""

    def __init__(self, path: Path, color_topic: str, depth_topic: str, camera_info_topic: str) -> None:
        """Choose the topics. Raises `RecordingError`, or `SourceError` where they cannot be played."""
        self._path = path
        with Recording(path) as recording:
            try:
                chosen = choose(
                    recording.topics, color=color_topic, depth=depth_topic, camera_info=camera_info_topic
                )
            except RecordingError as error:
                raise SourceError(
                    f"recording '{path}' {error}: name one of these by the parameters color_topic, "
                    "depth_topic and camera_info_topic"
                ) from error
            streams: dict[Stream, Topic | None] = {
                "color": chosen.color,
                "depth": chosen.depth,
                "camera_info": chosen.camera_info,
            }
            played = {stream: topic for stream, topic in streams.items() if topic is not None}
            self._streams: dict[str, Stream] = {topic.name: stream for stream, topic in played.items()}
            self._topics = list(played.values())
            self._start = next(recording.messages(self._topics)).time_ns
            length = (recording.end_ns - self._start) * 1e-9
        if length < 0:
            raise SourceError(
                f"recording '{path}' does not match its {METADATA}, by which it ends {-length:.0f} s before "
                f"its first image: write that file anew by ros2 bag reindex {path}"
            )
        frames = chosen.color.count
        self.duration = length * frames / (frames - 1) if frames > 1 else 1.0
        self.remark = f"{chosen.remark} (parameter color_topic)" if chosen.remark else ""
        playing = ", ".join(f"{stream} {topic}" for stream, topic in played.items())
        others = f"not played: {', '.join(map(str, chosen.others))}" if chosen.others else "no other images"
        self.description = f"{frames} images in {length:.1f} s from {path}: {playing}; {others}"

    def shots(self) -> Iterator[Shot | str]:
        """See `Source`; raises `SourceError` when the recording breaks off."""
        try:
            with Recording(self._path) as recording:
                for message in recording.messages(self._topics):
                    try:
                        content = deserialize_message(message.data, _MESSAGE_TYPES[message.type])
                    except Exception as error:
                        yield f"a message on {message.topic} cannot be read ({error}); it is left out"
                        continue
                    at = (message.time_ns - self._start) * 1e-9
                    yield Shot(at, self._streams[message.topic], content)
        except RecordingError as error:
            raise SourceError(str(error)) from error
