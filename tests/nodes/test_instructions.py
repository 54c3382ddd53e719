"""Instructions that are published repeatedly, or before the node exists, over DDS."""

from __future__ import annotations

import pytest
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from ros_graph import TIMEOUT
from std_msgs.msg import String

from lens_ros.ros.driver import ACTIVATE, DEACTIVATE
from lens_ros.srv import SetInstruction

KEEPING = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture
def keeper(graph):
    """Yield a publisher that keeps its last instruction for late subscribers."""
    publisher = graph.node.create_publisher(String, "instruction", KEEPING)
    yield publisher
    graph.node.destroy_publisher(publisher)


def answers(conversation, instruction):
    return conversation.of("segmentation", instruction)


def test_an_instruction_that_is_repeated_all_the_time_is_answered_once(
    graph, make_node, finder, conversation
):
    make_node()
    conversation.wait_until_heard()
    for number in range(20):
        conversation.say(" slowly,  red mug\n" if number % 2 else "slowly, red mug")
        graph.spin(0.02)
        conversation.send_image()
    finder.go_on.set()
    conversation.wait_for_answer("slowly, red mug", with_images=True)
    for _ in range(5):  # after the answer as well
        conversation.say("slowly, red mug")
        conversation.send_image()
        graph.spin(0.1)
    (answer,) = conversation.of("segmentation")
    assert answer.tokens > 0 and len(finder.asked) == 1
    conversation.assert_it_works("another mug")
    assert len({answer.target_id for answer in conversation.of("segmentation")}) == 2


def test_a_new_instruction_pre_empts_one_that_is_repeated(graph, make_node, finder, conversation):
    make_node()
    conversation.wait_until_heard()
    for instruction in ("slowly one", "slowly one", "two"):
        conversation.say(instruction)
        graph.wait_until(lambda: finder.asked or not conversation.send_image(), TIMEOUT, "the model at work")
    assert conversation.wait_for_answer("two", with_images=True).tokens > 0
    (pre_empted,) = answers(conversation, "slowly one")
    assert "replaced by a newer instruction: 'two'" in pre_empted.reason


def test_the_same_beside_another_one_becomes_the_only_one(graph, make_node, conversation):
    node = make_node()
    conversation.wait_until_heard()
    conversation.ask("red mug")
    request = SetInstruction.Request(operation=SetInstruction.Request.ADD, instruction="blue mug")
    assert graph.call(SetInstruction, "perception/set_instruction", request, TIMEOUT).success
    conversation.say("red mug")
    graph.wait_until(lambda: len(node.scheduler().targets) == 1, TIMEOUT, "one instruction")
    assert node.scheduler().targets[0].instruction == "red mug"


def test_set_again_before_the_answer_keeps_the_id(graph, make_node, conversation):
    make_node()
    request = SetInstruction.Request(operation=SetInstruction.Request.SET, instruction="red mug")
    ids = [
        graph.call(SetInstruction, "perception/set_instruction", request, TIMEOUT).target_id for _ in range(3)
    ]
    assert len(set(ids)) == 1
    conversation.wait_until_heard()
    graph.wait_until(
        lambda: answers(conversation, "red mug") or not conversation.send_image(), TIMEOUT, "an answer"
    )
    assert graph.call(SetInstruction, "perception/set_instruction", request, TIMEOUT).target_id != ids[0]


def test_an_instruction_from_before_the_node_is_followed_at_each_activation(
    graph, keeper, make_node, conversation
):
    keeper.publish(String(data="kept mug"))
    node = make_node()
    assert conversation.wait_for_answer("kept mug", with_images=True).tokens > 0
    graph.change_state("perception", DEACTIVATE, TIMEOUT)
    graph.change_state("perception", ACTIVATE, TIMEOUT)
    graph.wait_until(lambda: node.scheduler().targets, TIMEOUT, "the kept instruction")
    assert [target.instruction for target in node.scheduler().targets] == ["kept mug"]


def test_what_is_kept_and_heard_comes_once_and_other_publishers_still_match(
    graph, keeper, make_node, finder, conversation
):
    node = make_node()
    conversation.wait_until_heard()
    graph.wait_until(lambda: keeper.get_subscription_count() == 2, TIMEOUT, "both subscriptions")
    keeper.publish(String(data="kept mug"))
    conversation.wait_for_answer("kept mug", with_images=True)
    conversation.assert_it_works("red mug")  # from a volatile publisher
    graph.spin(1.0)
    assert [target.instruction for target in node.scheduler().targets] == ["red mug"]
    assert [texts for texts, _ in finder.asked] == [["kept mug"], ["red mug"]]
    assert len(answers(conversation, "kept mug")) == 1


def test_without_a_publisher_that_keeps_there_is_one_subscription(graph, make_node, conversation):
    make_node()
    conversation.wait_until_heard()
    graph.spin(1.5)
    assert conversation.instructions.get_subscription_count() == 1
