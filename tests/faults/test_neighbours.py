"""Other processes in the graph: a node of the same name, a second perception, a camera without profile."""

from __future__ import annotations

import signal

import cv2
import pytest
from ros_graph import START_TIMEOUT

from lens_ros.ros.driver import UNCONFIGURED
from lens_ros.ros.middleware import PROFILE_VARIABLE

from .conftest import SETTINGS
from .report import Row
from .robot import QUESTION, Robot, launch

AREA = "Neighbours in the graph"


@pytest.mark.fault(AREA, "a second node of the same name")
def test_a_namesake_is_noticed_by_both(robot: Robot, row: Row):
    other = launch(robot.graph, "lens_ros.nodes.perception.node", "namesake", {})
    row.said = robot.hears("[WARN]", "2 nodes are called /perception")
    row.diagnostics = robot.diagnosed("state", "WARN", "2 nodes are called /perception")
    robot.wait_until(lambda: "2 nodes are called /perception" in other.log, "the other one's warning")
    robot.graph.stop(other, signal.SIGTERM)
    robot.begin()
    robot.diagnosed("state", "OK", "active")
    robot.works(row)
    row.held("topics are served as before; the warning ends with the namesake")


@pytest.mark.fault(AREA, "a second node in a namespace")
def test_nodes_in_namespaces_do_not_disturb_each_other(robot: Robot, row: Row, demo_image):
    process = launch(robot.graph, "faults.faulty_perception", "left", SETTINGS, remappings={"__ns": "/left"})
    other = Robot(robot.graph, process, demo_image, "/left/perception")
    assert robot.graph.state("/left/perception", START_TIMEOUT) == UNCONFIGURED
    other.bring_up()
    other.works()
    before = len(robot.of(QUESTION)), len(other.of(QUESTION))
    robot.works(row)
    other.works()
    assert (len(robot.of(QUESTION)), len(other.of(QUESTION))) == (before[0] + 1, before[1] + 1)
    row.said = f"(nothing: {robot.name} and {other.name} have topics and services of their own)"
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    other.settle()
    other.say(f"slow: {QUESTION}")
    other.wait_until(lambda: f"instruction 'slow: {QUESTION}'" in other.log, "it to begin", other.image)
    assert robot.graph.stop(process, signal.SIGTERM, START_TIMEOUT) == 0  # an active one ends as it should
    other.settle()
    other.close()
    robot.works()
    row.held("each answers its own images and instructions; the end of one does not disturb the other")


@pytest.mark.fault(AREA, "1080p best-effort camera without the Fast DDS profile")
def test_large_images_that_dds_drops_are_missed_with_a_hint(robot: Robot, row: Row, demo_image, tmp_path):
    large = cv2.resize(cv2.cvtColor(demo_image, cv2.COLOR_RGB2BGR), (1920, 1080))
    cv2.imwrite(str(tmp_path / "0.png"), large)
    settings = {
        "source": str(tmp_path),
        "frame_rate_hz": 5.0,
        "qos_overrides./image.publisher.reliability": "best_effort",
    }
    received = robot.counter("images", "received")
    without = {PROFILE_VARIABLE: "", "RMW_FASTRTPS_USE_QOS_FROM_XML": ""}
    camera = launch(robot.graph, "lens_ros.nodes.camera.node", "large_camera", settings, environment=without)
    robot.wait_until(lambda: robot.graph.node.count_publishers("image") == 2, "the camera")
    robot.begin()
    row.diagnostics = robot.diagnosed("images", "WARN", "config/fastdds.xml")
    row.said = robot.hears("no image on /image for", "config/fastdds.xml")
    robot.graph.stop(camera)
    few = robot.counter("images", "received") - received
    camera = launch(robot.graph, "lens_ros.nodes.camera.node", "large_camera_2", settings)
    robot.wait_until(lambda: robot.counter("images", "received") > received + few + 10, "1080p images")
    robot.graph.stop(camera)
    robot.works(row)
    row.held("with config/fastdds.xml in the camera's process its images arrive")
