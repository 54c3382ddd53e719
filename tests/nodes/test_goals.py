"""The action `~/segment_instruction` over real messages: progress, cancellation, queues, refusals."""

from __future__ import annotations

import threading

import pytest
import rclpy
from action_client import STAGES, Client, Feedback
from action_msgs.msg import GoalStatus
from finder import TOKENS
from ros_graph import TIMEOUT
from std_srvs.srv import SetBool

from lens_ros.nodes.perception import goals


def test_a_goal_tells_its_stages_and_streams_its_reasoning(make_node, finder, client, image):
    make_node(reasoning_rate_hz=0.0)
    asked = client.ask("the mug with late masks", image)
    asked.wait_for_stage(Feedback.DECODING)  # what comes after the result, rclpy's client drops
    finder.go_on.set()
    result = asked.wait()
    assert asked.status == GoalStatus.STATUS_SUCCEEDED
    assert result.success and result.message == ""
    assert result.segmentation.header == image.header and result.segmentation.target_id == 0
    assert result.segmentation.instruction == "the mug with late masks"
    assert len(result.segmentation.instances) == 2
    assert asked.stages == [stage for stage in STAGES if stage in asked.stages]  # in order
    assert asked.stages[-1] == Feedback.DECODING and Feedback.REASONING in asked.stages
    progress = [feedback.progress for feedback in asked.feedback]
    assert progress == sorted(progress) and 0.0 <= progress[0] and progress[-1] <= 1.0
    texts = [feedback.partial_reasoning for feedback in asked.feedback]
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert asked.feedback[-1].tokens == TOKENS


def test_the_next_camera_image_is_used_when_asked_for(graph, make_node, client, conversation):
    make_node()
    conversation.wait_until_heard()
    old = conversation.send_image()
    graph.spin(0.3)
    asked = client.ask("the mug")
    asked.wait_for_stage(Feedback.WAITING)
    graph.spin(0.3)
    assert asked.result is None
    image = conversation.send_image()
    assert asked.wait().segmentation.header == image.header != old.header
    assert not conversation.of("segmentation")  # a goal's answer goes to its client alone


def test_images_do_not_stay_with_the_results(make_node, client, image):
    node = make_node()
    assert client.ask("the mug", image).wait().success
    assert not client.ask("", image).wait().success  # refused
    node.trigger_deactivate()
    assert not client.ask("the mug", image).wait().success
    kept = [handle.request for handle in node._goals._server._goal_handles.values()]
    assert len(image.data) > 0 and [len(request.image.data) for request in kept] == [0, 0, 0]


def test_who_comes_at_the_very_end_is_rejected_while_others_get_their_results(
    make_node, finder, client, image, monkeypatch
):
    monkeypatch.setattr(goals, "RESPONSE_GRACE_S", TIMEOUT)
    node = make_node()
    assert client.ask("the mug", image).wait().success
    draining = threading.Thread(target=node._goals.drain, args=(TIMEOUT,), daemon=True)
    draining.start()
    while not node._goals._ending:
        pass
    late = client.ask("the bowl", image)
    client.graph.wait_until(lambda: late.handle, TIMEOUT, "an answer to the goal")
    assert not late.handle.accepted and draining.is_alive()
    assert len(finder.asked) == 1
    node._goals._concluded_at = float("-inf")  # for the end of the node


def test_cancelling_while_it_waits_for_an_image(graph, make_node, client):
    make_node()
    asked = client.ask("the mug")
    asked.wait_for_stage(Feedback.WAITING)
    asked.cancel()
    result = asked.wait()
    assert asked.status == GoalStatus.STATUS_CANCELED
    assert not result.success and result.message == "cancelled by its client"


def test_cancelling_while_it_waits_for_another_goal(graph, make_node, finder, client, image):
    make_node()
    first = client.ask("the mug, slowly", image)
    first.wait_for_stage(Feedback.REASONING)
    second = client.ask("the bowl", image)
    second.wait_for_stage(Feedback.WAITING)
    second.cancel()
    second.wait()
    assert second.status == GoalStatus.STATUS_CANCELED and first.result is None
    finder.go_on.set()
    assert first.wait().success
    assert [asked for asked, _ in finder.asked] == [["the mug, slowly"]]


def test_cancelling_while_it_encodes_the_image(make_node, finder, client, image):
    make_node()
    asked = client.ask("the mug, blinking", image)
    asked.wait_for_stage(Feedback.ENCODING)
    asked.cancel()
    asked.wait()
    assert asked.status == GoalStatus.STATUS_CANCELED  # although the model is still busy
    assert Feedback.REASONING not in asked.stages
    finder.go_on.set()
    assert client.ask("the bowl", image).wait().success


def test_cancelling_while_it_reasons_stops_the_model(graph, make_node, finder, client, image):
    node = make_node()
    asked = client.ask("the mug, slowly", image)
    asked.wait_for_stage(Feedback.REASONING)
    asked.cancel()
    asked.wait()
    assert asked.status == GoalStatus.STATUS_CANCELED
    assert not finder.go_on.is_set()
    assert client.ask("the bowl", image).wait().success  # the model is free although nobody let it go on
    assert node.worker() is not None


def test_cancelling_while_it_decodes(make_node, finder, client, image):
    make_node()
    asked = client.ask("the mug with late masks", image)
    asked.wait_for_stage(Feedback.DECODING)
    asked.cancel()
    asked.wait()
    assert asked.status == GoalStatus.STATUS_CANCELED
    finder.go_on.set()
    assert client.ask("the bowl", image).wait().success


def test_eight_clients_at_once(graph, make_node, image):
    make_node()
    nodes = [rclpy.create_node(f"client_{n}", context=graph.context) for n in range(8)]
    clients = []
    for node in nodes:
        graph.executor.add_node(node)
        clients.append(Client(graph, node))
    asked = [client.ask(f"mug {number}", image) for number, client in enumerate(clients)]
    results = [each.wait() for each in asked]
    assert all(result.success for result in results)
    assert [result.segmentation.instruction for result in results] == [f"mug {n}" for n in range(8)]
    for client, node in zip(clients, nodes, strict=True):
        client.client.destroy()
        graph.executor.remove_node(node)
        node.destroy_node()


def test_goals_for_the_next_image_share_the_work(graph, make_node, finder, client, conversation):
    make_node()
    conversation.wait_until_heard()
    asked = [client.ask(f"mug {number}") for number in range(8)]
    for each in asked:
        each.wait_for_stage(Feedback.WAITING)
    conversation.send_image()
    assert all(each.wait().success for each in asked)
    assert len(finder.asked) == 1 and len(finder.asked[0][0]) == 8


@pytest.mark.parametrize(
    ("instruction", "changes", "said"),
    [
        ("", {}, "the instruction is empty"),
        ("the mug", {"encoding": "rgb9"}, "expected one of rgb8"),
        ("the mug", {"height": 8, "width": 8, "step": 24}, "the image is 8x8 pixels"),
        ("it breaks", {}, "RuntimeError: a kernel failed"),
    ],
)
def test_what_cannot_be_served_is_aborted_with_the_reason(
    instruction, changes, said, make_node, client, conversation
):
    make_node()
    asked = client.ask(instruction, conversation.send_image(**changes))
    result = asked.wait()
    assert asked.status == GoalStatus.STATUS_ABORTED
    assert not result.success and said in result.message
    assert result.segmentation.instruction == ""


def test_disabling_aborts_those_that_wait_for_the_camera(graph, make_node, client, image):
    make_node()
    asked = client.ask("the mug")
    asked.wait_for_stage(Feedback.WAITING)
    graph.call(SetBool, "perception/enable", SetBool.Request(data=False), TIMEOUT)
    assert "disabled" in asked.wait().message and asked.status == GoalStatus.STATUS_ABORTED
    assert "~/enable" in client.ask("the mug").wait().message
    assert client.ask("the mug", image).wait().success
