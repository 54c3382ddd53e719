"""Failing models: an exception in the network, too little memory, one bad instruction among good ones."""

from __future__ import annotations

import signal

import pytest
from action_client import Client
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from ros_graph import START_TIMEOUT, TIMEOUT, Graph

from lens_ros.ros.driver import DEACTIVATE, SHUTDOWN
from lens_ros.srv import SetInstruction

from .report import Row
from .robot import QUESTION, Robot, launch

AREA = "The model"


def case(name: str, fault: str, reason: str):
    return pytest.param(fault, reason, marks=pytest.mark.fault(AREA, name), id=name)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        case("exception in the network", "crash", "mat1 and mat2 shapes cannot be multiplied"),
        case("MemoryError in the network", "memory", "MemoryError"),
        case("out of GPU memory (torch's allocator)", "gpu memory", "CUDA out of memory"),
    ],
)
def test_a_failing_model_costs_one_answer(fault, reason, robot: Robot, row: Row):
    failed = robot.counter("answers", "failed")
    answer = robot.ask(f"{fault}: {QUESTION}")
    assert reason in answer.reason and not answer.instances
    row.said = robot.hears("[ERROR]", f"'{fault}: {QUESTION}' failed", reason)
    row.diagnostics = robot.diagnosed("answers", "WARN", reason)
    robot.counted("answers", "failed", failed)
    goal = Client(robot.graph).ask(f"{fault}: {QUESTION}", robot.image())
    assert reason in goal.wait().message and goal.status == GoalStatus.STATUS_ABORTED
    robot.works(row)
    row.held("answered with the reason, the goal is aborted; the next instruction is answered")


@pytest.mark.fault(AREA, "one of three instructions crashes the network")
def test_one_bad_instruction_costs_the_others_nothing(robot: Robot, row: Row):
    texts = [QUESTION, f"crash: {QUESTION}", "the white mug"]
    before = [len(robot.of(text)) for text in texts]
    failed = robot.counter("answers", "failed")
    for text in texts:
        kinds = SetInstruction.Request
        operation = kinds.SET if text is texts[0] else kinds.ADD
        request = kinds(operation=operation, instruction=text)
        assert robot.graph.call(SetInstruction, "perception/set_instruction", request, TIMEOUT).success
        robot.said[text] += 1
    robot.wait_until(
        lambda: all(len(robot.of(text)) > n for text, n in zip(texts, before, strict=True)),
        "three answers",
        robot.image,
    )
    answers = [robot.of(text)[n] for text, n in zip(texts, before, strict=True)]
    assert [bool(answer.instances) for answer in answers] == [True, False, True]
    row.said = robot.hears("[ERROR]", "failed: RuntimeError")
    row.diagnostics = robot.diagnosed("answers", "WARN", "failed: RuntimeError", robot.image)
    robot.counted("answers", "failed", failed)
    robot.works(row)
    robot.diagnosed("answers", "OK", "no trouble")
    row.held("the others are answered; the warning ends with the instruction")


@pytest.fixture
def hanging(graph: Graph, demo_image, row: Row):
    """Yield a separate robot whose model hangs, with a goal and an instruction that wait."""
    process = launch(
        graph,
        "faults.faulty_perception",
        "hanging",
        {"model": "lens-nano"},
        remappings={"__ns": "/hanging"},
    )
    robot = Robot(graph, process, demo_image, "/hanging/perception")
    robot.bring_up()
    robot.works()
    robot.begin()
    robot.say(f"hang: {QUESTION}")
    row.diagnostics = robot.diagnosed("answers", "WARN", "no sign of life", robot.image)
    row.own_process = True
    waiting = Client(graph, server="/hanging/perception").ask(QUESTION, robot.image())
    waiting.wait_for_stage("waiting")
    yield robot, waiting
    robot.close()
    if process in graph.processes:
        graph.stop(process, signal.SIGTERM, START_TIMEOUT)


@pytest.mark.fault(AREA, "a model that hangs for ever, deactivated")
def test_a_model_that_hangs_is_given_up_when_the_node_is_deactivated(hanging, row: Row):
    robot, waiting = hanging
    assert not robot.graph.change_state(robot.name, DEACTIVATE, START_TIMEOUT)
    assert waiting.wait().message == "the node was deactivated"
    robot.settle()
    assert robot.of(f"hang: {QUESTION}")[0].reason == "the node was deactivated"
    row.said = robot.hears("[ERROR]", "the model did not let go within 1 s", "in wait")
    robot.diagnosed("state", "ERROR", "unconfigured: the model did not let go")
    robot.bring_up()
    robot.works(row)
    row.held("instruction and goal are answered with the reason; configured again, the node works")


@pytest.mark.parametrize(
    ("transition", "reason"),
    [
        pytest.param(
            number,
            reason,
            marks=pytest.mark.fault(AREA, f"a model that hangs for ever, {state}, and SIGTERM meanwhile"),
            id=state,
        )
        for state, number, reason in (
            ("deactivating", DEACTIVATE, "the node was deactivated"),
            ("shutting down", SHUTDOWN, "the node was shut down"),
        )
    ],
)
def test_a_model_that_hangs_does_not_keep_a_process_in_transition(transition, reason, hanging, row: Row):
    robot, waiting = hanging
    graph = robot.graph
    client = graph.node.create_client(ChangeState, f"{robot.name}/change_state")
    graph.meet(robot.name, START_TIMEOUT)
    graph.wait_until(client.service_is_ready, START_TIMEOUT, "the service")
    client.call_async(ChangeState.Request(transition=Transition(id=transition)))
    assert waiting.wait().message == reason  # the transition is at the model, and waits for it
    graph.processes.remove(robot.process)  # it may end
    robot.process.send(signal.SIGTERM)
    robot.settle()
    assert robot.of(f"hang: {QUESTION}")[0].reason == reason
    assert robot.process.wait(START_TIMEOUT) == 0
    assert "Traceback" not in robot.process.log
    row.said = robot.hears("[ERROR]", "the model did not let go within 1 s")
    graph.node.destroy_client(client)
    row.held("instruction and goal are answered, then the process ends with exit code 0")


@pytest.mark.fault(AREA, "a model that hangs for ever, and SIGTERM")
def test_a_model_that_hangs_does_not_keep_the_process(hanging, row: Row):
    robot, waiting = hanging
    robot.graph.processes.remove(robot.process)  # it may end
    robot.process.send(signal.SIGTERM)
    assert waiting.wait().message == "the node is ending"
    robot.settle()
    assert robot.process.wait(START_TIMEOUT) == 0
    row.said = robot.hears("[ERROR]", "the model did not let go within 4 s")
    row.held("instruction and goal are answered, then the process ends with exit code 0")


@pytest.mark.fault(AREA, "a library that waits for ever and keeps Python's lock (hang_timeout_s 3)")
def test_a_frozen_process_ends_by_itself(graph: Graph, demo_image, row: Row):
    row.own_process = True
    settings = {"model": "lens-nano", "hang_timeout_s": 3.0}
    process = launch(graph, "faults.faulty_perception", "frozen", settings, remappings={"__ns": "/frozen"})
    robot = Robot(graph, process, demo_image, "/frozen/perception")
    robot.bring_up()
    robot.works()
    robot.say(f"freeze: {QUESTION}")
    graph.processes.remove(process)  # it may end
    assert process.wait(START_TIMEOUT) == 1
    said, threads = process.log.split("Timeout (")
    assert "faulty_perception.py" in threads
    row.said = f"Timeout ({threads.splitlines()[0]}"
    row.held("says where each of its threads is, then ends with exit code 1")
    robot.close()
