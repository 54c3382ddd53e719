"""Camera node: its sources, what it publishes, and its messages about sources that cannot be played."""

from __future__ import annotations

import array
import os
import struct
from pathlib import Path

import bags
import cv2
import numpy as np
import PIL.Image
import pytest
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_graph import START_TIMEOUT, TIMEOUT
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lens_ros.inputs import as_rgb
from lens_ros.nodes.camera.sources import Shot, Source, SourceError, open_source
from lens_ros.ros import conversions
from lens_ros.ros.command_line import UNUSABLE

RECORDED = 1_700_000_000  # seconds


def write_bag(folder: Path, *, storage: StoragePlugin = StoragePlugin.MCAP, raw: bool = False) -> Path:
    """Write five frames at 20 Hz: color (JPEG or raw), depth (every second one) and camera_info, 64x48."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types

    def header(index: int):
        time = types["builtin_interfaces/msg/Time"](RECORDED, index * 50_000_000)
        return types["std_msgs/msg/Header"](time, "recorded_frame")

    color_type = "sensor_msgs/msg/Image" if raw else "sensor_msgs/msg/CompressedImage"
    with Writer(folder, version=8, storage_plugin=storage) as writer:
        color = writer.add_connection(
            f"/cam/color{'' if raw else '/compressed'}", color_type, typestore=store
        )
        depth = writer.add_connection(
            "/cam/depth/compressedDepth", "sensor_msgs/msg/CompressedImage", typestore=store
        )
        info = writer.add_connection("/cam/camera_info", "sensor_msgs/msg/CameraInfo", typestore=store)
        for index in range(5):
            time = (RECORDED * 1000 + index * 50) * 1_000_000
            pixels = np.full((48, 64, 3), 40 * index, np.uint8)
            if raw:
                message = types[color_type](header(index), 48, 64, "bgr8", 0, 192, pixels.ravel())
            else:
                encoded = cv2.imencode(".jpg", pixels)[1].ravel()
                message = types[color_type](header(index), "rgb8; jpeg compressed bgr8", encoded)
            writer.write(color, time, store.serialize_cdr(message, color_type))
            if index % 2 == 0:
                png = cv2.imencode(".png", np.full((48, 64), 1000 + index, np.uint16))[1].tobytes()
                data = np.frombuffer(struct.pack("<iff", 0, 0, 0) + png, np.uint8)
                kind = "sensor_msgs/msg/CompressedImage"
                message = types[kind](header(index), "16UC1; compressedDepth png", data)
                writer.write(depth, time, store.serialize_cdr(message, kind))
            kind = "sensor_msgs/msg/CameraInfo"
            roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
            k = np.array([60, 0, 32, 0, 60, 24, 0, 0, 1], float)
            message = types[kind](
                header(index), 48, 64, "plumb_bob", np.zeros(5), k, np.eye(3).ravel(), np.zeros(12), 0, 0, roi
            )
            writer.write(info, time, store.serialize_cdr(message, kind))
    return folder


def shots(source: Source) -> list[Shot]:
    found = list(source.shots())
    played = [shot for shot in found if isinstance(shot, Shot)]
    assert len(played) == len(found)
    return played


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("raw", [False, True])
def test_a_recording_is_read_as_it_was_written(tmp_path, storage, raw):
    source = open_source(write_bag(tmp_path / "bag", storage=storage, raw=raw))
    assert source.duration == pytest.approx(0.25)
    played = shots(source)
    color = [shot for shot in played if shot.stream == "color"]
    assert [shot.at for shot in color] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert len([s for s in played if s.stream == "depth"]) == 3
    assert len([s for s in played if s.stream == "camera_info"]) == 5
    convert = conversions.image_to_rgb if raw else conversions.compressed_to_rgb
    np.testing.assert_allclose(convert(color[2].content), np.full((48, 64, 3), 80), atol=2)
    assert not isinstance(color[2].content, np.ndarray)
    assert color[2].content.header.frame_id == "recorded_frame"
    assert len(shots(source)) == len(played)  # it can be played again


def test_the_file_inside_a_recording_names_it_too(tmp_path):
    folder = write_bag(tmp_path / "bag")
    assert len(shots(open_source(next(folder.glob("*.mcap"))))) == 13


def test_topics_can_be_chosen(tmp_path):
    folder = write_bag(tmp_path / "bag")
    with pytest.raises(SourceError, match=r"no topic '/nothing'.*it has /cam/color/compressed.*color_topic"):
        open_source(folder, color_topic="/nothing")
    with pytest.raises(SourceError, match=r"compressedDepth' *, which holds images that cannot be shown"):
        open_source(folder, color_topic="/cam/depth/compressedDepth")
    source = open_source(folder, color_topic="cam/color/compressed", depth_topic="/cam/depth/compressedDepth")
    assert "color /cam/color/compressed (" in source.description
    assert "depth /cam/depth/compressedDepth (" in source.description


@pytest.mark.parametrize("form", ["folder", "file", "ROS 1"])
def test_what_is_played_is_said_and_what_else_there_is(tmp_path, form):
    image = "sensor_msgs/msg/Image"
    topics = {"/infra1/image": (image, "mono8"), "/labels": (image, "mono8"), "/rgb/image": (image, "rgb8")}
    path = bags.write(tmp_path / ("old.bag" if form == "ROS 1" else "bag"), topics)
    if form == "file":
        (path / "metadata.yaml").unlink()
        (path,) = path.iterdir()
    source = open_source(path)
    assert f"color /rgb/image ({image}, rgb8, color); not played: /infra1/image (" in source.description
    assert "mono8, infrared), /labels (" in source.description and not source.remark
    played = shots(source)
    assert [shot.at for shot in played] == pytest.approx([0, 0.1, 0.2])
    assert [int(conversions.image_to_rgb(shot.content).max()) for shot in played] == [0, 10, 20]
    infrared = open_source(path, color_topic="/infra1/image")
    assert "color /infra1/image" in infrared.description and not infrared.remark


def test_images_that_begin_late_are_played_at_once(tmp_path):
    topics = {"/text": ("std_msgs/msg/String", ""), "/rgb/image": ("sensor_msgs/msg/Image", "rgb8")}
    source = open_source(bags.write(tmp_path / "bag", topics, late={"/rgb/image": 60 * 10**9}))
    assert [shot.at for shot in shots(source)] == pytest.approx([0, 0.1, 0.2])
    assert source.duration == pytest.approx(0.3, abs=1e-3)


def test_metadata_of_another_recording_is_explained(tmp_path):
    topics = {"/rgb/image": ("sensor_msgs/msg/Image", "rgb8")}
    folder = bags.write(tmp_path / "bag", topics)
    metadata = folder / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(str(bags.START_NS), str(10**9)))
    with pytest.raises(SourceError, match=r"does not match its metadata\.yaml.*ros2 bag reindex"):
        open_source(folder)


def test_pictures_are_played_in_order_at_the_given_rate(pictures):
    source = open_source(pictures, frame_rate_hz=4.0)
    assert [shot.at for shot in shots(source)] == [0.0, 0.25, 0.5]
    assert source.duration == 0.75


def test_pictures_of_a_folder_are_read_as_those_of_the_api(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    scene = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    PIL.Image.fromarray(np.rot90(scene).copy()).save(tmp_path / "a.png", exif=exif)
    PIL.Image.fromarray(scene[..., 0].astype(np.uint16) << 4).save(tmp_path / "b.png")
    PIL.Image.fromarray(np.dstack([scene, scene[..., :1]])).save(tmp_path / os.fsdecode(b"c\xfc.png"))
    played = shots(open_source(tmp_path))
    np.testing.assert_array_equal(played[0].content, scene)
    for shot, path in zip(played, sorted(tmp_path.iterdir()), strict=True):
        np.testing.assert_array_equal(shot.content, as_rgb(path))


def test_unreadable_pictures_are_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((4, 4, 3), np.uint8))
    problem, shot = open_source(tmp_path).shots()
    assert isinstance(problem, str) and "a.png cannot be read" in problem
    assert isinstance(shot, Shot) and shot.stream == "color"
    (tmp_path / "b.png").unlink()
    with pytest.raises(SourceError, match="none of the 1 picture"):
        list(open_source(tmp_path).shots())


def break_metadata(folder: Path) -> None:
    (folder / "metadata.yaml").write_text("rosbag2: [")


def lose_file(folder: Path) -> None:
    next(folder.glob("*.mcap")).unlink()


def cut_file(folder: Path) -> None:
    path = next(folder.glob("*.mcap"))
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("damage", [break_metadata, lose_file, cut_file])
def test_a_damaged_recording_is_explained(tmp_path, damage):
    folder = write_bag(tmp_path / "bag")
    damage(folder)
    with pytest.raises(SourceError, match=r"recording .* (cannot be opened|is damaged)"):
        list(open_source(folder).shots())


def test_a_source_that_is_none_is_explained(tmp_path):
    with pytest.raises(SourceError, match="no source is given"):
        open_source("")
    with pytest.raises(SourceError, match="is not a folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"neither metadata.yaml .* nor a picture"):
        open_source(tmp_path)


# The process ----------------------------------------------------------------------------------------------


def test_a_bad_source_ends_the_process_with_one_clear_message(graph, tmp_path):
    process = graph.launch("camera", {"source": str(tmp_path / "nowhere")})
    graph.processes.remove(process)
    assert process.wait(START_TIMEOUT) == UNUSABLE
    assert "is not a folder or a recording; expected a rosbag2 folder" in process.log
    assert "Traceback" not in process.log


def stamp(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def test_a_recording_is_published_in_every_form_with_common_stamps(graph, tmp_path):
    received: dict[str, list] = {"image": [], "image/compressed": [], "depth": [], "camera_info": []}
    kinds = {"image": Image, "image/compressed": CompressedImage, "depth": Image, "camera_info": CameraInfo}
    subscriptions = [
        graph.node.create_subscription(kind, topic, received[topic].append, 50)
        for topic, kind in kinds.items()
    ]
    process = graph.launch("camera", {"source": str(write_bag(tmp_path / "bag"))})
    try:
        graph.wait_until(lambda: all(len(got) > 10 for got in received.values()), TIMEOUT, "images")
    finally:
        assert graph.stop(process) == 0
        for subscription in subscriptions:
            graph.node.destroy_subscription(subscription)
    for topic, messages in received.items():
        assert {message.header.frame_id for message in messages} == {"recorded_frame"}, topic
        stamps = [stamp(message) for message in messages]
        assert stamps == sorted(stamps) and stamps[0][0] > RECORDED + 1000, topic
    image, depth = received["image"][-1], received["depth"][-1]
    assert (image.encoding, image.height, image.width) == ("rgb8", 48, 64)
    assert depth.encoding == "16UC1"
    assert np.nanmax(conversions.depth_to_metres(depth)) == pytest.approx(1.0, abs=0.005)
    infos = {stamp(message) for message in received["camera_info"]}
    # Each topic begins and ends at a moment of its own.
    both = [each for each in map(stamp, received["depth"]) if min(infos) <= each <= max(infos)]
    assert len(both) > 1 and set(both) <= infos


def test_a_pause_leaves_nothing_out(graph, tmp_path):
    received: list[CompressedImage] = []
    subscription = graph.node.create_subscription(CompressedImage, "image/compressed", received.append, 50)
    source = {"source": str(write_bag(tmp_path / "bag")), "stamp": "recorded", "rate": 0.5}  # 10 Hz
    process = graph.launch("camera", source)

    def pause(paused: bool) -> None:
        change = Parameter("paused", value=paused).to_parameter_msg()
        request = SetParameters.Request(parameters=[change])
        response = graph.call(SetParameters, "camera/set_parameters", request, TIMEOUT)
        assert response.results[0].successful

    graph.wait_until(lambda: len(received) > 7, TIMEOUT, "images")
    pause(True)
    graph.spin(1.0)  # one that was on its way
    before = len(received)
    graph.spin(2.0)
    assert len(received) == before
    pause(False)
    graph.wait_until(lambda: len(received) > before + 12, TIMEOUT, "images after the pause")
    assert graph.stop(process) == 0
    graph.node.destroy_subscription(subscription)
    numbers = [message.header.stamp.nanosec // 50_000_000 for message in received]
    assert numbers == [(numbers[0] + n) % 5 for n in range(len(numbers))]


def test_recorded_stamps_are_kept_and_the_end_is_the_end(graph, tmp_path):
    received: list[CompressedImage] = []
    subscription = graph.node.create_subscription(CompressedImage, "image/compressed", received.append, 50)
    process = graph.launch(
        "camera",
        {
            "source": str(write_bag(tmp_path / "bag")),
            "stamp": "recorded",
            "frame_id": "mine",
            "loop": False,
            "rate": 0.03,  # 8 seconds: enough to be discovered before the end
        },
    )
    graph.processes.remove(process)
    graph.wait_until(lambda: received, TIMEOUT, "an image")
    assert process.wait(TIMEOUT) == 0
    graph.node.destroy_subscription(subscription)
    assert "is at its end" in process.log
    assert {message.header.stamp.sec for message in received} == {RECORDED}
    assert {message.header.frame_id for message in received} == {"mine"}
    assert type(received[0].data) is array.array


def test_a_recording_without_color_is_played_with_a_warning(graph, tmp_path):
    received: list[Image] = []
    subscription = graph.node.create_subscription(Image, "image", received.append, 50)
    folder = bags.write(tmp_path / "bag", {"/left/image": ("sensor_msgs/msg/Image", "mono8")})
    process = graph.launch("camera", {"source": str(folder)})
    graph.wait_for_log(process, "[WARN]", "no color image; /left/image", "mono8, gray) is played instead")
    graph.wait_until(lambda: received, TIMEOUT, "an image")
    assert graph.stop(process) == 0
    graph.node.destroy_subscription(subscription)
    assert received[0].encoding == "mono8"
