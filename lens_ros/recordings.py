"""Read recordings without ROS: rosbag2 folders, lone MCAP and SQLite files, ROS 1 bags.

`recording_topics.choose` decides which topics are the color camera, its depth and its calibration.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as Pillow

from lens_ros.recording_topics import CAMERA_INFO, COMPRESSED, IMAGE, LISTED, RecordingError, Topic

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

SUFFIXES = (".mcap", ".db3", ".bag")
COMPRESSED_SUFFIXES = (".zst", ".zstd")
METADATA = "metadata.yaml"

_PILLOW_PIXELS = {"L": "mono8", "1": "mono8", "LA": "mono8", "I;16": "mono16", "I": "mono16"}


@dataclass(frozen=True)
class Message:
    """A recorded message: `data` is its CDR serialization, also where the recording is of ROS 1."""

    topic: str
    type: str
    time_ns: int
    data: bytes

    @property
    def content(self) -> Any:
        """The message's fields as attributes, arrays as NumPy arrays; raises `RecordingError`."""
        try:
            return _store().deserialize_cdr(self.data, self.type)
        except Exception as error:  # rosbags raises what its generated code meets
            raise RecordingError(f"a message on {self.topic} cannot be read ({_said(error)})") from error


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
        """Time of the latest message of all topics, from the recording's index; 0 without messages."""
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
        if path.name == METADATA or (path.suffix in SUFFIXES and _islisted(path)):
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


def _islisted(path: Path) -> bool:
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
