"""Goals when the node is deactivated, shut down, or ended by a signal, with real processes."""

from __future__ import annotations

import signal

import pytest
from action_client import Asked, Client, Feedback
from action_msgs.msg import GoalStatus
from ros_graph import START_TIMEOUT, TIMEOUT
from sensor_msgs.msg import Image

from lens_ros.ros.driver import CLEANUP, DEACTIVATE, SHUTDOWN


@pytest.fixture(scope="module")
def perception(graph, checkpoint):
    """Start a process with a model that reasons for a long time."""
    process = graph.launch("perception", {"model": str(checkpoint), "max_new_tokens": 4000})
    graph.bring_up()
    return process


def hold_up(client: Client, image: Image) -> list[Asked]:
    """Send goals that reach every stage: one reasons, one is queued behind it, one waits for the camera."""
    asked = [client.ask("a long story", image)]
    asked[0].wait_for_stage(Feedback.REASONING)
    asked += [client.ask("behind it", image), client.ask("no camera")]
    for each in asked:
        each.wait_for_stage(Feedback.WAITING)
    return asked


def all_aborted(asked: list[Asked], reason: str) -> None:
    for each in asked:
        assert each.wait().message == reason
        assert each.status == GoalStatus.STATUS_ABORTED


def test_no_cancel_request_comes_too_early(graph, perception, client, image):
    for number in range(20):
        asked = client.ask(f"story {number}", image)
        asked.cancel()
        assert asked.wait().message == "cancelled by its client"
        assert asked.status == GoalStatus.STATUS_CANCELED


def test_deactivating_aborts_every_goal_with_the_reason(graph, perception, client, image):
    asked = hold_up(client, image)
    assert graph.change_state("perception", DEACTIVATE)
    all_aborted(asked, "the node was deactivated")
    refused = client.ask("too early", image)
    assert refused.wait().message == "the node is inactive; activate it first"
    assert graph.change_state("perception", CLEANUP)
    graph.wait_until(lambda: not client.client.server_is_ready(), TIMEOUT, "the end of the server")


def test_shutting_down_aborts_every_goal_with_the_reason(graph, perception, client, image):
    graph.bring_up()
    asked = hold_up(client, image)
    assert graph.change_state("perception", SHUTDOWN)
    all_aborted(asked, "the node was shut down")
    assert graph.stop(perception, signal.SIGTERM, START_TIMEOUT) == 0


def test_a_signal_aborts_every_goal_with_the_reason(graph, checkpoint, client, image):
    process = graph.launch("perception", {"model": str(checkpoint), "max_new_tokens": 4000})
    graph.bring_up()
    asked = hold_up(client, image)
    graph.processes.remove(process)
    process.send(signal.SIGTERM)
    all_aborted(asked, "the node is ending")
    assert process.wait(START_TIMEOUT) == 0
    assert "Traceback" not in process.log
