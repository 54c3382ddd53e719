"""Each reason that machines have to tell apart carries its code, on every way out of the node."""

from __future__ import annotations

import pytest
from ros_graph import TIMEOUT
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from lens_ros.codes import Code
from lens_ros.msg import Code as CodeMessage
from lens_ros.srv import Segment, SetInstruction

KINDS = SetInstruction.Request
SET, ADD, REMOVE, CLEAR = KINDS.SET, KINDS.ADD, KINDS.REMOVE, KINDS.CLEAR


def instruct(graph, operation: int, **fields) -> SetInstruction.Response:
    request = SetInstruction.Request(operation=operation, **fields)
    return graph.call(SetInstruction, "perception/set_instruction", request, TIMEOUT)


def segment(graph, image: Image, instruction: str = "the mug") -> Segment.Response:
    return graph.call(
        Segment, "perception/segment", Segment.Request(image=image, instruction=instruction), TIMEOUT
    )


def code_of_answer(conversation, instruction: str) -> Code:
    answer = conversation.wait_for_answer(instruction)
    last = conversation.of("reasoning")[-1]
    if last.instruction == instruction and answer.reason == last.reason:
        assert last.finished and last.code == answer.code
    return Code(answer.code)


def test_the_service_for_instructions(graph, make_node):
    make_node(max_targets=1)
    assert instruct(graph, SET, instruction="").code == CodeMessage.BAD_INSTRUCTION
    assert instruct(graph, REMOVE, target_id=9).code == CodeMessage.UNKNOWN_TARGET
    assert instruct(graph, 77).code == CodeMessage.UNKNOWN_OPERATION
    assert instruct(graph, SET, instruction="the mug").code == CodeMessage.OK
    assert instruct(graph, ADD, instruction="the bowl").code == CodeMessage.TOO_MANY_TARGETS


@pytest.mark.parametrize(
    ("operation", "code"), [(SET, Code.REPLACED), (REMOVE, Code.REMOVED), (CLEAR, Code.CLEARED)]
)
def test_an_instruction_that_ends_before_its_answer(graph, make_node, conversation, operation, code):
    make_node()
    given = instruct(graph, SET, instruction="the mug")
    conversation.wait_until_heard()
    instruct(graph, operation, target_id=given.target_id, instruction="the bowl")
    assert code_of_answer(conversation, "the mug") is code


def test_answers(graph, make_node, conversation):
    make_node(score_threshold=0.95)
    conversation.wait_until_heard()
    conversation.send_image()
    conversation.say("the mug")
    answer = conversation.wait_for_answer("the mug")
    assert {Code(each.rejected_code) for each in answer.instances} == {Code.LOW_SCORE, Code.UNSPECIFIED}
    conversation.say("it breaks")
    assert code_of_answer(conversation, "it breaks") is Code.MODEL_FAILED
    conversation.say(" ")
    assert code_of_answer(conversation, " ") is Code.BAD_INSTRUCTION


def test_single_requests(graph, make_node, conversation):
    make_node()
    conversation.wait_until_heard()
    assert segment(graph, Image()).code == Code.NO_IMAGE
    unknown = Image(height=1, width=1, encoding="rgb9", step=3, data=bytes(3))
    assert segment(graph, unknown).code == Code.BAD_IMAGE
    image = conversation.send_image()
    assert segment(graph, image, "").code == Code.BAD_INSTRUCTION
    answered = segment(graph, image)
    assert answered.code == Code.OK and answered.segmentation.code == Code.OK
    graph.call(SetBool, "perception/enable", SetBool.Request(data=False), TIMEOUT)
    assert segment(graph, Image()).code == Code.DISABLED


def test_goals(graph, make_node, client, conversation):
    node = make_node()
    image = conversation.send_image()
    assert client.ask("", image).wait().code == Code.BAD_INSTRUCTION
    slow = client.ask("slowly", image)
    slow.wait_for_stage("reasoning")
    slow.cancel()
    assert slow.wait().code == Code.CANCELLED
    waiting = client.ask("the next image")
    graph.call(SetBool, "perception/enable", SetBool.Request(data=False), TIMEOUT)
    assert waiting.wait().code == Code.DISABLED
    graph.call(SetBool, "perception/enable", SetBool.Request(data=True), TIMEOUT)
    waiting = client.ask("another image")
    waiting.wait_for_stage("waiting")
    node.trigger_deactivate()
    assert waiting.wait().code == Code.ENDED
    assert client.ask("the mug", image).wait().code == Code.INACTIVE
