"""Read recordings without ROS: rosbag2 folders, lone MCAP and SQLite files, ROS 1 bags.

`Recording` reads messages; `choose` decides which topics of a recording are the color camera, its depth and
its calibration.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as Pillow

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
DISPARITY = "stereo_msgs/msg/DisparityImage"
VIDEO = (
    "theora_image_transport/msg/Packet",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    "foxglove_msgs/msg/CompressedVideo",
)
SUFFIXES = (".mcap", ".db3", ".bag")
COMPRESSED_SUFFIXES = (".zst", ".zstd")
METADATA = "metadata.yaml"
LISTED = 20  # topics or files in a message

_BAYER = tuple(f"bayer_{pattern}{bits}" for bits in (8, 16) for pattern in ("rggb", "bggr", "gbrg", "grbg"))
# Encodings of sensor_msgs/Image that can be shown; together they are `conversions.COLOR_ENCODINGS`.
COLOR_PIXELS = frozenset(
    ("rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4", "rgb16", "bgr16", "rgba16", "bgra16", "16UC3", "16UC4")
    + ("uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21", "nv24")
    + _BAYER
)
GRAY_PIXELS = frozenset(("mono8", "8UC1", "mono16"))
DEPTH_PIXELS = frozenset(("16UC1", "32FC1"))
_PILLOW_PIXELS = {"L": "mono8", "1": "mono8", "LA": "mono8", "I;16": "mono16", "I": "mono16"}


class RecordingError(Exception):
    """A recording that cannot be read or shown: what was wrong, what was expected, what to do."""


class Kind(Enum):
    """What a topic holds. Of the first four, the first one that a recording has is its color camera."""

    COLOR = "color"
    GRAY = "gray"
    INFRARED = "infrared"
    DRAWING = "drawn labels or results"
    LABELS = "labels"
    DEPTH = "depth"
    DISPARITY = "disparity"
    VIDEO = "video"
    CAMERA_INFO = "camera_info"
    OTHER = "no image"


SHOWN = (Kind.COLOR, Kind.GRAY, Kind.INFRARED, Kind.DRAWING)

# Words in a topic's name, as regular expressions for a whole word.
_WORDS = {
    Kind.LABELS: r"labels?|labell?ed|labelmap|masks?|masked|seg|segment\w*|semantics?|panoptic|confidence",
    Kind.DISPARITY: r"disparit\w*|disp",
    Kind.DRAWING: r"overlay|annotat\w*|debug|heatmap|visuali\w*|viz|detections?|results?|colormap|"
    r"colori[sz]ed|colou?red",
    Kind.DEPTH: r"\w*depth\w*",
    Kind.INFRARED: r"infra|infrared|ir|nir|lwir|swir|thermal",
}


@dataclass(frozen=True)
class Topic:
    """A topic of a recording.

    `encoding` is of the first message: a raw image's encoding, or a compressed image's format. A format that
    does not say the pixels' encoding (`jpeg`) is preceded by it (`mono8; jpeg`). Empty where it is unknown.
    `fault` says why there are no messages although the recording lists some.
    """

    name: str
    type: str
    count: int = 1
    encoding: str = ""
    fault: str = ""

    def __str__(self) -> str:
        described = [self.type, *([self.encoding] if self.encoding else [])]
        kind = kind_of(self)
        if kind not in (Kind.OTHER, Kind.CAMERA_INFO):
            described.append(kind.value)
        if not self.count:
            described.append(self.fault or "no message")
        return f"{self.name} ({', '.join(described)})"


@dataclass(frozen=True)
class Choice:
    """The topics to play. `remark` says what a user should know of the choice of `color`, or is empty."""

    color: Topic
    depth: Topic | None
    camera_info: Topic | None
    others: tuple[Topic, ...]  # further topics that hold images
    remark: str = ""


@dataclass(frozen=True)
class Message:
    """A recorded message: `data` is its CDR serialization, also where the recording is of ROS 1."""

    topic: str
    type: str
    time_ns: int
    data: bytes

    @property
    def content(self) -> Any:
        """The message's fields as attributes, arrays as NumPy arrays. Raises `RecordingError`."""
        try:
            return _store().deserialize_cdr(self.data, self.type)
        except Exception as error:  # rosbags raises what its generated code meets
            raise RecordingError(f"a message on {self.topic} cannot be read ({_said(error)})") from error


# Which topic is what ---------------------------------------------------------------------------------------


def kind_of(topic: Topic) -> Kind:
    """Return what a topic holds, by its type, the encoding of its first message, and words of its name."""
    if topic.type == CAMERA_INFO:
        return Kind.CAMERA_INFO
    if topic.type == DISPARITY:
        return Kind.DISPARITY
    if topic.type in VIDEO:
        return Kind.VIDEO
    if topic.type not in (IMAGE, COMPRESSED):
        return Kind.OTHER
    if "compressedDepth" in topic.encoding:
        return Kind.DEPTH
    pixels, named = _pixels(topic), _named(topic.name)
    if pixels in COLOR_PIXELS:
        # No word for depth here: a depth camera has a color image too.
        drawn = named & {Kind.LABELS, Kind.DISPARITY, Kind.DRAWING}
        return Kind.DRAWING if drawn else Kind.INFRARED if Kind.INFRARED in named else Kind.COLOR
    if re.fullmatch(r"(8|16|32)SC1|32UC1", pixels):
        return Kind.DISPARITY if Kind.DISPARITY in named else Kind.LABELS
    if re.fullmatch(r"y(8|10|12|16)i?", pixels, re.IGNORECASE):
        return Kind.INFRARED
    if Kind.DEPTH in named and pixels in ("mono8", "8UC1"):  # too few bits for a depth
        named = (named - {Kind.DEPTH}) or {Kind.DRAWING}
    for kind in _WORDS:
        if kind in named:
            return kind
    if pixels in DEPTH_PIXELS or pixels == "64FC1":
        return Kind.DEPTH
    if pixels in GRAY_PIXELS:
        return Kind.GRAY
    return Kind.OTHER if pixels else Kind.COLOR


def objection_to_color(topic: Topic) -> str:
    """Return why a topic cannot be shown as a camera's image, or the empty string."""
    if topic.type not in (IMAGE, COMPRESSED):
        return f"holds no images of a type that can be shown ({topic.type})"
    if not topic.count:
        return topic.fault or "holds no message"
    pixels = _pixels(topic)
    shown = not pixels or pixels in COLOR_PIXELS | GRAY_PIXELS
    if "compressedDepth" in topic.encoding or not shown:
        return f"holds images that cannot be shown ({topic.encoding}, {kind_of(topic).value})"
    return ""


def objection_to_depth(topic: Topic) -> str:
    """Return why a topic cannot be played as depth, or the empty string."""
    if topic.type not in (IMAGE, COMPRESSED):
        return f"holds no depth images of a type that can be played ({topic.type})"
    if not topic.count:
        return topic.fault or "holds no message"
    if topic.type == COMPRESSED and topic.encoding:
        readable = "compressedDepth" in topic.encoding and not topic.encoding.rstrip().endswith("rvl")
    else:
        readable = not topic.encoding or topic.encoding in DEPTH_PIXELS | {"mono16"}
    return "" if readable else f"holds no depth that can be read ({topic.encoding})"


def choose(topics: Sequence[Topic], *, color: str = "", depth: str = "", camera_info: str = "") -> Choice:
    """Return the topics to play.

    A topic that is named always wins. Otherwise color is the first by: kind (color, gray, infrared, drawn
    results); encoding known; no word for depth in the name; a word for color in it; raw before compressed;
    name. Depth images, disparity, label images and video are never color. Depth is registered to the color
    image rather than not, and lies near it. camera_info lies in the color topic's namespace, or in one that
    belongs to no other image.

    Raises:
        RecordingError: a named topic is missing or cannot be played, or nothing can be shown.
    """
    if color:
        shown = _wanted(topics, color, "color", objection_to_color)
    else:
        fitting = [t for t in topics if kind_of(t) in SHOWN and not objection_to_color(t)]
        if not fitting:
            raise RecordingError(
                "has no images that can be shown as a camera's; expected a topic of type "
                f"{IMAGE} or {COMPRESSED} with color or gray images; it has {_listed(topics)}"
            )
        shown = min(fitting, key=_color_rank)
    depths = [t for t in topics if kind_of(t) == Kind.DEPTH and not objection_to_depth(t) and t != shown]
    chosen_depth = (
        _wanted(topics, depth, "depth", objection_to_depth)
        if depth
        else min(depths, key=lambda topic: _depth_rank(topic, shown), default=None)
    )
    infos = [t for t in topics if kind_of(t) == Kind.CAMERA_INFO and t.count and _may_be_of(t, shown, topics)]
    chosen_info = (
        _wanted(topics, camera_info, "camera_info", _objection_to_info)
        if camera_info
        else min(infos, key=lambda topic: (-_common_prefix(topic.name, shown.name), topic.name), default=None)
    )
    others = tuple(
        topic
        for topic in topics
        if topic not in (shown, chosen_depth) and kind_of(topic) not in (Kind.OTHER, Kind.CAMERA_INFO)
    )
    remark = ""
    if not color and kind_of(shown) != Kind.COLOR:
        remark = (
            f"the recording has no color image; {shown} is played instead, and color words in instructions "
            "will not work"
        )
    return Choice(shown, chosen_depth, chosen_info, others, remark)


def _wanted(topics: Sequence[Topic], name: str, stream: str, objection: Any) -> Topic:
    """Return the topic of this name, also where its first slash is missing."""
    named = [topic for topic in topics if topic.name == name or topic.name == f"/{name}"]
    problems = [(objection(topic), topic) for topic in named]
    for problem, topic in problems:
        if not problem:
            return topic
    why = f"has the topic '{name}', which {problems[0][0]}" if problems else f"has no topic '{name}'"
    raise RecordingError(f"{why}, so it cannot be played as {stream}; it has {_listed(topics)}")


def _objection_to_info(topic: Topic) -> str:
    if topic.type != CAMERA_INFO:
        return f"is no {CAMERA_INFO} ({topic.type})"
    return "" if topic.count else topic.fault or "holds no message"


def _color_rank(topic: Topic) -> tuple[Any, ...]:
    words = _words(topic.name)
    return (
        SHOWN.index(kind_of(topic)),
        not topic.encoding,
        any("depth" in word for word in words),
        not words & {"color", "colour", "rgb"},
        topic.type != IMAGE,
        topic.name,
    )


def _depth_rank(topic: Topic, color: Topic) -> tuple[Any, ...]:
    registered = any(re.fullmatch(r"aligned\w*|registered", word) for word in _words(topic.name))
    return not registered, -_common_prefix(topic.name, color.name), topic.type != IMAGE, topic.name


def _may_be_of(info: Topic, color: Topic, topics: Sequence[Topic]) -> bool:
    """Return whether a calibration may be the color camera's: no other image alone lies beside it."""
    space = info.name.rpartition("/")[0] + "/"
    beside = [t for t in topics if kind_of(t) not in (Kind.OTHER, Kind.CAMERA_INFO)]
    return color.name.startswith(space) or not any(topic.name.startswith(space) for topic in beside)


def _common_prefix(first: str, second: str) -> int:
    """Return how many parts of two names, from the left, are the same."""
    length = 0
    for a, b in zip(first.split("/"), second.split("/"), strict=False):
        if a != b:
            break
        length += 1
    return length


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))


def _named(name: str) -> set[Kind]:
    """Return the kinds that words of a name stand for."""
    words = _words(name)
    return {kind for kind, word in _WORDS.items() if any(re.fullmatch(word, each) for each in words)}


def _pixels(topic: Topic) -> str:
    """Return the encoding of the pixels, or the empty string where only the file's format is known."""
    if topic.type == COMPRESSED and ";" not in topic.encoding:
        return ""
    return topic.encoding.partition(";")[0].strip()


def _listed(topics: Sequence[Topic]) -> str:
    """Return the topics as text, those with images first."""
    ordered = sorted(topics, key=lambda topic: kind_of(topic) == Kind.OTHER)
    more = [f"and {len(ordered) - LISTED} more"] if len(ordered) > LISTED else []
    return ", ".join([*map(str, ordered[:LISTED]), *more]) or "no topic"


# Reading ---------------------------------------------------------------------------------------------------


class Recording:
    """A recording, open until `close` or the end of a `with` block.

    Args:
        path: a rosbag2 folder, a folder with one recording's files, or an `.mcap`, `.db3` or `.bag` file.

    Raises:
        RecordingError: it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._ros1 = False
        self._stack = contextlib.ExitStack()
        self._readers: list[Any] = []
        paths = find_recording(self.path)
        if not paths:
            raise RecordingError(
                f"'{self.path}' is no recording; expected a rosbag2 folder, or a file {_one_of(SUFFIXES)}"
            )
        for each in paths:
            try:
                self._open(each)
            except Exception as error:  # rosbags raises what its readers meet
                self.close()
                raise RecordingError(
                    f"recording '{each}' cannot be opened ({_said(error)}); {_remedy(each, error)}"
                ) from error
        try:
            self.topics = self._look_at_topics()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._readers.clear()
        self._stack.close()

    @property
    def end_ns(self) -> int:
        """Time of the latest message of all topics, as the recording's index says; 0 without messages."""
        return max((int(reader.end_time) for reader in self._readers), default=0)

    def messages(self, topics: Collection[Topic]) -> Iterator[Message]:
        """Yield the messages of some topics in order of time. Raises `RecordingError` where it is damaged."""
        wanted = {(topic.name, topic.type) for topic in topics}
        read = 0
        try:
            for connection, time_ns, data in heapq.merge(
                *(self._read(reader, wanted) for reader in self._readers), key=lambda each: each[1]
            ):
                if self._ros1:
                    data = _store().ros1_to_cdr(data, connection.msgtype)
                yield Message(connection.topic, connection.msgtype, time_ns, bytes(data))
                read += 1
        except Exception as error:  # struct, zstd, sqlite, assertions
            raise RecordingError(
                f"recording '{self.path}' is damaged after {read} message(s) ({_said(error)}); "
                f"{_remedy(self.path, error)}"
            ) from error

    def _read(self, reader: Any, wanted: set[tuple[str, str]]) -> Iterator[tuple[Any, int, Any]]:
        connections = [c for c in reader.connections if (c.topic, c.msgtype) in wanted]
        return iter(reader.messages(connections)) if connections else iter(())

    def _open(self, path: Path) -> None:
        # Not `AnyReader`: it parses the definitions of all types, and one that it cannot parse, or with an
        # unexpected hash, would prevent reading the images. All types that are read here are known.
        from rosbags.rosbag1 import Reader as Reader1
        from rosbags.rosbag2 import Reader as Reader2

        self._ros1 = path.suffix == ".bag"
        self._readers.append(self._stack.enter_context(Reader1(path) if self._ros1 else Reader2(path)))

    def _look_at_topics(self) -> tuple[Topic, ...]:
        counts: dict[tuple[str, str], int] = {}
        for reader in self._readers:
            infos = reader.topics
            for c in reader.connections:
                # A ROS 1 bag counts per topic only.
                number = infos[c.topic].msgcount if self._ros1 else c.msgcount
                key = c.topic, c.msgtype
                counts[key] = number if self._ros1 and key in counts else counts.get(key, 0) + number
        return tuple(self._look_at(Topic(*key, count)) for key, count in counts.items())

    def _look_at(self, topic: Topic) -> Topic:
        """Return a topic with the encoding of its first image."""
        if topic.type not in (IMAGE, COMPRESSED, CAMERA_INFO) or not topic.count:
            return topic
        try:
            first = next(self.messages([topic]), None)
            content: Any = first.content if first is not None and topic.type != CAMERA_INFO else None
        except RecordingError:
            return topic  # the damage is reported when the topic is read
        if first is None:
            fault = (
                f"holds none of the {topic.count} message(s) that {METADATA} lists: write that file anew by "
                f"ros2 bag reindex {self.path}"
            )
            return replace(topic, count=0, fault=fault)
        if topic.type == CAMERA_INFO:
            return topic
        return replace(topic, encoding=content.encoding if topic.type == IMAGE else _format(content))


def find_recording(path: Path) -> list[Path]:
    """Return what belongs to the recording at `path`: one folder or file, or the files of a split recording.

    Empty where `path` is a folder or file that has nothing to do with recordings. Raises `RecordingError`
    where it holds several recordings, or one that must be prepared first.
    """
    if path.is_file():
        if path.suffix in COMPRESSED_SUFFIXES and Path(path.stem).suffix in SUFFIXES:
            if (path.parent / METADATA).is_file():
                return [path.parent]
            raise RecordingError(
                f"'{path}' is compressed, and its {METADATA} is missing; decompress it first: zstd -d {path}"
            )
        if path.name.endswith(".bag.active"):
            raise RecordingError(
                f"'{path}' was not closed by its recorder; repair it first: rosbag reindex {path}, then "
                "rename it to .bag"
            )
        if path.name == METADATA or (path.suffix in SUFFIXES and _is_listed(path)):
            return [path.parent]  # people point at a file inside the recording's folder
        return [path] if path.suffix in SUFFIXES else []
    if not path.is_dir() or (path / METADATA).is_file():
        return [path] if path.is_dir() else []
    files = sorted((each for each in path.iterdir() if each.suffix in SUFFIXES), key=_split_number)
    if files:
        if len(files) == 1 or _are_splits(files):
            return files
        raise RecordingError(_several(path, files))
    compressed = [each for each in path.iterdir() if each.suffix in COMPRESSED_SUFFIXES]
    compressed = [each for each in compressed if Path(each.stem).suffix in SUFFIXES]
    if compressed:
        return find_recording(compressed[0])
    if unclosed := sorted(path.glob("*.bag.active")):
        return find_recording(unclosed[0])
    folders = sorted(each for each in path.iterdir() if (each / METADATA).is_file())
    if len(folders) > 1:
        raise RecordingError(_several(path, folders))
    return folders


def _is_listed(path: Path) -> bool:
    """Return whether the metadata.yaml beside a file is about this file."""
    try:
        return path.name in (path.parent / METADATA).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def _split_number(path: Path) -> tuple[str, int]:
    """Return the name without its number and the number: recorders call the parts NAME_0, NAME_1, ..."""
    match = re.fullmatch(r"(.*)_(\d+)", path.stem)
    return (match[1], int(match[2])) if match else (path.stem, -1)


def _are_splits(files: Sequence[Path]) -> bool:
    alike = {(_split_number(path)[0], path.suffix) for path in files}
    return len(alike) == 1 and all(_split_number(path)[1] >= 0 for path in files)


def _several(folder: Path, found: Sequence[Path]) -> str:
    names = [each.name for each in found[:LISTED]]
    more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
    return (
        f"folder '{folder}' holds {len(found)} recordings; expected one: name one of "
        f"{', '.join([*names, *more])}"
    )


def _remedy(path: Path, error: Exception) -> str:
    """Return what to do about a recording that cannot be read."""
    text = _said(error)
    if isinstance(error, PermissionError):
        return "expected a file that may be read: change its permissions (chmod +r)"
    if path.suffix == ".bag":
        if "not indexed" in text:
            return f"it was not closed by its recorder: rosbag reindex {path}"
        return f"expected a ROS 1 bag (version 2.0): copy or record it again, or try rosbag reindex {path}"
    if path.is_dir():
        files = sorted(each.name for each in path.iterdir() if each.name != METADATA)
        return (
            f"expected a rosbag2 folder with {METADATA} and the MCAP or SQLite files that it lists (there: "
            f"{', '.join(files[:LISTED]) or 'none'}): copy it again; write {METADATA} anew by ros2 bag "
            f"reindex {path}; an MCAP file that was not closed is repaired by mcap recover"
        )
    if path.suffix == ".mcap":
        return (
            "expected a whole MCAP file of ROS 2: copy it again; if its recorder was killed, repair it: "
            f"mcap recover {path} -o repaired.mcap"
        )
    log = path.with_name(path.name + "-wal")
    if log.is_file() and log.stat().st_size:
        return (
            f"its recorder was killed and left {log.name}: keep that file beside it, and join them: "
            f"sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    return "expected the SQLite file of a rosbag2 recording: copy or record it again"


def _format(message: Any) -> str:
    """Return a compressed image's format, preceded by the pixels' encoding where it does not say it."""
    if ";" in message.format or not len(message.data):
        return str(message.format)
    try:
        with Pillow.open(io.BytesIO(bytes(message.data))) as picture:
            return f"{_PILLOW_PIXELS.get(picture.mode, 'rgb8')}; {message.format}"
    except Exception:  # damaged, or a format that Pillow does not read
        return str(message.format)


def _one_of(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _said(error: Exception) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return text[:300].rstrip(".") or type(error).__name__


@cache
def _store() -> Typestore:
    """Return the types that are read; they are the same in all distributions of ROS 2."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_HUMBLE)
