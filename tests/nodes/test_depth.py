"""Poses from depth: a depth image, camera_info and an answer meet in the node."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from ros_graph import TIMEOUT
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from lens_ros.codes import Code
from lens_ros.nodes.perception.measurements import Trouble
from lens_ros.ros.conversions import depth_to_image
from lens_ros.srv import Segment

FOCAL = 80.0
WALL, FRONT = (
    1.0,
    0.9,
)  # metres; the `Finder` finds rows 10..19, columns 30..49


def depth_image(header: Header, encoding: str = "32FC1", scale: float = 1.0) -> Image:
    depth = np.full((64, 96), WALL, np.float32)
    depth[10:20, 30:50] = FRONT
    return depth_to_image(depth * scale, copy.deepcopy(header), encoding=encoding)


class Depth:
    """A camera with depth, and an active node that reads it."""

    def __init__(self, graph, make_node, conversation, **settings) -> None:
        self.graph, self.conversation = graph, conversation
        self.node = make_node(**{"depth_transport": "raw", **settings})
        self.compressed = settings.get("depth_transport") == "compressedDepth"
        kind, topic = (CompressedImage, "depth/compressedDepth") if self.compressed else (Image, "depth")
        self.depths = graph.node.create_publisher(kind, topic, 5)
        self.infos = graph.node.create_publisher(CameraInfo, "camera_info", 5)
        conversation.wait_until_heard()
        for publisher in (self.depths, self.infos):
            graph.wait_until(publisher.get_subscription_count, TIMEOUT, "a match")
        self.calibrate()

    def calibrate(self, focal: float = FOCAL) -> None:
        info = CameraInfo(height=64, width=96, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = np.array([focal, 0, 47.5, 0, focal, 31.5, 0, 0, 1.0])
        before = self.node._camera_info._last
        self.infos.publish(info)
        self.graph.wait_until(lambda: self.node._camera_info._last is not before, TIMEOUT, "camera_info")

    def send(self, message) -> None:
        before = list(self.node._depths._kept)
        self.depths.publish(message)
        self.graph.wait_until(lambda: list(self.node._depths._kept) != before, TIMEOUT, "a depth image")

    def answer(self, make_depth, **changes):
        """Return the accepted instance and the answer about a new image with this depth."""
        image = self.conversation.send_image(**changes)
        depth = make_depth(image.header)
        if depth is not None:
            self.send(depth)
        scheduler = self.node.scheduler()
        self.graph.wait_until(
            lambda: scheduler.latest is not None and scheduler.latest.header == image.header,
            TIMEOUT,
            "the image",
        )
        instruction = f"the mug at {image.header.stamp.sec}"
        self.conversation.say(instruction)
        answer = self.conversation.wait_for_answer(instruction)
        [accepted] = [instance for instance in answer.instances if not instance.rejected]
        return accepted, answer

    def close(self) -> None:
        for publisher in (self.depths, self.infos):
            self.graph.node.destroy_publisher(publisher)


@pytest.fixture
def camera(graph, make_node, conversation):
    made = []

    def make(**settings) -> Depth:
        made.append(Depth(graph, make_node, conversation, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def assert_located(instance, answer) -> None:
    assert instance.has_pose and instance.pose_reason == "" and instance.pose_code == Code.OK
    assert answer.pose_frame_id == answer.header.frame_id == "camera_optical_frame"
    center, size = instance.pose.position, instance.size
    np.testing.assert_allclose(
        (center.x, center.y, center.z),
        ((39.5 - 47.5) / FOCAL * FRONT, (14.5 - 31.5) / FOCAL * FRONT, (WALL + FRONT) / 2),
        atol=0.01,
    )
    np.testing.assert_allclose(sorted((size.x, size.y)), (10 * FRONT / FOCAL, 20 * FRONT / FOCAL), atol=0.03)
    assert abs(size.z - (WALL - FRONT)) < 0.005
    turn = instance.pose.orientation
    assert np.isclose(turn.x**2 + turn.y**2 + turn.z**2 + turn.w**2, 1)
    # The third axis of the box is the wall's normal, towards the camera.
    assert 1 - 2 * (turn.x**2 + turn.y**2) < -0.99
    assert abs(instance.depth_median - FRONT) < 1e-3 and instance.visible_fraction > 0.9


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_an_accepted_object_has_a_pose(camera, encoding):
    depth = camera()
    instance, answer = depth.answer(lambda header: depth_image(header, encoding))
    assert_located(instance, answer)
    [rejected] = [each for each in answer.instances if each.rejected]
    assert not rejected.has_pose and rejected.pose_code == Code.OK


def test_compressed_depth_is_read(camera):
    import cv2

    depth = camera(depth_transport="compressedDepth")

    def compressed(header: Header) -> CompressedImage:
        stored = np.frombuffer(depth_image(header, "16UC1").data, np.uint16).reshape(64, 96)
        png = cv2.imencode(".png", stored)[1].tobytes()
        return CompressedImage(header=header, format="16UC1; compressedDepth png", data=bytes(12) + png)

    assert_located(*depth.answer(compressed))


def test_the_service_and_the_action_have_poses_of_camera_images_only(camera, graph):
    depth = camera()
    _, answer = depth.answer(depth_image)
    request = Segment.Request(instruction="the mug")
    response = graph.call(Segment, "perception/segment", request, TIMEOUT)
    [instance] = [each for each in response.segmentation.instances if not each.rejected]
    assert_located(instance, response.segmentation)
    request.image = depth.conversation.send_image()
    response = graph.call(Segment, "perception/segment", request, TIMEOUT)
    assert response.success and not any(each.has_pose for each in response.segmentation.instances)
    assert response.segmentation.pose_frame_id == ""


@pytest.mark.parametrize(
    ("make_depth", "code", "said"),
    [
        (lambda header: None, Code.NO_DEPTH, "no depth image on /depth yet"),
        (lambda header: late(header), Code.NO_DEPTH, "500 ms from the color image; expected at most 40 ms"),
        (lambda header: elsewhere(header), Code.DEPTH_MISMATCH, "in the frame 'right_eye'"),
        (lambda header: cut(header), Code.DEPTH_MISMATCH, "96 x 20 pixels and the color image 96 x 64"),
        (lambda header: depth_image(header, scale=1000), Code.DEPTH_UNIT, "seem to be millimetres"),
        (lambda header: depth_image(header, scale=np.nan), Code.NO_DEPTH, "holds no measurement"),
        (lambda header: colored(header), Code.BAD_DEPTH, "expected 16UC1"),
    ],
)
def test_depth_that_does_not_fit_is_named_and_the_answer_goes_out(camera, make_depth, code, said):
    depth = camera()
    instance, answer = depth.answer(make_depth)
    assert not instance.has_pose and instance.pose_code == code and said in instance.pose_reason
    assert answer.pose_frame_id == "" and answer.code == Code.OK and instance.mask.height == 64
    assert said in " ".join(depth.node._camera_info._measured.noted(Trouble.DEPTH))
    assert_located(*depth.answer(depth_image))
    assert not depth.node._camera_info._measured.noted(Trouble.DEPTH)


def late(header: Header) -> Image:
    message = depth_image(header)
    message.header.stamp.nanosec = header.stamp.nanosec + 500_000_000
    return message


def elsewhere(header: Header) -> Image:
    message = depth_image(header)
    message.header.frame_id = "right_eye"
    return message


def cut(header: Header) -> Image:
    return depth_to_image(np.ones((20, 96), np.float32), header)


def colored(header: Header) -> Image:
    return Image(header=header, height=64, width=96, step=288, encoding="rgb8", data=bytes(64 * 288))


def test_a_camera_without_focal_lengths_is_named(camera):
    depth = camera()
    depth.calibrate(focal=0.0)
    instance, _ = depth.answer(depth_image)
    assert instance.pose_code == Code.BAD_CAMERA
    depth.calibrate()
    assert_located(*depth.answer(depth_image))


def test_without_the_parameter_nothing_is_read(graph, make_node, conversation):
    node = make_node()
    conversation.wait_until_heard()
    assert node.count_subscribers("depth") == 0
    answer = conversation.ask("the mug")
    assert not any(each.has_pose or each.pose_code for each in answer.instances)
