"""The life of a `perception` process: with a missing, damaged, repaired model; up, down, and its end."""

from __future__ import annotations

import shutil
import signal

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from ros_graph import START_TIMEOUT, TIMEOUT, Conversation, ForkedNode, Graph

from lens_ros.ros.command_line import UNUSABLE
from lens_ros.ros.driver import (
    ACTIVATE,
    ACTIVE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    INACTIVE,
    UNCONFIGURED,
    NodeProcess,
)
from lens_ros.srv import SetInstruction


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a folder that tests damage and repair."""
    return tmp_path_factory.mktemp("model") / "mine"


@pytest.fixture(scope="module")
def perception(graph, model) -> NodeProcess:
    return graph.launch("perception", {"model": str(model), "max_new_tokens": 16})


def configure(graph: Graph) -> bool:
    return graph.change_state("perception", CONFIGURE, START_TIMEOUT)


def test_a_missing_model_is_explained_and_the_node_stays_up(graph, perception, model):
    assert not configure(graph)
    line = graph.wait_for_log(perception, "[ERROR]", "cannot configure: no model", str(model))
    assert "parameter model" in line and "then configure the node again" in line
    assert graph.state("perception") == UNCONFIGURED


@pytest.mark.parametrize("damage", ["without weights", "truncated", "rubbish", "other shapes"])
def test_damaged_weights_are_explained_and_the_node_stays_up(damage, graph, perception, model, checkpoint):
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(checkpoint, model)
    weights = model / "model.safetensors"
    if damage == "without weights":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "rubbish":
        weights.write_bytes(b"\x00" * 5000)
    else:
        config = model / "config.json"
        config.write_text(config.read_text().replace('"hidden_size": 192', '"hidden_size": 96'))
    before = len(perception.log)
    assert not configure(graph)
    graph.wait_until(lambda: "cannot configure" in perception.log[before:], TIMEOUT, "an error in the log")
    said = perception.log[before:]
    assert str(model) in said and "Traceback" not in said
    assert said.count("[ERROR]") == 1
    assert graph.state("perception") == UNCONFIGURED


def test_after_the_repair_the_same_process_is_configured(graph, perception, model, checkpoint):
    shutil.rmtree(model)
    shutil.copytree(checkpoint, model)
    assert configure(graph)
    assert graph.state("perception") == INACTIVE


def test_while_inactive_instructions_are_refused_aloud(graph, perception):
    conversation = Conversation(graph)
    assert conversation.images is not None
    graph.wait_until(conversation.instructions.get_subscription_count, TIMEOUT, "a subscription")
    conversation.say("too early")
    graph.wait_for_log(perception, "'too early' ignored: the node is inactive; activate it")
    response = graph.call(
        SetInstruction, "perception/set_instruction", SetInstruction.Request(instruction="too early"), TIMEOUT
    )
    assert not response.success and "activate it first" in response.message
    assert conversation.images.get_subscription_count() == 0  # no images are received for nothing


def test_what_is_read_at_configuring_cannot_be_changed_later(graph, perception):
    refused = graph.set_parameter("perception", "model", "other")
    assert not refused.successful and "clean up the node" in refused.reason
    assert graph.set_parameter("perception", "max_new_tokens", 24).successful


def test_up_and_down_and_up_again(graph, perception, checkpoint):
    for round in range(2):
        assert graph.change_state("perception", ACTIVATE)
        assert graph.state("perception") == ACTIVE
        conversation = Conversation(graph)
        conversation.wait_until_heard()
        conversation.assert_it_works(f"round {round}")
        conversation.say("an instruction that has to wait forever")
        assert graph.change_state("perception", DEACTIVATE)
        assert graph.state("perception") == INACTIVE
    assert graph.change_state("perception", CLEANUP)
    assert graph.state("perception") == UNCONFIGURED
    topics = dict(graph.node.get_topic_names_and_types())
    graph.wait_until(lambda: not graph.node.count_publishers("segmentation"), TIMEOUT, "closed publishers")
    assert "/segmentation" in topics  # our own subscriptions
    assert graph.set_parameter("perception", "model", str(checkpoint)).successful
    assert configure(graph)
    assert graph.change_state("perception", ACTIVATE)
    conversation = Conversation(graph)
    conversation.wait_until_heard()
    conversation.assert_it_works("after the cleanup")


def test_deactivating_interrupts_and_answers_what_is_in_progress(graph, perception):
    conversation = Conversation(graph)
    conversation.wait_until_heard()
    assert graph.set_parameter("perception", "max_new_tokens", 900).successful
    conversation.send_image()
    conversation.say("a long story")
    graph.wait_until(lambda: conversation.of("reasoning", "a long story"), TIMEOUT, "reasoning")
    assert graph.change_state("perception", DEACTIVATE)
    answer = conversation.wait_for_answer("a long story")
    assert answer.reason == "the node was deactivated"


def test_it_ends_by_sigterm_without_complaint(graph, perception):
    """This test must be the last one with the process that all tests before it share."""
    assert graph.change_state("perception", ACTIVATE)
    assert graph.stop(perception, signal.SIGTERM, START_TIMEOUT) == 0
    assert "Traceback" not in perception.log


def test_it_ends_by_sigint_as_by_sigterm(graph):
    """The process is started as a user does; tests/faults/test_signals.py tests SIGTERM in every state."""
    process = graph.launch("perception", {}, kind=NodeProcess)
    graph.state("perception")  # it is up
    assert graph.stop(process, signal.SIGINT, START_TIMEOUT) == 0
    assert "Traceback" not in process.log


def test_an_unusable_parameter_ends_the_process_with_an_explanation(graph):
    process = graph.launch("perception", {"image_transport": "theora"})
    graph.processes.remove(process)
    assert process.wait(START_TIMEOUT) == UNUSABLE
    assert "'image_transport' is 'theora'; expected one of raw, compressed" in process.log
    assert "Traceback" not in process.log


def test_a_signal_ends_it_although_the_first_interruption_of_its_loading_is_lost(graph, checkpoint, tmp_path):
    process = ForkedNode(
        "tests.nodes.endless_loading", tmp_path / "log", parameters={"model": str(checkpoint)}
    )
    client = graph.node.create_client(ChangeState, "perception/change_state")
    with process:
        graph.state("perception")  # it is up
        graph.wait_until(client.service_is_ready, TIMEOUT, "the service")
        client.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))
        graph.spin(0.3)
        assert process.stop(signal.SIGTERM, START_TIMEOUT) == 0
    assert "lost: Interrupted" in process.log and "Traceback" not in process.log
    assert "not configured: the node is ending" in process.log  # not given up, endpoints left behind
    graph.node.destroy_client(client)


def test_a_node_with_autostart_is_active_without_being_asked(graph, checkpoint):
    process = graph.launch(
        "perception", {"model": str(checkpoint), "autostart": True}, remappings={"__node": "eager"}
    )
    graph.wait_for_log(process, "active: images from")
    assert graph.state("eager") == ACTIVE
    assert graph.change_state("eager", DEACTIVATE) and graph.change_state("eager", ACTIVATE)
    assert graph.stop(process, signal.SIGTERM) == 0


def test_a_node_whose_autostart_fails_stays_up_and_can_be_configured(graph, tmp_path, checkpoint):
    model = tmp_path / "late"
    process = graph.launch(
        "perception", {"model": str(model), "autostart": True}, remappings={"__node": "early"}
    )
    graph.wait_for_log(process, "[ERROR]", "cannot configure: no model", str(model))
    assert graph.state("early") == UNCONFIGURED
    shutil.copytree(checkpoint, model)
    assert graph.change_state("early", CONFIGURE, START_TIMEOUT) and graph.change_state("early", ACTIVATE)
    assert graph.stop(process, signal.SIGTERM) == 0


def test_what_it_is_configured_with_cannot_be_changed_while_it_starts_by_itself(graph, checkpoint, tmp_path):
    parameters = {"model": str(checkpoint), "autostart": True}
    process = ForkedNode(
        "tests.nodes.endless_loading", tmp_path / "log", parameters=parameters, remappings={"__node": "busy"}
    )
    with process:
        graph.wait_for_log(process, "loading model")
        refused = graph.set_parameter("busy", "model", "other")
        assert not refused.successful and "is read when the node is configured" in refused.reason
        assert graph.set_parameter("busy", "max_new_tokens", 24).successful
        assert process.stop(signal.SIGTERM, START_TIMEOUT) == 0


def test_a_node_that_starts_by_itself_can_be_ended_meanwhile(graph, checkpoint):
    process = graph.launch(
        "perception", {"model": str(checkpoint), "autostart": True}, remappings={"__node": "short"}
    )
    graph.wait_for_log(process, "loading model")
    assert graph.stop(process, signal.SIGTERM) == 0
    assert "Traceback" not in process.log
