"""Outlines before the camera, over real messages, held against OpenCV's own projection."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ros_graph import TIMEOUT, Log
from sensor_msgs.msg import CameraInfo
from visualization_msgs.msg import Marker, MarkerArray

from lens_ros.nodes.conversions import ConversionError, check_camera_info, pixels_to_rays
from lens_ros.nodes.markers import DISTANCE_M

MATRIX = np.array([[80.0, 0.0, 47.5], [0.0, 82.0, 31.5], [0.0, 0.0, 1.0]])
DISTORTIONS = {
    "": [],
    "plumb_bob": [0.1, -0.05, 0.001, -0.002, 0.01],
    "rational_polynomial": [0.1, -0.05, 0.001, -0.002, 0.01, 0.02, 0.01, 0.005],
    "equidistant": [0.05, 0.01, -0.005, 0.001],
}


def camera(model: str = "plumb_bob", **changes) -> CameraInfo:
    info = CameraInfo(height=64, width=96, distortion_model=model, d=DISTORTIONS.get(model, []))
    info.k = MATRIX.ravel()
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def project(rays: np.ndarray, info: CameraInfo) -> np.ndarray:
    points, none = rays.reshape(-1, 1, 3), np.zeros(3)
    distortion = np.asarray(info.d) if len(info.d) else np.zeros(4)
    if info.distortion_model == "equidistant":
        return cv2.fisheye.projectPoints(points, none, none, MATRIX, distortion)[0].reshape(-1, 2)
    return cv2.projectPoints(points, none, none, MATRIX, distortion)[0].reshape(-1, 2)


@pytest.mark.parametrize("model", DISTORTIONS)
@given(st.lists(st.tuples(st.floats(0, 95), st.floats(0, 63)), min_size=1, max_size=8))
def test_rays_meet_the_pixels_that_they_come_from(model, pixels):
    rays = pixels_to_rays(np.array(pixels), camera(model))
    assert (rays[:, 2] == 1).all()
    np.testing.assert_allclose(project(rays, camera(model)), pixels, atol=0.2)


def test_no_pixels_have_no_rays():
    assert pixels_to_rays(np.zeros((0, 2)), camera()).shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "kind", "parts"),
    [
        ({"width": 640, "height": 480}, "size", ("640x480", "96x64", "camera_info")),
        ({"k": np.zeros(9)}, "matrix", ("k[0]", "not calibrated")),
        ({"distortion_model": "kannala"}, "distortion", ("kannala", "plumb_bob")),
    ],
)
def test_what_cannot_be_used_is_named(changes, kind, parts):
    with pytest.raises(ConversionError) as raised:
        check_camera_info(camera(**changes), 64, 96)
    assert raised.value.kind == kind and all(part in str(raised.value) for part in parts)


def test_outlines_fall_on_their_objects(graph, make_node, conversation, capfd):
    node = make_node(log_interval_s=0.1)
    received: list[MarkerArray] = []
    subscription = graph.node.create_subscription(MarkerArray, "markers", received.append, 5)
    infos = graph.node.create_publisher(CameraInfo, "camera_info", 5)
    conversation.wait_until_heard()
    publisher = node._answers._pictures._markers
    graph.wait_until(publisher.get_subscription_count, TIMEOUT, "a match")
    graph.wait_until(infos.get_subscription_count, TIMEOUT, "a match")

    # Markers come after the answer, in the worker's thread: the next camera_info must wait for them.
    log = Log(capfd)
    conversation.ask("a mug without calibration")
    graph.wait_until(lambda: log.count("no message on /camera_info yet"), TIMEOUT, "a line of the log")
    infos.publish(camera(k=np.zeros(9)))
    graph.wait_until(lambda: node._camera_info._last is not None, TIMEOUT, "camera_info")
    conversation.ask("a mug with a bad one")
    graph.wait_until(lambda: log.count("not calibrated"), TIMEOUT, "a line of the log")
    assert not received

    infos.publish(camera())
    graph.wait_until(lambda: node._camera_info._last.k[0] > 0, TIMEOUT, "camera_info")
    answer = conversation.ask("the mug")
    graph.wait_until(lambda: received, TIMEOUT, "markers")
    (accepted,) = [instance for instance in answer.instances if not instance.rejected]
    clear, outline, label = received[0].markers
    assert clear.action == Marker.DELETEALL
    assert outline.header == label.header == answer.header
    assert outline.id == label.id == accepted.id and label.text == f"{accepted.id} red mug"
    corners = project(np.array([[p.x, p.y, p.z] for p in outline.points]) / DISTANCE_M, camera())
    # The object of the `Finder`: rows 10 to 19, columns 30 to 49.
    assert len(corners) % 2 == 0
    np.testing.assert_allclose(corners.min(axis=0), [30, 10], atol=0.1)
    np.testing.assert_allclose(corners.max(axis=0), [49, 19], atol=0.1)
    graph.node.destroy_subscription(subscription)
    graph.node.destroy_publisher(infos)
