"""Raw images that cannot be used, and more images than the node can process."""

from __future__ import annotations

import array

import pytest
from action_client import Client, Feedback
from ros_graph import TIMEOUT
from sensor_msgs.msg import Image

from lens_ros.srv import SetInstruction

from .report import Row
from .robot import QUESTION, Robot

AREA = "Images"
NASTY = ("\x1b[2J\x07\n[FATAL] all is lost \u202e" * 200)[:5000]
WIDE = 2**32 - 1  # the largest size that a header can claim


def case(name: str, changes: dict, parts: list[str]):
    return pytest.param(changes, parts, marks=pytest.mark.fault(AREA, name), id=name)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        case("unknown encoding", {"encoding": "rgb9"}, ["encoding 'rgb9'", "expected one of rgb8"]),
        case("depth instead of color", {"encoding": "16UC1"}, ["'16UC1'", "this is a depth image"]),
        case("truncated data", {"data": array.array("B", bytes(100))}, ["100 bytes", "it was truncated"]),
        case("step too small for the width", {"step": 100}, ["step 100", "expected at least 960 bytes"]),
        case("size of zero", {"width": 0, "height": 0}, ["0 x 0 pixels", "at least 1 x 1"]),
        case("absurd size", {"width": WIDE, "height": WIDE}, [f"{WIDE} x {WIDE}", "the header is damaged"]),
    ],
)
def test_a_malformed_image_is_named_and_the_next_one_is_used(changes, parts, robot: Robot, row: Row):
    robot.send(robot.image(**changes))
    row.said = robot.hears("[WARN]", "image on /image is not usable", *parts)
    row.diagnostics = robot.diagnosed("images", "WARN", parts[0])
    robot.works(row)
    row.held("the next good image is used")


@pytest.mark.fault(AREA, "too small for the model")
def test_a_tiny_image_is_named_when_it_is_used(robot: Robot, row: Row):
    robot.forget_images()
    robot.say("a mug in a tiny image")
    tiny = lambda: robot.image((8, 8))  # noqa: E731
    row.said = robot.hears("[WARN]", "the image is 8x8 pixels", make=tiny)
    row.diagnostics = robot.diagnosed("images", "WARN", "8x8 pixels", tiny)
    assert not robot.of("a mug in a tiny image")  # it waits for an image that can be used
    robot.works(row)
    row.held("the instruction waits for a good image")


@pytest.mark.fault(AREA, "flood of malformed images")
def test_a_flood_of_malformed_images_is_counted_not_logged(robot: Robot, row: Row):
    unusable, sent = robot.counter("images", "unusable"), 0

    def summed_up() -> bool:
        nonlocal sent
        for _ in range(20):
            robot.send(robot.image(encoding="flood8"))
            sent += 1
        return "more like this in between)" in robot.log

    robot.graph.wait_until(summed_up, TIMEOUT, "a line that counts what was not logged")
    row.said = robot.hears("encoding 'flood8'")
    row.diagnostics = robot.counted("images", "unusable", unusable)
    assert sent > 2 * robot.log.count("encoding 'flood8'")
    robot.works(row)
    row.held("the next good image is used; one line in the log for many images")


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        pytest.param(
            "rgb8",
            "images are now 320 x 240 rgb8 in frame '",
            marks=pytest.mark.fault(AREA, "flood of frame_ids of 5000 characters with terminal commands"),
            id="frame_id",
        ),
        pytest.param(
            NASTY,
            "image has the encoding '",
            marks=pytest.mark.fault(AREA, "flood of encodings of 5000 characters with terminal commands"),
            id="encoding",
        ),
    ],
)
def test_texts_of_headers_are_escaped_and_cut(encoding, said, robot: Robot, row: Row):
    sent = 0

    def one_from_the_left() -> Image:
        """Return an image that follows one with another frame_id."""
        for side in ("right", "left"):
            image = robot.image(encoding=encoding)
            image.header.frame_id = f"{side} {NASTY}"
            if side == "right":
                robot.send(image)
        return image

    def summed_up() -> bool:
        nonlocal sent
        for _ in range(10):
            robot.send(one_from_the_left())
            sent += 2
        return sent > 100 and "more like this in between)" in robot.log

    robot.graph.wait_until(summed_up, TIMEOUT, "a line that counts what was not logged")
    assert sent > 2 * robot.log.count(said)
    row.said = robot.hears("[WARN]", said, make=one_from_the_left)
    row.diagnostics = robot.diagnosed("images", "WARN", said, one_from_the_left)
    assert "\\x1b[2J" in row.said and "… (500" in row.said
    assert not {"\x1b", "\x07", "\u202e"} & set(robot.log + "".join(s.message for _, s in robot.statuses))
    assert not any(line.startswith("[FATAL]") for line in robot.log.splitlines())
    robot.works(row)
    row.held("the next good image is used; quoted texts are escaped and cut, one line for many images")


@pytest.mark.fault(AREA, "flood of good images while the model is busy")
def test_a_flood_of_good_images_delays_nobody(robot: Robot, row: Row):
    client = Client(robot.graph)
    dropped = robot.counter("images", "dropped while wanted")
    image = robot.image((640, 480))
    busy = client.ask(f"slow: {QUESTION}", robot.image())
    busy.wait_for_stage(Feedback.REASONING)
    waiting = client.ask(QUESTION)
    sent = 0
    while sent < 50:
        for _ in range(5):
            robot.send(image)
            sent += 1
        listing = SetInstruction.Request(operation=SetInstruction.Request.LIST)
        listed = robot.graph.call(SetInstruction, "perception/set_instruction", listing, TIMEOUT)
        assert listed.success
    busy.cancel()
    assert busy.wait().message == "cancelled by its client"
    robot.wait_until(lambda: waiting.result, "the goal that waited for an image", robot.image)
    assert waiting.wait().success
    row.said = "(nothing: only the newest image is kept)"
    row.diagnostics = robot.counted("images", "dropped while wanted", dropped)
    robot.works(row)
    row.held("goals are answered, services answer meanwhile")
