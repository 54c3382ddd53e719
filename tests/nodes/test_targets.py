"""Several active instructions, over real messages: ids, one answer each per image, switches, limits."""

from __future__ import annotations

import numpy as np
import pytest
from finder import OWN_THRESHOLD
from rclpy.parameter import Parameter
from ros_graph import TIMEOUT
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool, Trigger

from lens_ros.ros import conversions
from lens_ros.srv import SetInstruction

Request = SetInstruction.Request


@pytest.fixture
def call(graph):
    def call(operation: int, **fields) -> SetInstruction.Response:
        request = Request(operation=operation, **fields)
        return graph.call(SetInstruction, "perception/set_instruction", request, TIMEOUT)

    return call


def image_until(graph, conversation, condition, what: str) -> None:
    """Send images until the condition is true."""

    def come() -> object:
        conversation.send_image()
        graph.spin(0.05)
        return condition()

    graph.wait_until(come, TIMEOUT, what)


def test_each_target_is_answered_once_about_the_same_image(graph, make_node, finder, conversation, call):
    make_node()
    conversation.wait_until_heard()
    added = [call(Request.ADD, instruction=f"mug {number}") for number in range(3)]
    assert [each.message for each in added] == ["added"] * 3
    ids = [each.target_id for each in added]
    assert len(set(ids)) == 3 and min(ids) > 0
    listed = call(Request.LIST)
    assert list(listed.target_ids) == ids and listed.instructions == ["mug 0", "mug 1", "mug 2"]
    image = conversation.send_image()
    graph.wait_until(lambda: len(conversation.of("segmentation")) >= 3, TIMEOUT, "three answers")
    graph.spin(0.3)
    answers = conversation.of("segmentation")
    assert [answer.target_id for answer in answers] == ids
    assert all(answer.header == image.header for answer in answers)
    assert finder.asked == [(["mug 0", "mug 1", "mug 2"], None)]
    numbers = [instance.id for answer in answers for instance in answer.instances]
    assert len(set(numbers)) == len(numbers) == 6 and 0 not in numbers
    assert len(conversation.of("mask")) == 1  # of all three


def test_objects_keep_their_ids_and_reset_gives_new_ones(graph, make_node, conversation, call):
    make_node(reasoner_interval_s=0.01)
    conversation.wait_until_heard()
    call(Request.SET, instruction="the mug")
    image_until(graph, conversation, lambda: len(conversation.of("segmentation")) >= 3, "answers")
    answers = conversation.of("segmentation")
    ids = {tuple(instance.id for instance in answer.instances) for answer in answers}
    assert len(ids) == 1
    done = graph.call(Trigger, "perception/reset_tracking", Trigger.Request(), TIMEOUT)
    assert done.success and "1 active instruction" in done.message
    conversation.received.clear()
    image_until(graph, conversation, lambda: conversation.of("segmentation"), "an answer")
    new = {instance.id for instance in conversation.of("segmentation")[-1].instances}
    assert new.isdisjoint(*ids)


def test_a_reset_asks_again_without_an_interval(graph, make_node, finder, conversation, call):
    make_node()
    conversation.wait_until_heard()
    call(Request.SET, instruction="the mug")
    image_until(graph, conversation, lambda: conversation.of("segmentation"), "an answer")
    graph.call(Trigger, "perception/reset_tracking", Trigger.Request(), TIMEOUT)
    image_until(graph, conversation, lambda: len(conversation.of("segmentation")) == 2, "another answer")
    assert len(finder.asked) == 2


def test_adding_while_the_model_works_loses_nothing(graph, make_node, finder, conversation, call):
    make_node()
    conversation.wait_until_heard()
    first = call(Request.SET, instruction="the mug, slowly")
    image_until(graph, conversation, lambda: conversation.of("reasoning"), "reasoning")
    second = call(Request.ADD, instruction="the left mug")
    assert list(second.target_ids) == [first.target_id, second.target_id]
    finder.go_on.set()
    graph.wait_until(lambda: len(conversation.of("segmentation")) == 2, TIMEOUT, "both answers")
    one, two = conversation.of("segmentation")
    assert (one.target_id, two.target_id) == (first.target_id, second.target_id)
    assert one.instances and two.instances


def test_a_set_instruction_pre_empts_them_all_aloud(graph, make_node, finder, conversation, call):
    make_node()
    conversation.wait_until_heard()
    call(Request.SET, instruction="the mug, slowly")
    call(Request.ADD, instruction="the bowl")
    image_until(graph, conversation, lambda: conversation.of("reasoning"), "reasoning")
    conversation.say("the spoon")  # the topic behaves as SET
    answer = conversation.wait_for_answer("the spoon", with_images=True)
    assert answer.instances
    for replaced in ("the mug, slowly", "the bowl"):
        (told,) = conversation.of("segmentation", replaced)
        assert told.reason == "replaced by a newer instruction: 'the spoon'"
    assert call(Request.LIST).instructions == ["the spoon"]


def test_the_limit_of_targets_is_explained(graph, make_node, call):
    node = make_node(max_targets=2)
    assert call(Request.ADD, instruction="one").success and call(Request.ADD, instruction="two").success
    refused = call(Request.ADD, instruction="three")
    assert not refused.success and refused.target_id == 0
    assert "2 instructions are active" in refused.message and "max_targets" in refused.message
    assert refused.instructions == ["one", "two"]
    assert len(node.scheduler().targets) == 2


def test_disabled_it_ignores_the_camera_and_keeps_its_instructions(graph, make_node, conversation, call):
    make_node()
    conversation.wait_until_heard()
    done = graph.call(SetBool, "perception/enable", SetBool.Request(data=False), TIMEOUT)
    assert done.success
    graph.wait_until(lambda: not conversation.images.get_subscription_count(), TIMEOUT, "no subscription")
    kept = call(Request.SET, instruction="the mug")
    done = graph.call(SetBool, "perception/enable", SetBool.Request(data=True), TIMEOUT)
    assert done.success and "1 active instruction" in done.message
    graph.call(SetBool, "perception/enable", SetBool.Request(data=True), TIMEOUT)  # twice does no harm
    conversation.wait_until_heard()
    assert conversation.wait_for_answer("the mug", with_images=True).target_id == kept.target_id


@pytest.mark.parametrize(("think", "passed"), [("auto", None), ("always", True), ("never", False)])
def test_how_to_think_is_a_parameter(think, passed, make_node, finder, conversation):
    make_node(think=think)
    conversation.wait_until_heard()
    conversation.ask("the mug")
    assert finder.asked[-1][1] is passed


def test_the_score_decides(graph, make_node, conversation):
    make_node(score_threshold=0.95)
    conversation.wait_until_heard()
    answer = conversation.ask("the mug")
    assert answer.score_threshold == pytest.approx(0.95)
    assert "its score 0.90 is below the score_threshold 0.95" in answer.reason
    assert all(instance.rejected for instance in answer.instances)
    graph.wait_until(lambda: conversation.of("mask"), TIMEOUT, "a mask")
    assert max(conversation.of("mask")[-1].data) == 0


def test_the_threshold_is_the_models_own_until_it_is_set_and_checked_when_it_is(
    graph, make_node, conversation
):
    node = make_node()
    conversation.wait_until_heard()

    def told(instruction: str) -> tuple[float, int]:
        answer = conversation.ask(instruction)
        return answer.score_threshold, sum(not instance.rejected for instance in answer.instances)

    def change(value: float) -> str:
        return node.set_parameters([Parameter("score_threshold", value=value)])[0].reason

    assert told("one") == (pytest.approx(OWN_THRESHOLD), 1)
    assert change(0.95) == "" and told("two") == (pytest.approx(0.95), 0)
    assert change(0.0) == "" and told("three") == (0.0, 1)
    for value in (1.5, -1.5, float("nan")):
        assert "score_threshold" in change(value)
    assert told("four") == (0.0, 1)
    assert change(-1.0) == "" and told("five") == (pytest.approx(OWN_THRESHOLD), 1)


def test_old_images_are_not_used_and_one_line_says_so(graph, make_node, finder, conversation, capfd):
    node = make_node(max_image_age_ms=1000)
    conversation.wait_until_heard()
    conversation.say("the mug")
    for _ in range(5):
        conversation.send_image()  # of the year 1970
        graph.spin(0.05)
    said = capfd.readouterr().err
    assert said.count("ms old by its stamp") == 1 and "max_image_age_ms" in said
    assert not finder.asked
    header = Image().header
    header.stamp = node.get_clock().now().to_msg()
    conversation.send_image(header=header)
    answer = conversation.wait_for_answer("the mug")
    assert answer.header == header


PICTURES = {"mask": Image, "labels": Image, "overlay": Image, "overlay/compressed": CompressedImage}


def test_pictures_are_one_per_image_over_all_targets(graph, make_node, conversation, call):
    node = make_node()
    received: dict[str, list] = {topic: [] for topic in PICTURES}
    subscriptions = [
        graph.node.create_subscription(kind, topic, received[topic].append, 5)
        for topic, kind in PICTURES.items()
    ]
    conversation.wait_until_heard()
    pictures = node._answers._pictures
    publishers = (pictures._masks, pictures._labels, pictures._overlays, pictures._compressed_overlays)
    graph.wait_until(lambda: all(p.get_subscription_count() for p in publishers), TIMEOUT, "matches")
    call(Request.SET, instruction="the mug")
    call(Request.ADD, instruction="the left mug")
    image = conversation.send_image()
    graph.wait_until(lambda: all(received.values()), TIMEOUT, "pictures")
    graph.spin(0.2)
    assert {topic: len(messages) for topic, messages in received.items()} == dict.fromkeys(PICTURES, 1)
    assert all(messages[0].header == image.header for messages in received.values())
    mask, labels = received["mask"][0], received["labels"][0]
    assert (labels.encoding, labels.width, labels.step) == ("mono16", 96, 192)
    numbers = np.frombuffer(labels.data, "<u2").reshape(64, 96)
    union = np.frombuffer(mask.data, np.uint8).reshape(64, 96) > 0
    np.testing.assert_array_equal(numbers > 0, union)
    answers = conversation.of("segmentation")
    accepted = {i.id: i for answer in answers for i in answer.instances if not i.rejected}
    assert set(np.unique(numbers)) == {0, *accepted}
    for number, instance in accepted.items():
        assert (numbers == number).sum() > 0
        assert not (numbers == number)[~conversions.decode_mask(instance.mask)].any()
    drawn = conversions.compressed_to_rgb(received["overlay/compressed"][0])
    assert drawn.shape == (64, 96, 3)
    for subscription in subscriptions:
        graph.node.destroy_subscription(subscription)
