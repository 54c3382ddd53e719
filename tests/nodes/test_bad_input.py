"""A running `perception` process survives all bad input: one clear message each, then work continues."""

from __future__ import annotations

import array
import signal

import pytest
from ros_graph import START_TIMEOUT, TIMEOUT, Conversation
from sensor_msgs.msg import Image

from lens_ros.msg import Segmentation
from lens_ros.ros.driver import ACTIVE
from lens_ros.srv import Segment, SetInstruction


@pytest.fixture(scope="module")
def perception(graph, checkpoint):
    process = graph.launch(
        "perception",
        {
            "model": str(checkpoint),
            "max_new_tokens": 32,
            "tracking": False,  # each instruction is answered once
            "image_timeout_s": 1.0,
            "log_interval_s": 0.5,
        },
    )
    graph.bring_up()
    return process


@pytest.fixture(scope="module")
def conversation(graph, perception):
    conversation = Conversation(graph)
    conversation.wait_until_heard()
    return conversation


@pytest.fixture(autouse=True)
def fresh(conversation):
    conversation.received.clear()


def test_an_instruction_before_any_image_waits_for_one(graph, perception, conversation):
    conversation.say("the first mug")
    graph.wait_for_log(perception, "'the first mug' waits for the first usable image on /image")
    line = graph.wait_for_log(perception, "[WARN]", "no image on /image for")
    assert "1 publisher(s) there" in line and "config/fastdds.xml" in line  # this test is that publisher
    assert not conversation.of("segmentation")
    image = conversation.send_image()
    answer = conversation.wait_for_answer("the first mug", with_images=True)
    assert answer.header.stamp.sec >= image.header.stamp.sec
    graph.wait_for_log(perception, "images arrive again")


@pytest.mark.parametrize(
    ("name", "changes", "parts"),
    [
        (
            "encoding",
            {"encoding": "rgb9"},
            ["encoding 'rgb9'", "expected one of rgb8", "set the camera driver"],
        ),
        (
            "truncated",
            {"data": array.array("B", bytes(100))},
            ["100 bytes", "expected 18432", "check the publisher"],
        ),
        (
            "zero",
            {"width": 0, "height": 0, "step": 0},
            ["0 x 0 pixels", "at least 1 x 1", "camera driver's log"],
        ),
    ],
)
def test_bad_images_are_reported_and_the_next_good_one_works(
    name, changes, parts, graph, perception, conversation
):
    conversation.send_image(**changes)
    line = graph.wait_for_log(perception, "[WARN]", *parts)
    assert "image on /image is not usable" in line
    conversation.assert_it_works(f"after {name}")


def test_a_flood_of_bad_images_fills_neither_the_log_nor_the_node(graph, perception, conversation):
    sent = 0

    def suppressed() -> bool:
        nonlocal sent
        sent += 1
        conversation.send_image(encoding="flood8")
        return "more like this in between)" in perception.log

    graph.wait_until(suppressed, TIMEOUT, "a line that counts what was not logged")
    conversation.assert_it_works("after the flood")
    assert sent > perception.log.count("flood8") > 0


def test_an_image_too_small_for_the_model_is_reported_when_it_is_used(graph, perception, conversation):
    small = {"height": 8, "width": 8, "step": 24, "data": array.array("B", bytes(192))}
    asked = 0

    def reported() -> bool:
        nonlocal asked
        asked += 1
        conversation.send_image(**small)
        graph.spin(0.1)  # images and instructions are not ordered among each other
        conversation.say(f"in a tiny image {asked}")
        return "the image is 8x8 pixels; each side must have" in perception.log

    graph.wait_until(reported, TIMEOUT, "a line about the tiny image")
    conversation.assert_it_works("after the tiny image")
    answers = {message.instruction for message in conversation.of("segmentation")}
    assert answers >= {f"in a tiny image {number + 1}" for number in range(asked)}  # none is lost


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ("", "the instruction is empty"),
        ("   \n", "the instruction is empty"),
        ("mug " * 2500, "has 9999 characters"),
    ],
)
def test_bad_instructions_are_answered_with_the_reason(instruction, said, graph, perception, conversation):
    conversation.say(instruction)
    answer = conversation.wait_for_answer(instruction[:1000])
    assert said in answer.reason
    assert not answer.instances and answer.target_id == 0 and answer.header.stamp.sec == 0
    last = conversation.of("reasoning", instruction[:1000])[-1]
    assert last.finished and last.reason == answer.reason
    graph.wait_for_log(perception, "[WARN]", "instruction refused", said)
    conversation.assert_it_works(f"after {len(instruction)} characters: {said}")


def test_a_bad_instruction_does_not_disturb_the_present_one(graph, conversation):
    conversation.assert_it_works("the present one")
    conversation.say("")
    conversation.wait_for_answer("")
    listed = graph.call(
        SetInstruction,
        "perception/set_instruction",
        SetInstruction.Request(operation=SetInstruction.Request.LIST),
        TIMEOUT,
    )
    assert listed.instructions == ["the present one"]


def test_a_newer_instruction_pre_empts_the_one_in_progress(graph, conversation):
    conversation.send_image()
    assert graph.set_parameter("perception", "max_new_tokens", 900).successful
    try:
        conversation.say("a long story")
        graph.wait_until(lambda: conversation.of("reasoning", "a long story"), TIMEOUT, "reasoning")
        conversation.say("the newer one")
        graph.wait_until(
            lambda: conversation.of("reasoning", "the newer one"), TIMEOUT, "reasoning about the newer one"
        )
    finally:
        graph.set_parameter("perception", "max_new_tokens", 32)
    conversation.say("the newest one")
    conversation.wait_for_answer("the newest one", with_images=True)
    for replaced, by in (("a long story", "the newer one"), ("the newer one", "the newest one")):
        (answer,) = conversation.of("segmentation", replaced)
        assert answer.reason == f"replaced by a newer instruction: '{by}'"
        assert answer.header.stamp.sec > 0 and not answer.instances
        thoughts = conversation.of("reasoning", replaced)
        assert [thought.finished for thought in thoughts] == [False] * (len(thoughts) - 1) + [True]
    order = [message.instruction for message in conversation.of("segmentation")]
    assert order == ["a long story", "the newer one", "the newest one"]


def test_reasoning_is_streamed_and_ends_once(conversation):
    answer = conversation.ask("tell me everything")
    thoughts = conversation.of("reasoning", "tell me everything")
    assert len(thoughts) >= 2
    assert [thought.finished for thought in thoughts] == [False] * (len(thoughts) - 1) + [True]
    for earlier, later in zip(thoughts, thoughts[1:], strict=False):
        assert later.text.startswith(earlier.text) and later.tokens >= earlier.tokens
    assert {thought.header.stamp.sec for thought in thoughts} == {answer.header.stamp.sec}
    assert {thought.target_id for thought in thoughts} == {answer.target_id}


def request(operation: int, **fields) -> SetInstruction.Request:
    return SetInstruction.Request(operation=operation, **fields)


def test_set_instruction_sets_lists_removes_and_explains(graph, conversation):
    kinds = SetInstruction.Request

    def call(operation: int, **fields) -> SetInstruction.Response:
        return graph.call(SetInstruction, "perception/set_instruction", request(operation, **fields), TIMEOUT)

    done = call(kinds.SET, instruction="the red cup")
    assert done.success and list(done.target_ids) == [done.target_id] and done.instructions == ["the red cup"]
    answer = conversation.wait_for_answer("the red cup", with_images=True)
    assert answer.target_id == done.target_id
    assert graph.set_parameter("perception", "max_targets", 1).successful
    refused = call(kinds.ADD, instruction="the blue cup")
    assert not refused.success and "max_targets" in refused.message
    assert refused.instructions == ["the red cup"]
    assert graph.set_parameter("perception", "max_targets", 8).successful
    empty = call(kinds.SET, instruction="")
    assert not empty.success and "is empty" in empty.message
    unknown = call(kinds.REMOVE, target_id=9999)
    assert not unknown.success and "no active instruction has the id 9999" in unknown.message
    assert call(kinds.REMOVE, target_id=done.target_id).success
    assert call(kinds.LIST).instructions == []
    assert call(kinds.ADD, instruction="the blue cup").success
    assert call(kinds.CLEAR).success
    assert not call(17).success


def test_segment_answers_one_image_and_explains_a_bad_one(graph, conversation):
    def call(image: Image, instruction: str) -> Segment.Response:
        request = Segment.Request(image=image, instruction=instruction)
        return graph.call(Segment, "perception/segment", request, TIMEOUT)

    image = conversation.send_image()
    done = call(image, "the red cup")
    assert done.success and done.segmentation.header == image.header and done.segmentation.tokens > 0
    refused = call(conversation.send_image(encoding="rgb9"), "the red cup")
    assert not refused.success and "expected one of rgb8" in refused.message
    assert refused.segmentation == Segmentation()
    assert "is empty" in call(image, "").message
    assert "8x8" in call(Image(height=8, width=8, step=24, encoding="rgb8", data=bytes(192)), "a cup").message


def test_at_the_end_it_is_still_the_same_healthy_process(graph, perception):
    perception.check()
    assert graph.state("perception") == ACTIVE
    assert "internal error" not in perception.log and "Traceback" not in perception.log
    assert graph.stop(perception, signal.SIGINT, START_TIMEOUT) == 0
