"""Invalid start-up settings: a name, a value, a file, a log folder."""

from __future__ import annotations

import signal

import pytest
from forked import ForkedProcess
from ros_graph import START_TIMEOUT, ForkedNode, Graph

from lens_ros.ros.command_line import UNUSABLE
from lens_ros.ros.launching import Restarts

from .conftest import SETTINGS
from .report import Row
from .robot import Robot, launch

AREA = "Start"
NOT_AGAIN = "the process ends with exit code 2; perception.launch.py does not start it again"


@pytest.mark.fault(AREA, "a misspelt parameter (max_target: 3)")
def test_a_misspelt_parameter_is_named(graph: Graph, demo_image, row: Row):
    row.own_process = True
    parameters = {**SETTINGS, "max_target": 3}
    process = launch(
        graph, "lens_ros.nodes.perception.node", "misspelt", parameters, remappings={"__ns": "/misspelt"}
    )
    robot = Robot(graph, process, demo_image, "/misspelt/perception")
    row.said = robot.hears("[WARN]", "'max_target' (did you mean 'max_targets'?)")
    robot.bring_up()
    robot.works(row)
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    end(robot)
    row.held("it works with what it understood; the name may be meant for another node")


@pytest.mark.fault(AREA, "a log folder that cannot be written (ROS_LOG_DIR)")
def test_a_log_folder_that_cannot_be_written_stops_nobody(graph: Graph, demo_image, row: Row):
    row.own_process = True
    process = launch(
        graph,
        "lens_ros.nodes.perception.node",
        "unlogged",
        SETTINGS,
        remappings={"__ns": "/unlogged"},
        environment={"ROS_LOG_DIR": "/proc/lens/logs"},
    )
    robot = Robot(graph, process, demo_image, "/unlogged/perception")
    row.said = robot.hears("[WARN]", "cannot write log files to /proc/lens/logs")
    robot.bring_up()
    robot.works(row)
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    end(robot)
    row.held("it works, and logs to the terminal and to /rosout")


@pytest.mark.fault(AREA, "a parameter out of its range (max_new_tokens: 3)")
def test_an_unusable_value_ends_it(graph: Graph, row: Row):
    row.own_process = True
    process = ForkedNode(
        "lens_ros.nodes.perception.node", graph.logs / "range.log", parameters={"max_new_tokens": 3}
    )
    is_given_up(row, process.wait(START_TIMEOUT), process.log)


@pytest.mark.fault(AREA, "a file of parameters that is missing")
def test_a_missing_file_ends_it(graph: Graph, row: Row):
    row.own_process = True
    log = graph.logs / "missing.log"
    arguments = ["--ros-args", "--params-file", "/home/robot/perception.yaml"]
    process = ForkedProcess("lens_ros.nodes.perception.node", arguments, output=log)
    is_given_up(row, process.wait(START_TIMEOUT), log.read_text())


def is_given_up(row: Row, status: int, log: str) -> None:
    """Check that the node has logged the reason once, and that launch would not restart it."""
    fatal = [line for line in log.splitlines() if "[FATAL]" in line]
    assert len(fatal) == 1 and "Traceback" not in log
    assert status == UNUSABLE and Restarts().objection(status, 0.0)
    row.said = fatal[0]
    row.held(NOT_AGAIN)


def end(robot: Robot) -> None:
    robot.settle()
    assert robot.graph.stop(robot.process, signal.SIGTERM, START_TIMEOUT) == 0
    robot.close()
