"""Faulty cameras: camera processes that stop, hang, change or compete, and images from this process."""

from __future__ import annotations

import signal

import cv2
import pytest
from ros_graph import TIMEOUT
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from visualization_msgs.msg import MarkerArray

from lens_ros.ros import conversions
from lens_ros.ros.driver import NodeProcess

from .report import Row
from .robot import Robot, launch, nothing

AREA = "Cameras"


@pytest.fixture(scope="module")
def start_camera(graph, demo_image, tmp_path_factory):
    """Start camera processes that show the demo's first picture ten times a second."""
    folder = tmp_path_factory.mktemp("pictures")
    cv2.imwrite(str(folder / "0.png"), cv2.cvtColor(demo_image, cv2.COLOR_RGB2BGR))
    started = 0

    def start(**options) -> NodeProcess:
        nonlocal started
        started += 1
        return launch(
            graph, "lens_ros.nodes.camera.node", f"camera_{started}", {"source": str(folder)}, **options
        )

    return start


@pytest.fixture
def silent(robot: Robot):
    """Close the robot's own camera topic, so that only the camera process publishes there."""
    robot.graph.node.destroy_publisher(robot.images)
    yield
    robot.images = robot.graph.node.create_publisher(Image, "image", 5)
    robot.wait_until_heard()


@pytest.fixture(scope="module")
def cameras() -> list[NodeProcess]:
    """Return the list of running camera processes, with at most one entry."""
    return []


@pytest.mark.fault(AREA, "hangs, and goes on")
def test_a_camera_that_hangs_is_missed_until_it_goes_on(
    robot: Robot, row: Row, silent, start_camera, cameras
):
    cameras.append(start_camera())
    robot.graph.wait_until(lambda: robot.counter("images", "rate in, Hz"), TIMEOUT, "images")
    cameras[0].send(signal.SIGSTOP)
    try:
        # The camera comes first: its images were here, so its compressed ones explain nothing.
        row.said = robot.hears("[WARN]", "no image on /image for", "s; 1 publisher(s) there")
        row.diagnostics = robot.diagnosed("images", "WARN", "no image on /image for")
        robot.say("a mug that nobody films")
        robot.hears("'a mug that nobody films' waits for the first usable image")
    finally:
        cameras[0].send(signal.SIGCONT)
    robot.hears("images arrive again on /image")
    robot.wait_until(lambda: robot.of("a mug that nobody films"), "an answer")
    robot.works(row, nothing)
    row.held("images arrive again; the instruction that waited is answered")


@pytest.mark.fault(AREA, "ends, and another one is started")
def test_a_camera_that_ends_is_missed_until_another_one_comes(
    robot: Robot, row: Row, silent, start_camera, cameras
):
    robot.graph.stop(cameras.pop())
    robot.hears("[WARN]", "no image on /image for")
    row.said = robot.hears("no image on /image for", "nobody publishes there")
    row.diagnostics = robot.diagnosed("images", "WARN", "nobody publishes there")
    cameras.append(start_camera())
    robot.works(row, nothing)
    row.held("the new camera is found by itself")


@pytest.mark.fault(AREA, "is killed (SIGKILL)")
def test_a_camera_that_is_killed_is_missed(robot: Robot, row: Row, start_camera, cameras):
    if not cameras:
        cameras.append(start_camera())
        robot.works(make=nothing)
    robot.graph.stop(cameras.pop(), signal.SIGKILL)
    row.said = robot.hears("[WARN]", "no image on /image for")
    row.diagnostics = robot.diagnosed("images", "WARN", "no image on /image for")
    robot.works(row)
    row.held("the next camera's images are used")


def case(name: str, said: str, **changes):
    return pytest.param(changes, said, marks=pytest.mark.fault(AREA, name), id=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        case("changes its size", "images are now 640 x 480 rgb8", size=(640, 480)),
        case("changes its encoding", "images are now 320 x 240 bgr8", encoding="bgr8"),
        case(
            "changes its frame_id", "images are now 320 x 240 rgb8 in frame 'left_eye'", frame_id="left_eye"
        ),
    ],
)
def test_a_camera_that_changes_is_followed(changes, said, robot: Robot, row: Row):
    robot.works()

    def changed() -> Image:
        image = robot.image(changes.get("size", (320, 240)))
        image.header.frame_id = changes.get("frame_id", image.header.frame_id)
        if "encoding" in changes:
            rgb = conversions.image_to_rgb(image)
            image = conversions.rgb_to_image(rgb, image.header, encoding=changes["encoding"])
        return image

    row.said = robot.hears("[WARN]", said, make=changed)
    answer = robot.works(make=changed)
    row.diagnostics = robot.diagnosed("images", "WARN", said, changed)
    image = changed()
    assert answer.header.frame_id == image.header.frame_id
    assert all(
        (each.mask.width, each.mask.height) == (image.width, image.height) for each in answer.instances
    )
    robot.works(row)
    row.held("answered from the next image on, masks have its size and header")


@pytest.mark.fault(AREA, "two cameras on one topic")
def test_two_cameras_on_one_topic_are_noticed(robot: Robot, row: Row):
    other = robot.graph.node.create_publisher(Image, "image", 5)

    def both() -> Image:
        late = robot.image((640, 480))
        late.header.stamp.sec -= 30
        other.publish(late)
        return robot.image()

    row.said = robot.hears("[WARN]", "stamps jumped", "two cameras on one topic", make=both)
    row.diagnostics = robot.diagnosed("images", "WARN", "two cameras on one topic", both)
    robot.graph.node.destroy_publisher(other)
    robot.works(row)
    row.held("every answer carries the header of its own image")


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        case("camera_info: 7 distortion coefficients", "d has 7 coefficients", d=[0.1] * 7),
        case("camera_info: NaN", "d holds NaN", d=[NAN] * 5),
        case("camera_info of another resolution", "an image with 640x480 pixels", width=640, height=480),
        case(
            "camera_info: binning that the image has not",
            "an image with 160x120 pixels",
            binning_x=2,
            binning_y=2,
        ),
        case(
            "camera_info: roi beyond the image",
            "roi of 320x240 pixels at 8, 0",
            roi=RegionOfInterest(x_offset=8, width=320, height=240),
        ),
    ],
)
def test_a_bad_calibration_costs_markers_only(changes, said, robot: Robot, row: Row):
    node = robot.graph.node
    markers: list[MarkerArray] = []
    overlays: list[Image] = []
    subscriptions = [
        node.create_subscription(MarkerArray, "markers", markers.append, 10),
        node.create_subscription(Image, "overlay", overlays.append, 10),
    ]
    infos = node.create_publisher(CameraInfo, "camera_info", 5)
    robot.wait_until(infos.get_subscription_count, "a subscription to camera_info")
    good = CameraInfo(width=320, height=240, distortion_model="plumb_bob", d=[0.0] * 5)
    good.k[[0, 2, 4, 5, 8]] = 300.0, 159.5, 300.0, 119.5, 1.0
    bad = CameraInfo(k=good.k, **{"width": 320, "height": 240, "distortion_model": "plumb_bob", **changes})

    def beside(info: CameraInfo):
        def make() -> Image:
            infos.publish(info)
            return robot.image()

        return make

    robot.say("a mug beside a bad calibration")
    row.said = robot.hears("[WARN]", "cannot be used for markers", said, make=beside(bad))
    row.diagnostics = robot.diagnosed("images", "WARN", said, beside(bad))
    markers.clear()
    overlays.clear()
    robot.works(make=beside(bad))
    robot.wait_until(lambda: len(overlays) > 2, "overlays", beside(bad))
    assert robot.log.count(said) == 1 and not markers
    robot.wait_until(lambda: markers, "markers", beside(good))
    robot.works(row)
    for subscription in subscriptions:
        node.destroy_subscription(subscription)
    node.destroy_publisher(infos)
    row.held("said once; answers and overlays go on, markers come with the next usable camera_info")
