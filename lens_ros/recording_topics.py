"""Decide which topics of a recording are the color camera, its depth and its calibration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
DISPARITY = "stereo_msgs/msg/DisparityImage"
VIDEO = (
    "theora_image_transport/msg/Packet",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    "foxglove_msgs/msg/CompressedVideo",
)
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


class RecordingError(Exception):
    """A recording that cannot be read or shown: what was wrong, what was expected, what to do."""


class Kind(Enum):
    """Content of a topic. The first of the first four kinds in a recording is its color camera."""

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
                f"{IMAGE} or {COMPRESSED} with color or gray images; it has {listed(topics)}"
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
    raise RecordingError(f"{why}, so it cannot be played as {stream}; it has {listed(topics)}")


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
    """Return whether a calibration may be the color camera's.

    It may not if its namespace holds other images and not the color image.
    """
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


def listed(topics: Sequence[Topic]) -> str:
    """Return the topics as text, those with images first."""
    ordered = sorted(topics, key=lambda topic: kind_of(topic) == Kind.OTHER)
    more = [f"and {len(ordered) - LISTED} more"] if len(ordered) > LISTED else []
    return ", ".join([*map(str, ordered[:LISTED]), *more]) or "no topic"
