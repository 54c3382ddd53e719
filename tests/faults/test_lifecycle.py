"""Lifecycle managers that send requests while the node is busy with a transition."""

from __future__ import annotations

import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters
from ros_graph import START_TIMEOUT, TIMEOUT, Graph

from lens_ros.ros.driver import ACTIVATE, CONFIGURE, INACTIVE

from .faulty_perception import SLOW
from .report import Row
from .robot import Robot, launch

AREA = "Lifecycle"
NAME = "/slow/perception"


@pytest.mark.fault(AREA, "asked for its state, its parameters and a second transition while the model loads")
def test_it_answers_while_the_model_loads(graph: Graph, demo_image, tmp_path, row: Row):
    row.own_process = True
    (tmp_path / SLOW).touch()
    settings = {"model": "lens-nano", "engine_cache_dir": str(tmp_path)}
    process = launch(
        graph, "faults.faulty_perception", "slow_loading", settings, remappings={"__ns": "/slow"}
    )
    robot = Robot(graph, process, demo_image, NAME)
    client = graph.node.create_client(ChangeState, f"{NAME}/change_state")
    graph.meet(NAME, START_TIMEOUT)
    graph.wait_until(client.service_is_ready, START_TIMEOUT, "the service")
    loading = client.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))
    robot.hears("loading model 'lens-nano'")

    assert graph.state(NAME) == State.TRANSITION_STATE_CONFIGURING
    request = GetParameters.Request(names=["model"])
    asked = graph.call(GetParameters, f"{NAME}/get_parameters", request, TIMEOUT)
    assert asked.values[0].string_value == "lens-nano"
    assert not graph.set_parameter(NAME, "model", "other").successful
    for transition in (CONFIGURE, ACTIVATE):
        assert not graph.change_state(NAME, transition)
    row.said = robot.hears("[WARN]", "refused: the node is configuring")
    row.diagnostics = robot.diagnosed("state", "OK", "configuring")
    assert not loading.done()

    (tmp_path / SLOW).unlink()
    graph.wait_until(loading.done, START_TIMEOUT, "the end of the transition")
    assert loading.result().success and graph.state(NAME) == INACTIVE
    robot.activate()
    robot.works(row)
    robot.settle()
    robot.close()
    graph.node.destroy_client(client)
    assert graph.stop(process) == 0
    row.held("all are answered at once, the transition with success = false; then it is configured")


@pytest.mark.fault(AREA, "100 transitions that do not start in its state")
def test_transitions_that_do_not_start_here_are_refused(robot: Robot, row: Row):
    for _ in range(100):
        assert not robot.graph.change_state(robot.name, CONFIGURE)
    row.said = robot.hears(
        "[WARN]", f"transition '{CONFIGURE}' refused: it does not start in the state active"
    )
    assert robot.log.count("refused") < 10
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    robot.works(row)
    row.held("each is answered with success = false; one line in the log for many")
