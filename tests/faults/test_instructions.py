"""Instructions that cannot be followed, and more instructions than the node can process."""

from __future__ import annotations

import pytest
from action_client import Client
from ros_graph import TIMEOUT
from sensor_msgs.msg import Image
from std_msgs.msg import String

from lens_ros.ros.endpoints import goal_requests, requests
from lens_ros.srv import Segment, SetInstruction

from .report import Row
from .robot import QUESTION, Robot

AREA = "Instructions, goals, requests"
MANY = 100


def case(name: str, instruction: str, reason: str):
    return pytest.param(instruction, reason, marks=pytest.mark.fault(AREA, name), id=name)


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        case("empty", "", "the instruction is empty"),
        case("blanks only", " \t\n ", "the instruction is empty"),
        case("100000 characters", "mug " * 25000, "has 99999 characters; at most 1000"),
        case("control characters only", "\x1b\x07\u200b\u202e", "none of them printable"),
    ],
)
def test_what_cannot_be_followed_is_answered_with_the_reason(instruction, reason, robot: Robot, row: Row):
    refused = robot.counter("answers", "refused")
    answer = robot.ask(instruction)
    assert reason in answer.reason and not answer.instances and answer.target_id == 0
    row.said = robot.hears("[WARN]", "instruction refused", reason)
    row.diagnostics = robot.diagnosed("answers", "WARN", reason)
    assert robot.counter("answers", "refused") == refused + 1
    by_service = robot.graph.call(
        SetInstruction, "perception/set_instruction", SetInstruction.Request(instruction=instruction), TIMEOUT
    )
    assert not by_service.success and reason in by_service.message
    goal = Client(robot.graph).ask(instruction, robot.image()).wait()
    assert not goal.success and reason in goal.message
    robot.works(row)
    row.held("answered with the reason by topic, service and action; the next one is followed")


@pytest.mark.fault(AREA, "terminal commands, emoji, right-to-left text")
def test_odd_characters_are_followed_and_escaped_in_the_log(robot: Robot, row: Row):
    odd = "\x1b[2J\x07 the blue mug \u202e\U0001f468\u200d\U0001f680 \u05e1\u05e4\u05dc\n[FATAL] no"
    answer = robot.ask(odd)
    assert answer.instruction == odd and answer.tokens > 0
    row.said = robot.hears("instruction '", "the blue mug")
    assert "\\x1b[2J" in row.said and "\x1b[2J" not in robot.log and "\u202e" not in robot.log
    assert not any(line.startswith("[FATAL]") for line in robot.log.splitlines())
    row.diagnostics = robot.diagnosed("answers", "OK", "no trouble")
    robot.works(row)
    row.held("followed like any other, unchanged in its answer")


@pytest.mark.fault(AREA, "bytes that are not UTF-8")
def test_bytes_that_are_no_text_are_answered(robot: Robot, row: Row):
    content = b"mug \xff\xfe\xc3\x28\x00"
    serialized = b"\x00\x01\x00\x00" + len(content).to_bytes(4, "little") + content
    received = content[:-1].decode(errors="replace")
    robot.said[received] += 1
    robot.instructions.publish(serialized)
    robot.wait_until(lambda: robot.of(received), "an answer", robot.image)
    row.said = robot.hears("instruction 'mug")
    row.diagnostics = robot.diagnosed("answers", "OK", "no trouble")
    robot.works(row)
    row.held("followed, with U+FFFD for what is no character")


@pytest.mark.fault(AREA, f"flood of {MANY} instructions")
def test_a_flood_of_instructions_is_answered_one_by_one(robot: Robot, row: Row):
    for number in range(MANY):
        robot.say(f"flood {number}")
    robot.wait_until(
        lambda: sum(answer.instruction.startswith("flood ") for answer in robot.answers) >= MANY,
        f"{MANY} answers",
        robot.image,
    )
    replaced = [answer for answer in robot.answers if "replaced by a newer instruction" in answer.reason]
    assert replaced
    row.said = replaced[-1].reason
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    robot.works(row)
    row.held("each has one answer: the last one is followed, the others are told what replaced them")


@pytest.mark.fault(AREA, "the same instruction at 50 Hz")
def test_an_instruction_that_is_repeated_is_answered(robot: Robot, row: Row):
    repeated = "the white mug, again and again"
    robot.said[repeated] += 1  # one answer to all of them

    def publish() -> Image:
        robot.instructions.publish(String(data=repeated))
        return robot.image()

    robot.wait_until(lambda: robot.of(repeated), "an answer", publish)
    for _ in range(20):
        robot.instructions.publish(String(data=repeated))
        robot.graph.spin(0.02)
    (answer,) = robot.of(repeated)
    assert answer.tokens > 0
    row.said = robot.hears("instruction 'the white mug, again and again'")
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    robot.works(row)
    row.held("answered once, as long as it is the only one; a new one replaces it")


@pytest.mark.fault(AREA, "flood of 90 goals")
def test_a_flood_of_goals_is_answered_one_by_one(robot: Robot, row: Row):
    client = Client(robot.graph, **goal_requests())
    goals = [client.ask(QUESTION) for _ in range(90)]
    robot.wait_until(lambda: all(goal.result for goal in goals), "90 results", robot.image)
    results = [goal.wait() for goal in goals]
    refused = [result.message for result in results if not result.success]
    assert refused and all("try again later" in message for message in refused)
    assert all(result.segmentation.tokens > 0 for result in results if result.success)
    assert len(refused) < 90
    row.said = refused[-1]
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    robot.works(row)
    row.held("32 wait and are answered, the others are aborted with the reason")


@pytest.mark.fault(AREA, "flood of 12 requests to ~/segment")
def test_a_flood_of_requests_is_answered_one_by_one(robot: Robot, row: Row):
    client = robot.graph.node.create_client(Segment, "perception/segment", qos_profile=requests())
    robot.graph.meet("perception", TIMEOUT)
    robot.wait_until(client.service_is_ready, "the service")
    request = Segment.Request(image=robot.image(), instruction=QUESTION)
    futures = [client.call_async(request) for _ in range(12)]
    robot.wait_until(lambda: all(future.done() for future in futures), "12 responses")
    responses = [future.result() for future in futures]
    refused = [response.message for response in responses if not response.success]
    assert refused and all("busy" in message for message in refused) and len(refused) < 12
    robot.graph.node.destroy_client(client)
    row.said = refused[-1]
    row.diagnostics = robot.diagnosed("state", "OK", "active")
    robot.works(row)
    row.held("two wait and are answered, the others are told to try again")
