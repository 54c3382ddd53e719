"""Recordings: choice of the color topic, opening, and messages about what cannot be read."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import bags
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from lens_ros.recording_topics import (
    COLOR_PIXELS,
    COMPRESSED,
    DEPTH_PIXELS,
    GRAY_PIXELS,
    IMAGE,
    SHOWN,
    Kind,
    RecordingError,
    Topic,
    choose,
    kind_of,
    objection_to_color,
)
from lens_ros.recordings import Recording, find_recording

INFO = "sensor_msgs/msg/CameraInfo"
THEORA = "theora_image_transport/msg/Packet"
DISPARITY = "stereo_msgs/msg/DisparityImage"
TEXT = "std_msgs/msg/String"
JPEG = "rgb8; jpeg compressed bgr8"


# Which topic is what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "encoding", "expected"),
    [
        ("/camera/color/image_raw", IMAGE, "rgb8", Kind.COLOR),
        ("/camera/color/image_raw/compressed", COMPRESSED, JPEG, Kind.COLOR),
        ("/camera/image/compressed", COMPRESSED, "rgb8; jpeg", Kind.COLOR),
        ("/camera/image/compressed", COMPRESSED, "jpeg", Kind.COLOR),
        ("/usb_cam/image_raw", IMAGE, "yuv422_yuy2", Kind.COLOR),
        ("/camera/image_raw", IMAGE, "bayer_rggb8", Kind.COLOR),
        ("/depth_camera/image_raw", IMAGE, "rgb8", Kind.COLOR),
        ("/depth_camera/ir/image_raw", IMAGE, "mono8", Kind.INFRARED),
        ("/left/image_raw", IMAGE, "mono8", Kind.GRAY),
        ("/left/image_raw/compressed", COMPRESSED, "mono8; jpeg compressed ", Kind.GRAY),
        ("/left/image", IMAGE, "mono16", Kind.GRAY),
        ("/camera/infra1/image_rect_raw", IMAGE, "mono8", Kind.INFRARED),
        ("/camera/infra2/image_rect_raw/compressed", COMPRESSED, "mono8; jpeg compressed ", Kind.INFRARED),
        ("/camera/infra1/image_rect_raw/compressed", COMPRESSED, "jpeg", Kind.INFRARED),
        ("/camera/left", IMAGE, "Y8", Kind.INFRARED),
        ("/flir/thermal", IMAGE, "16UC1", Kind.INFRARED),
        ("/stereo", IMAGE, "16UC1", Kind.DEPTH),
        ("/camera/aligned_depth_to_color/image_raw", IMAGE, "16UC1", Kind.DEPTH),
        ("/camera/aligned_depth_to_infra1/image_raw", IMAGE, "16UC1", Kind.DEPTH),
        ("/camera/depth/image", IMAGE, "mono16", Kind.DEPTH),
        ("/camera/depth/image", IMAGE, "32FC1", Kind.DEPTH),
        ("/camera/image/compressedDepth", COMPRESSED, "16UC1; compressedDepth png", Kind.DEPTH),
        ("/camera/image/compressed", COMPRESSED, "16UC1; png compressed ", Kind.DEPTH),
        ("/stereo/disparity", DISPARITY, "", Kind.DISPARITY),
        ("/stereo/disparity_image", IMAGE, "32FC1", Kind.DISPARITY),
        ("/labels_map", IMAGE, "mono8", Kind.LABELS),
        ("/segmentation/image", IMAGE, "mono16", Kind.LABELS),
        ("/perception/mask", IMAGE, "mono8", Kind.LABELS),
        ("/seg/image", IMAGE, "32SC1", Kind.LABELS),
        ("/instances", IMAGE, "32SC1", Kind.LABELS),
        ("/seg/compressed", COMPRESSED, "mono8; png", Kind.LABELS),
        ("/segmentation/colored_map", IMAGE, "rgb8", Kind.DRAWING),
        ("/detections/overlay", IMAGE, "bgr8", Kind.DRAWING),
        ("/camera/image_raw/theora", THEORA, "", Kind.VIDEO),
        ("/camera/camera_info", INFO, "", Kind.CAMERA_INFO),
        ("/chatter", TEXT, "", Kind.OTHER),
        ("/camera/image_raw", IMAGE, "rgb9", Kind.OTHER),
    ],
)
def test_a_topic_is_what_its_type_encoding_and_name_say(name, kind, encoding, expected):
    assert kind_of(Topic(name, kind, 1, encoding)) == expected


def test_the_encodings_are_those_that_the_nodes_convert():
    conversions = pytest.importorskip("lens_ros.ros.conversions")
    assert COLOR_PIXELS | GRAY_PIXELS == set(conversions.COLOR_ENCODINGS)
    assert DEPTH_PIXELS | {"mono16"} == set(conversions.DEPTH_ENCODINGS)


PARTS = (
    "camera",
    "left",
    "color",
    "depth",
    "infra1",
    "labels",
    "mask",
    "image_raw",
    "disparity",
    "overlay",
    "a",
)
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
RAW = st.sampled_from([*sorted(COLOR_PIXELS | GRAY_PIXELS | DEPTH_PIXELS), "32SC1", "Y8", "", "rgb9"])
FORMATS = st.sampled_from(
    [
        JPEG,
        "jpeg",
        "png",
        "mono8; jpeg",
        "mono8; png",
        "16UC1; compressedDepth png",
        "16UC1; compressedDepth rvl",
        "",
    ]
)
COUNTS = st.sampled_from([0, 1, 100])
TOPICS = st.one_of(
    st.builds(Topic, NAMES, st.just(IMAGE), COUNTS, RAW),
    st.builds(Topic, NAMES, st.just(COMPRESSED), COUNTS, FORMATS),
    st.builds(Topic, NAMES, st.sampled_from([THEORA, DISPARITY, INFO, TEXT]), COUNTS),
)
RECORDINGS = st.lists(TOPICS, max_size=8, unique_by=lambda topic: topic.name)


@given(RECORDINGS, st.randoms())
def test_the_choice_does_not_depend_on_the_order_and_nothing_is_left_unsaid(topics, random):
    shuffled = list(topics)
    random.shuffle(shuffled)
    try:
        chosen = choose(topics)
    except RecordingError as error:
        assert not any(kind_of(t) in SHOWN and t.count and t.encoding in COLOR_PIXELS for t in topics)
        assert all(topic.name in str(error) for topic in topics)
        with pytest.raises(RecordingError):
            choose(shuffled)
        return
    again = choose(shuffled)
    assert (again.color, again.depth, again.camera_info) == (chosen.color, chosen.depth, chosen.camera_info)
    playable = [t for t in topics if kind_of(t) in SHOWN and not objection_to_color(t)]
    assert chosen.color in playable
    assert kind_of(chosen.color) == min((kind_of(topic) for topic in playable), key=SHOWN.index)
    assert bool(chosen.remark) == (kind_of(chosen.color) != Kind.COLOR)
    played = {chosen.color, chosen.depth, chosen.camera_info}
    images = {topic for topic in topics if kind_of(topic) not in (Kind.OTHER, Kind.CAMERA_INFO)}
    assert images - played == set(chosen.others)


@given(RECORDINGS, st.data())
def test_a_topic_that_is_named_wins_or_the_message_lists_what_is_there(topics, data):
    named = data.draw(st.sampled_from([topic.name for topic in topics] or ["/nothing"]))
    try:
        chosen = choose(topics, color=named)
    except RecordingError as error:
        assert f"topic '{named}'" in str(error)
        assert all(f"{topic.name} ({topic.type}" in str(error) for topic in topics)
        (topic,) = [each for each in topics if each.name == named] or [None]
        if topic is not None and topic.count and topic.type == IMAGE:
            assert topic.encoding not in COLOR_PIXELS | GRAY_PIXELS | {""}
    else:
        assert chosen.color.name == named and not chosen.remark


def chosen_of(*topics: tuple[str, str, str]) -> tuple[str | None, ...]:
    chosen = choose([Topic(name, kind, 5, encoding) for name, kind, encoding in topics])
    return tuple(topic and topic.name for topic in (chosen.color, chosen.depth, chosen.camera_info))


def test_a_realsense_is_played_by_its_color_registered_depth_and_own_calibration():
    assert chosen_of(
        ("/camera/aligned_depth_to_color/camera_info", INFO, ""),
        ("/camera/aligned_depth_to_color/image_raw", IMAGE, "16UC1"),
        ("/camera/infra1/image_rect_raw", IMAGE, "mono8"),
        ("/camera/infra1/camera_info", INFO, ""),
        ("/camera/depth/image_rect_raw", IMAGE, "16UC1"),
        ("/camera/color/camera_info", INFO, ""),
        ("/camera/color/image_raw/theora", THEORA, ""),
        ("/camera/color/image_raw", IMAGE, "rgb8"),
        ("/camera/color/image_raw/compressed", COMPRESSED, JPEG),
    ) == ("/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw", "/camera/color/camera_info")


def test_the_calibration_of_another_camera_is_not_taken():
    images = ("/camera/color/image", IMAGE, "rgb8"), ("/camera/depth/image", IMAGE, "32FC1")
    assert chosen_of(*images, ("/camera/depth/camera_info", INFO, ""))[2] is None
    assert chosen_of(*images, ("/camera/camera_info", INFO, ""))[2] == "/camera/camera_info"
    assert chosen_of(*images, ("/calibration", INFO, ""))[2] == "/calibration"


def test_depth_in_a_form_that_cannot_be_read_is_not_taken():
    color = ("/color", IMAGE, "rgb8")
    assert chosen_of(color, ("/depth/compressedDepth", COMPRESSED, "16UC1; compressedDepth rvl"))[1] is None
    assert chosen_of(color, ("/depth/compressed", COMPRESSED, "16UC1; png compressed "))[1] is None
    with pytest.raises(
        RecordingError, match=r"holds no depth that can be read \(16UC1; compressedDepth rvl\)"
    ):
        choose(
            [Topic("/color", IMAGE, 1, "rgb8"), Topic("/d", COMPRESSED, 1, "16UC1; compressedDepth rvl")],
            depth="/d",
        )


# Reading ---------------------------------------------------------------------------------------------------

CAMERA = {
    "/infra/image": (IMAGE, "mono8"),
    "/labels": (IMAGE, "mono8"),
    "/video": (THEORA, ""),
    "/stereo/image": (IMAGE, "16UC1"),
    "/text": (TEXT, ""),
    "/rgb/image": (IMAGE, "rgb8"),
    "/rgb/camera_info": (INFO, ""),
    "/thumbnail": (COMPRESSED, "png"),
    "/depth": (COMPRESSED, "16UC1; compressedDepth png"),
}


def check_camera(path: Path) -> None:
    """Assert that a recording of CAMERA is read as it was written."""
    with Recording(path) as recording:
        chosen = choose(recording.topics)
        names = [topic and topic.name for topic in (chosen.color, chosen.depth, chosen.camera_info)]
        assert names == ["/rgb/image", "/stereo/image", "/rgb/camera_info"]
        others = {topic.name: topic.encoding for topic in chosen.others}
        assert others.get("/thumbnail") == "rgb8; png" and others["/infra/image"] == "mono8"
        assert all(topic.count == bags.MESSAGES for topic in recording.topics)
        messages = list(recording.messages([chosen.color, chosen.camera_info]))
        assert [message.time_ns for message in messages] == sorted(message.time_ns for message in messages)
        images = [message.content for message in messages if message.topic == "/rgb/image"]
        assert [int(image.data[0]) for image in images] == [0, 10, 20]
        assert images[1].header.stamp.nanosec == bags.STEP_NS and images[1].header.frame_id == "camera"
        assert recording.end_ns >= messages[-1].time_ns
        (first, *_) = (message.content for message in messages if message.type == INFO)
        assert first.k[0] == 60.0


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("compression", [None, CompressionMode.FILE, CompressionMode.MESSAGE])
def test_a_rosbag2_folder_is_read(tmp_path, storage, compression):
    if storage == StoragePlugin.MCAP and compression == CompressionMode.MESSAGE:
        compression = CompressionMode.STORAGE  # MCAP's own
    check_camera(bags.write(tmp_path / "bag", CAMERA, storage=storage, compression=compression))


def test_a_ros_1_bag_is_read(tmp_path):
    topics = {name: kind for name, kind in CAMERA.items() if kind[0] != THEORA}
    check_camera(bags.write(tmp_path / "old.bag", topics))
    check_camera(tmp_path)  # the folder in which it lies alone


@pytest.mark.parametrize(
    ("storage", "suffix"), [(StoragePlugin.MCAP, ".mcap"), (StoragePlugin.SQLITE3, ".db3")]
)
def test_a_lone_file_and_a_folder_without_metadata_are_read(tmp_path, storage, suffix):
    folder = bags.write(tmp_path / "bag", CAMERA, storage=storage)
    (folder / "metadata.yaml").unlink()
    check_camera(folder)
    (file,) = folder.glob(f"*{suffix}")
    check_camera(file)
    check_camera(tmp_path / "bag")


def test_a_file_or_the_folder_above_names_the_recording(tmp_path):
    folder = bags.write(tmp_path / "bag", CAMERA)
    (file,) = folder.glob("*.mcap")
    assert (
        find_recording(file)
        == find_recording(folder / "metadata.yaml")
        == find_recording(tmp_path)
        == [folder]
    )
    assert find_recording(tmp_path / "nowhere") == []


def test_a_recording_of_an_older_distribution_without_definitions_is_read(tmp_path):
    """Humble's SQLite files do not hold the definitions of their types."""
    folder = bags.write(tmp_path / "bag", CAMERA, storage=StoragePlugin.SQLITE3)
    (file,) = folder.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.executescript(
            "DROP TABLE schema; DROP TABLE message_definitions; "
            "ALTER TABLE topics DROP COLUMN type_description_hash;"
        )
    check_camera(folder)


@pytest.mark.parametrize(
    ("storage", "suffix"), [(StoragePlugin.MCAP, "mcap"), (StoragePlugin.SQLITE3, "db3")]
)
def test_a_split_recording_without_metadata_is_read_in_the_order_of_time(tmp_path, storage, suffix):
    split = tmp_path / "split"
    split.mkdir()
    for number in (0, 2, 10):
        late = {name: number * 10**9 for name in CAMERA}
        bag = bags.write(tmp_path / f"part{number}", CAMERA, storage=storage, late=late)
        shutil.move(next(bag.glob(f"*.{suffix}")), split / f"run_{number}.{suffix}")
        shutil.rmtree(bag)
    with Recording(split) as recording:
        chosen = choose(recording.topics)
        assert chosen.color.count == 3 * bags.MESSAGES
        times = [message.time_ns - bags.START_NS for message in recording.messages([chosen.color])]
    assert times == [number * 10**9 + index * bags.STEP_NS for number in (0, 2, 10) for index in range(3)]


def test_gray_is_played_where_there_is_nothing_better_and_said(tmp_path):
    topics = {
        "/infra/image": (IMAGE, "mono8"),
        "/labels": (IMAGE, "mono8"),
        "/left/image": (COMPRESSED, "png"),
    }
    folder = bags.write(tmp_path / "bag", topics)
    with Recording(folder) as recording:
        assert choose(recording.topics).color.name == "/left/image"
    topics["/left/image"] = (COMPRESSED, "mono8; png")
    with Recording(bags.write(tmp_path / "gray", topics)) as recording:
        chosen = choose(recording.topics)
    assert chosen.color.name == "/left/image" and "has no color image; /left/image" in chosen.remark
    with Recording(bags.write(tmp_path / "infra", dict(list(topics.items())[:2]))) as recording:
        chosen = choose(recording.topics)
    assert chosen.color.name == "/infra/image" and "infrared) is played instead" in chosen.remark
    with Recording(bags.write(tmp_path / "labels", {"/labels": (IMAGE, "mono8")})) as recording:
        with pytest.raises(RecordingError, match=r"no images that can be shown.*/labels \(.*mono8, labels\)"):
            choose(recording.topics)
        assert choose(recording.topics, color="labels").color.name == "/labels"


def test_a_topic_whose_type_nobody_knows_does_not_prevent_reading(tmp_path):
    """The `AnyReader` of rosbags refuses it: the definition cannot be parsed."""
    folder = bags.write(tmp_path / "bag", CAMERA, storage=StoragePlugin.SQLITE3)
    (file,) = folder.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute(
            "UPDATE message_definitions SET encoded_message_definition = '%&!' "
            "WHERE topic_type = 'theora_image_transport/msg/Packet'"
        )
    check_camera(folder)


# What cannot be read ---------------------------------------------------------------------------------------


def read(path: Path) -> None:
    with Recording(path) as recording:
        chosen = choose(recording.topics)
        list(recording.messages([chosen.color]))


def only_file(folder: Path) -> Path:
    (file,) = (each for each in folder.iterdir() if each.name != "metadata.yaml")
    return file


def truncate(folder: Path, size: float = 0.6) -> None:
    file = only_file(folder)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * size)])


def empty(folder: Path) -> None:
    truncate(folder, 0)


def alone(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    def damaged(folder: Path) -> None:
        damage(folder)
        (folder / "metadata.yaml").unlink()

    return damaged


def drop_table(folder: Path) -> None:
    with sqlite3.connect(only_file(folder)) as database:
        database.execute("DROP TABLE messages")


def change_metadata(old: str, new: str) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "metadata.yaml"
        text = path.read_text()
        assert re.search(old, text)
        path.write_text(re.sub(old, new, text))

    return changed


def lose_metadata(folder: Path) -> None:
    (folder / "metadata.yaml").unlink()


MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
COLOR = {"/rgb/image": (IMAGE, "rgb8")}


@pytest.mark.parametrize(
    ("storage", "compression", "damage", "said"),
    [
        (MCAP, None, truncate, r"cannot be opened.*mcap recover"),
        (MCAP, None, alone(truncate), r"cannot be opened.*mcap recover .*\.mcap -o"),
        (MCAP, None, alone(empty), r"cannot be opened.*empty.*copy it again"),
        (SQLITE, None, truncate, r"(cannot be opened|is damaged).*copy it again"),
        (SQLITE, None, alone(empty), r"cannot be opened.*missing tables.*copy or record it again"),
        (SQLITE, None, drop_table, r"cannot be opened.*missing tables.*copy it again"),
        (SQLITE, None, alone(drop_table), r"cannot be opened.*missing tables.*copy or record it again"),
        (MCAP, None, lambda folder: only_file(folder).unlink(), r"files are missing.*there: none.*reindex"),
        (
            MCAP,
            None,
            change_metadata("storage_identifier: mcap", "storage_identifier: sqlite3"),
            r"cannot be op",
        ),
        (
            MCAP,
            None,
            change_metadata("storage_identifier: mcap", "storage_identifier: rrd"),
            r"'rrd' not supp",
        ),
        (MCAP, None, change_metadata("version: 8", "version: 99"), r"version 99 not supported"),
        (MCAP, None, change_metadata("(?s).*", "rosbag2: ["), r"Could not load YAML.*ros2 bag reindex"),
        (MCAP, None, change_metadata("(?s)..*", ""), r"cannot be opened.*metadata.*ros2 bag reindex"),
        (
            MCAP,
            None,
            change_metadata("/rgb/image", "/other"),
            r"/other .*none of the 3 message.*ros2 bag reindex",
        ),
        (SQLITE, CompressionMode.FILE, truncate, r"cannot be opened.*copy it again"),
        (SQLITE, CompressionMode.FILE, lose_metadata, r"is compressed.*zstd -d"),
        (MCAP, CompressionMode.FILE, lose_metadata, r"is compressed.*zstd -d"),
    ],
)
def test_a_damaged_recording_is_explained_in_one_line(tmp_path, storage, compression, damage, said):
    folder = bags.write(tmp_path / "bag", COLOR, storage=storage, compression=compression)
    damage(folder)
    with pytest.raises(RecordingError, match=said) as caught:
        read(folder)
    assert str(folder) in str(caught.value) or "no images" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_ros_1_bag_is_explained(tmp_path):
    path = bags.write(tmp_path / "old.bag", COLOR)
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with pytest.raises(RecordingError, match=r"cannot be opened.*rosbag reindex"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(RecordingError, match=r"cannot be opened.*empty.*copy or record"):
        read(path)
    path.unlink()
    (tmp_path / "old.bag.active").write_bytes(whole)
    with pytest.raises(RecordingError, match=r"was not closed by its recorder.*rosbag reindex"):
        read(tmp_path)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("topics", [{}, COLOR])
def test_an_empty_recording_is_explained(tmp_path, storage, topics):
    folder = bags.write(tmp_path / "bag", topics, storage=storage, messages=0)
    listed = r"/rgb/image \(.*no message\)" if topics else "it has no topic"
    with pytest.raises(RecordingError, match=rf"no images that can be shown.*{listed}"):
        read(folder)
    lose_metadata(folder)
    with pytest.raises(RecordingError, match="no images that can be shown"):
        read(folder)


def test_an_empty_ros_1_bag_is_explained(tmp_path):
    with pytest.raises(RecordingError, match="no images that can be shown"):
        read(bags.write(tmp_path / "old.bag", COLOR, messages=0))


def test_several_recordings_in_a_folder_are_listed(tmp_path):
    for name in ("kitchen", "garden"):
        bags.write(tmp_path / name, COLOR)
    with pytest.raises(
        RecordingError, match=r"holds 2 recordings; expected one: name one of garden, kitchen"
    ):
        read(tmp_path)
    files = tmp_path / "files"
    files.mkdir()
    for name in ("kitchen", "garden"):
        shutil.move(only_file(tmp_path / name), files / f"{name}.mcap")
    with pytest.raises(RecordingError, match=r"name one of garden\.mcap, kitchen\.mcap"):
        read(files)


def test_what_is_no_recording_is_refused(tmp_path):
    with pytest.raises(RecordingError, match=r"is no recording; expected a rosbag2 folder, or a file \.mcap"):
        Recording(tmp_path / "nowhere")
    (tmp_path / "picture.mcap").write_bytes(b"\x89PNG" * 100)
    with pytest.raises(
        RecordingError, match=r"cannot be opened \(File magic is invalid\); expected a whole MCAP"
    ):
        Recording(tmp_path / "picture.mcap")


def test_reading_again_gives_the_same(tmp_path):
    with Recording(bags.write(tmp_path / "bag", COLOR)) as recording:
        first, second = ([m.data for m in recording.messages(recording.topics)] for _ in range(2))
    assert first == second and len(first) == bags.MESSAGES
    np.testing.assert_array_equal(np.frombuffer(first[0][-3:], np.uint8), 0)
