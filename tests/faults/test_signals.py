"""SIGTERM in every state of the lifecycle: the process exits by itself with code 0 and loses nothing."""

from __future__ import annotations

import signal

import pytest
from action_client import Client
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from ros_graph import START_TIMEOUT, ForkedNode, Graph

from lens_ros.ros.driver import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    FINALIZED,
    SHUTDOWN,
    SHUTDOWN_INACTIVE,
    SHUTDOWN_UNCONFIGURED,
    NodeProcess,
)

from .report import Row
from .robot import QUESTION, Robot, launch

AREA = "SIGTERM"
ENDS = "the process ends with exit code 0"


def start(graph: Graph, name: str, kind: type[NodeProcess] = ForkedNode) -> tuple[str, NodeProcess]:
    """Start a process in a separate namespace: one that ends while loading stays in the graph for a while."""
    space = name.replace(" ", "_").replace(",", "")
    process = launch(
        graph,
        "lens_ros.nodes.perception.node",
        space,
        {"model": "lens-nano", "build_engines": False},
        remappings={"__ns": f"/{space}"},
        kind=kind,
    )
    return f"/{space}/perception", process


def end(graph: Graph, process: NodeProcess) -> None:
    assert graph.stop(process, signal.SIGTERM, START_TIMEOUT) == 0
    assert "Traceback" not in process.log and "[ERROR]" not in process.log


def case(name: str, *walk: int):
    return pytest.param(name, walk, marks=pytest.mark.fault(AREA, name), id=name)


@pytest.mark.parametrize(
    ("name", "walk"),
    [
        case("unconfigured"),
        case("inactive", CONFIGURE),
        case("deactivated", CONFIGURE, ACTIVATE, DEACTIVATE),
        case("cleaned up", CONFIGURE, CLEANUP),
        case("finalized, from unconfigured", SHUTDOWN_UNCONFIGURED),
        case("finalized, from inactive", CONFIGURE, SHUTDOWN_INACTIVE),
        case("finalized, from active", CONFIGURE, ACTIVATE, SHUTDOWN),
        case("finalized, after a cleanup", CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP, SHUTDOWN_UNCONFIGURED),
    ],
)
def test_it_ends_in_every_state(name, walk, graph: Graph, row: Row):
    row.own_process = True
    node, process = start(graph, name)
    graph.state(node, START_TIMEOUT)
    for transition in walk:
        assert graph.change_state(node, transition, START_TIMEOUT)
    if name.startswith("finalized"):
        assert graph.state(node) == FINALIZED
        assert not graph.node.count_publishers(f"{node.rpartition('/')[0]}/segmentation")
    end(graph, process)
    row.held(ENDS)


@pytest.mark.fault(AREA, "configuring")
def test_it_ends_while_it_is_configured(graph: Graph, row: Row):
    row.own_process = True
    node, process = start(graph, "configuring", NodeProcess)  # whose imports take seconds
    client = graph.node.create_client(ChangeState, f"{node}/change_state")
    graph.meet(node, START_TIMEOUT)
    graph.wait_until(client.service_is_ready, START_TIMEOUT, "the service")
    client.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))
    graph.spin(0.3)
    end(graph, process)
    # Its endpoints do not outlive it: that would be for the middleware's lease of 20 s.
    graph.wait_until(lambda: not client.service_is_ready(), 15.0, "the end of the service")
    graph.node.destroy_client(client)
    row.held(f"{ENDS}, after 10 s at the latest; its services leave the graph at once")


@pytest.mark.fault(AREA, "cleaning up, while a subscriber that hangs is waited for")
def test_it_ends_while_it_is_cleaned_up(graph: Graph, demo_image, row: Row):
    row.own_process = True
    node, process = start(graph, "cleaning up")
    robot = Robot(graph, process, demo_image, node)
    robot.bring_up()
    space = {"__ns": robot.namespace}
    listener = launch(
        graph, "faults.client_process", "cleaning_up_listener", {"does": "subscriber"}, remappings=space
    )
    topic = f"{robot.namespace}/segmentation"
    robot.wait_until(lambda: graph.node.count_subscribers(topic) == 2, "its subscriptions")
    robot.works()
    robot.wait_until(lambda: "hears segmentation" in listener.log, "an answer that it hears", robot.image)
    listener.send(signal.SIGSTOP)
    robot.works()
    client = graph.node.create_client(ChangeState, f"{node}/change_state")
    robot.deactivate()  # after which the node knows this client as well
    graph.wait_until(client.service_is_ready, START_TIMEOUT, "the service")
    client.call_async(ChangeState.Request(transition=Transition(id=CLEANUP)))
    row.diagnostics = robot.diagnosed("state", "OK", "cleaningup")
    end(graph, process)
    graph.node.destroy_client(client)
    graph.stop(listener, signal.SIGKILL)
    robot.close()
    row.held(ENDS)


@pytest.mark.fault(AREA, "active and reasoning, with a goal and an instruction in progress")
def test_it_answers_what_is_in_progress_before_it_ends(robot: Robot, row: Row):
    """This test must be the last one: it ends the process that all the others shared."""
    client = Client(robot.graph)
    goal = client.ask(f"slow: {QUESTION}", robot.image())
    goal.wait_for_stage("reasoning")
    waiting = client.ask(QUESTION, robot.image())
    robot.wait_until(lambda: waiting.handle, "acceptance")
    robot.say("a mug that it will not look for")
    robot.hears("instruction 'a mug that it will not look for'")
    robot.graph.processes.remove(robot.process)  # it may end
    robot.process.send(signal.SIGTERM)
    reason = "the node is ending"
    assert goal.wait().message == waiting.wait().message == reason
    robot.settle()
    assert robot.of("a mug that it will not look for")[0].reason == reason
    assert robot.process.wait(START_TIMEOUT) == 0
    row.own_process = True
    row.said = reason
    row.held(f"both goals and the instruction are answered, then {ENDS}")
