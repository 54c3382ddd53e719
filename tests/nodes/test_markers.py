"""Outlines in front of the camera, over real messages, compared with OpenCV's own projection."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ros_graph import TIMEOUT, Log
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from visualization_msgs.msg import Marker, MarkerArray

from lens_ros.nodes.perception import camera_info
from lens_ros.nodes.perception.markers import DISTANCE_M
from lens_ros.nodes.perception.measurements import Trouble
from lens_ros.ros.conversions import ConversionError, camera_of, is_rectified

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
    rays = camera_of(camera(model), 64, 96).rays(np.array(pixels))
    assert (rays[:, 2] == 1).all()
    np.testing.assert_allclose(project(rays, camera(model)), pixels, atol=1e-4)


def part(**changes) -> CameraInfo:
    """Return a CameraInfo with columns 16 to 79 and rows 8 to 55 of the camera, in blocks of 2 x 4 pixels."""
    roi = RegionOfInterest(x_offset=16, y_offset=8, width=64, height=48, do_rectify=True)
    return camera(**{"roi": roi, "binning_x": 2, "binning_y": 4, **changes})


@pytest.mark.parametrize("model", DISTORTIONS)
@given(st.lists(st.tuples(st.floats(0, 31), st.floats(0, 11)), min_size=1, max_size=8))
def test_a_cropped_and_binned_image_sees_along_the_rays_of_the_whole_one(model, pixels):
    """This holds for any roi.do_rectify, which only concerns programs that rectify a raw image."""
    there = np.array(pixels) * (2, 4) + (16, 8)
    info = part(distortion_model=model, d=DISTORTIONS[model])
    rays = camera_of(info, 12, 32).rays(np.array(pixels))
    np.testing.assert_allclose(rays, camera_of(camera(model), 64, 96).rays(there), atol=1e-7)


PROJECTION = np.array([[70.0, 0.0, 50.0, -7.0], [0.0, 75.0, 30.0, 0.0], [0.0, 0.0, 1.0, 0.0]])


@given(st.lists(st.tuples(st.floats(0, 31), st.floats(0, 11)), min_size=1, max_size=8))
def test_a_rectified_image_is_projected_by_p(pixels):
    info = part(p=PROJECTION.ravel(), r=cv2.Rodrigues(np.array([0.01, 0.02, 0.0]))[0].ravel())
    places = camera_of(info, 12, 32, rectified=True).points(np.array(pixels), 2.0)
    seen = np.column_stack([places, np.ones(len(places))]) @ PROJECTION.T
    there = np.array(pixels) * (2, 4) + (16, 8)
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], there, atol=1e-6)


def test_a_rectified_image_without_p_has_k_and_no_distortion():
    """This holds for any error in the raw image's distortion."""
    info = camera(distortion_model="kannala", d=[float("nan")] * 3)
    found = camera_of(info, 64, 96, rectified=True)
    np.testing.assert_array_equal(found.matrix, MATRIX)
    assert not found.distortion and not found.fisheye
    assert not camera_of(camera("equidistant"), 64, 96, rectified=True).fisheye


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_rect", True),
        ("/camera/image_rect_color", True),
        ("/camera/image_rect/compressed", True),
        ("/image_rect/image_raw", False),
        ("/camera/image", False),
        ("/camera/image_raw/compressed", False),
    ],
)
def test_rectified_topics_are_known_by_their_names(topic, rectified):
    assert is_rectified(topic) is rectified


@pytest.mark.parametrize(
    ("changes", "height", "width"),
    [
        ({"binning_x": 1, "binning_y": 1}, 64, 96),
        ({"binning_x": 5}, 64, 19),
        ({"binning_x": 5}, 64, 20),  # drivers round either way
        ({"roi": RegionOfInterest(width=96, height=64)}, 64, 96),
        ({"d": [0.0] * 7}, 64, 96),  # no distortion, in whatever length
        ({"distortion_model": "plumb_bob", "d": [0.1, 0.1, 0.0, 0.0]}, 64, 96),
        ({"distortion_model": "rational_polynomial", "d": [0.01] * 12}, 64, 96),
        ({"distortion_model": "rational_polynomial", "d": [0.01] * 14}, 64, 96),
        ({"distortion_model": "fisheye", "d": [0.01] * 4}, 64, 96),
    ],
)
def test_what_fits_is_used(changes, height, width):
    camera_of(camera(**changes), height, width)


@pytest.mark.parametrize(
    ("changes", "kind", "parts"),
    [
        ({"width": 640, "height": 480}, "size", ("640x480", "96x64", "camera_info")),
        ({"width": 192, "height": 128}, "size", ("192x128", "96x64", "binning or roi")),
        ({"width": 0, "height": 0}, "size", ("0x0", "96x64")),
        ({"binning_x": 2, "binning_y": 2}, "size", ("48x32", "96x64")),
        ({"roi": RegionOfInterest(width=96, height=64, y_offset=1)}, "size", ("96x64 pixels at 0, 1", "roi")),
        ({"roi": RegionOfInterest(width=95, height=64)}, "size", ("95x64", "96x64")),
        ({"k": np.zeros(9)}, "matrix", ("k[0]", "not calibrated")),
        ({"k": np.full(9, np.nan)}, "matrix", ("matrix k", "NaN")),
        ({"distortion_model": "kannala"}, "distortion", ("kannala", "plumb_bob")),
        ({"distortion_model": "\x1b[2J" * 999}, "distortion", ("'\\x1b[2J", "… (3996 characters)")),
        ({"d": [0.1] * 3}, "distortion", ("3 coefficients", "4 or 5", "plumb_bob")),
        ({"d": [0.1] * 8}, "distortion", ("8 coefficients", "4 or 5", "plumb_bob")),
        ({"d": [0.1, float("nan"), 0.0, 0.0]}, "distortion", ("d holds NaN",)),
        ({"d": [0.1, float("inf"), 0.0]}, "distortion", ("d holds NaN or infinity",)),
        ({"distortion_model": "", "d": [0.1] * 5}, "distortion", ("5 coefficients", "expected 0")),
        (
            {"distortion_model": "rational_polynomial", "d": [0.1] * 5},
            "distortion",
            ("5 coefficients", "8 or 12 or 14"),
        ),
        ({"distortion_model": "equidistant", "d": [0.1] * 5}, "distortion", ("5 coefficients", "expected 4")),
    ],
)
def test_what_cannot_be_used_is_named(changes, kind, parts):
    with pytest.raises(ConversionError) as raised:
        camera_of(camera(**changes), 64, 96)
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


def test_a_bad_calibration_is_checked_once_and_said_once(graph, make_node, conversation, capfd, monkeypatch):
    """Answers and overlays continue; a changed calibration is checked again."""
    node = make_node(log_interval_s=0.0)
    checks = []

    def counted(info, *size, **options):
        checks.append(info)
        return camera_of(info, *size, **options)

    monkeypatch.setattr(camera_info, "camera_of", counted)
    overlays: list[Image] = []
    received: list[MarkerArray] = []
    subscriptions = [
        graph.node.create_subscription(Image, "overlay", overlays.append, 50),
        graph.node.create_subscription(MarkerArray, "markers", received.append, 50),
    ]
    infos = graph.node.create_publisher(CameraInfo, "camera_info", 5)
    conversation.wait_until_heard()
    for publisher in (node._answers._pictures._markers, node._answers._pictures._overlays, infos):
        graph.wait_until(publisher.get_subscription_count, TIMEOUT, "a match")
    log = Log(capfd)
    number = 0

    def ask_often(times: int) -> None:
        nonlocal number
        for _ in range(times):
            number += 1
            conversation.ask(f"mug number {number}")
        graph.wait_until(lambda: len(overlays) >= number, TIMEOUT, "an overlay for each answer")

    def publish(**changes) -> None:
        before = node._camera_info._last
        infos.publish(camera(**changes))
        graph.wait_until(lambda: node._camera_info._last is not before, TIMEOUT, "camera_info")

    for _ in range(3):  # the same content again and again, as a driver sends it
        publish(d=[float("nan")] * 5)
        ask_often(2)
    assert len(checks) == 1 and log.count("cannot be used for markers") == 1
    assert node._camera_info._measured.noted(Trouble.CALIBRATION) and not received
    publish(d=[0.1] * 3)
    ask_often(2)
    assert len(checks) == 2 and log.count("has 3 coefficients") == 1
    publish()
    ask_often(2)
    graph.wait_until(lambda: len(received) == 2, TIMEOUT, "markers")
    assert len(checks) == 3 and not node._camera_info._measured.noted(Trouble.CALIBRATION)
    for subscription in subscriptions:
        graph.node.destroy_subscription(subscription)
    graph.node.destroy_publisher(infos)
