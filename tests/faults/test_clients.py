"""Clients that vanish, hang, or send invalid requests."""

from __future__ import annotations

import itertools
import signal

import pytest
from action_client import Client
from ros_graph import TIMEOUT

from lens_ros.ros.driver import NodeProcess

from .report import Row
from .robot import QUESTION, Robot, launch

AREA = "Clients"
_numbers = itertools.count()


def start(robot: Robot, does: str, says: str = "") -> NodeProcess:
    parameters = {"does": does, "says": says}
    return launch(robot.graph, "faults.client_process", f"client_{next(_numbers)}", parameters)


def nobody_waits(robot: Robot) -> str:
    """Wait until no goal is left over."""
    robot.wait_until(
        lambda: robot.counter("state", "waiting goals and requests") == 0, "no more goals", robot.image
    )
    return robot.diagnosed("state", "OK", "active")


@pytest.mark.fault(AREA, "killed (SIGKILL) with a goal in progress")
def test_a_client_that_is_killed_with_a_goal_in_progress(robot: Robot, row: Row):
    client = start(robot, "goal", f"slow: {QUESTION}")
    robot.wait_until(lambda: "in progress" in client.log, "feedback", robot.image)
    waiting = Client(robot.graph).ask(QUESTION, robot.image())
    robot.graph.stop(client, signal.SIGKILL)
    assert waiting.wait().success  # behind the orphan
    row.said = robot.hears(f"goal 'slow: {QUESTION}': answered")
    row.diagnostics = nobody_waits(robot)
    robot.works(row)
    row.held("its goal is finished for nobody, the ones behind it are served")


@pytest.mark.fault(AREA, "cancels and vanishes")
def test_a_client_that_cancels_and_vanishes(robot: Robot, row: Row):
    client = start(robot, "cancel", f"slow: {QUESTION} of the other arm")
    robot.graph.processes.remove(client)  # it may end
    robot.wait_until(lambda: "vanishes" in client.log, "its end", robot.image)
    client.stop()
    row.said = robot.hears(f"goal 'slow: {QUESTION} of the other arm'", "by its client")
    row.diagnostics = nobody_waits(robot)
    robot.works(row)
    row.held("the model lets go of the goal at its next token")


@pytest.mark.fault(AREA, "says an instruction and vanishes")
def test_an_instruction_outlives_who_said_it(robot: Robot, row: Row):
    robot.said["the mug of one who left"] += 1
    client = start(robot, "instruction", "the mug of one who left")
    robot.graph.processes.remove(client)
    assert client.wait(TIMEOUT) == 0
    robot.wait_until(lambda: robot.of("the mug of one who left"), "an answer", robot.image)
    row.said = robot.hears("instruction 'the mug of one who left'")
    row.diagnostics = robot.diagnosed("answers", "OK", "no trouble")
    robot.works(row)
    row.held("it is answered for all who listen")


@pytest.mark.fault(AREA, "a reliable subscriber that reads nothing any more (SIGSTOP)")
def test_a_subscriber_that_hangs_holds_nobody_up(robot: Robot, row: Row):
    client = start(robot, "subscriber")
    robot.wait_until(lambda: robot.graph.node.count_subscribers("overlay"), "its subscriptions")
    robot.works()
    robot.wait_until(lambda: "hears overlay" in client.log, "an image that it hears", robot.image)
    client.send(signal.SIGSTOP)
    answers = robot.counter("answers", "answers")
    for _ in range(4):
        robot.works(row)
    row.said = robot.hears(f"'{QUESTION}': 1 object(s)")
    row.diagnostics = robot.counted("answers", "answers", answers + 2)
    client.send(signal.SIGCONT)
    robot.works()
    robot.graph.stop(client)
    row.held("other subscribers get every answer; it misses what its queue does not hold")


@pytest.mark.fault(AREA, "parameters set to nonsense at run time")
def test_parameters_cannot_be_set_to_nonsense(robot: Robot, row: Row):
    nonsense = {
        "think": "sometimes",
        "max_rate_hz": -1.0,
        "max_targets": 10**9,
        "image_timeout_s": "soon",
        "score_threshold": float("nan"),
        "model": "another",
        "device": "tpu",
    }
    reasons = {}
    for name, value in nonsense.items():
        result = robot.graph.set_parameter("perception", name, value)
        assert not result.successful and result.reason, name
        reasons[name] = result.reason
    assert "expected one of auto, always, never" in reasons["think"]
    assert "clean up the node" in reasons["model"]
    row.said = " / ".join(reasons[name] for name in ("think", "max_rate_hz", "model"))
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    robot.works(row)
    row.held("refused with the reason, the old values stay")
