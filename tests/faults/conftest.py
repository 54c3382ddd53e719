"""One graph, one `perception` process and one robot for all faults; each test fills in one row of the report.

    python -m pytest tests/faults --faults-json out/faults.json

`make faults` also updates docs/results/faults.md.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from .report import LOG_INTERVAL_S, Row, write_json

HAS_ROS = importlib.util.find_spec("rclpy") is not None
collect_ignore_glob = [] if HAS_ROS else ["test_*.py"]  # tests/nodes/test_ros.py says what is missing

TESTS = Path(__file__).resolve().parents[1]
if HAS_ROS:
    sys.path.insert(0, str(TESTS / "nodes"))  # for `ros_graph` and `action_client`

ROWS = pytest.StashKey[list[Row]]()

SETTINGS = {
    "model": "lens-nano",
    "build_engines": False,  # test_engines.py is about them
    "image_timeout_s": 1.0,
    "log_interval_s": LOG_INTERVAL_S,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-json", help="file for what the fault-injection suite found")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("faults_json", None)
    if path:
        write_json(session.config.stash.get(ROWS, []), Path(path))


@pytest.fixture(scope="package")
def graph(tmp_path_factory):
    """Yield a ROS graph that no other tests see."""
    from ros_graph import own_graph

    with own_graph(tmp_path_factory) as graph:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ["PYTHONPATH"]])
        yield graph


@pytest.fixture(scope="package")
def shared_robot(graph, demo_image):
    """Start an active `perception` process with the shipped model, and a robot that it answers."""
    from .robot import Robot, launch

    process = launch(graph, "faults.faulty_perception", "perception", SETTINGS)
    robot = Robot(graph, process, demo_image)
    robot.bring_up()
    robot.works()
    yield robot
    robot.close()


@pytest.fixture
def row(request) -> Row:
    """Add a row to the report that the test fills in; a test that does not reach its end has failed."""
    area, fault = request.node.get_closest_marker("fault").args
    row = Row(area, fault)
    request.config.stash[ROWS].append(row)
    return row


@pytest.fixture
def robot(shared_robot, graph):
    """Yield the shared robot, reset for a test; afterwards check that every instruction has its answer."""
    shared_robot.begin()
    yield shared_robot
    if shared_robot.process in graph.processes:  # the last test ends it
        shared_robot.process.check()
    shared_robot.settle()
