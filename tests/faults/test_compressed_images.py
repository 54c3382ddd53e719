"""JPEG data that is invalid, incomplete, or has a wrong header."""

from __future__ import annotations

import pytest
from sensor_msgs.msg import CompressedImage

from .report import Row
from .robot import Robot

AREA = "Compressed images"


@pytest.fixture(scope="module", autouse=True)
def compressed(shared_robot: Robot):
    """Let the node read compressed images for a while."""
    for transport in ("compressed", "raw"):
        shared_robot.take_down()
        assert shared_robot.graph.set_parameter("perception", "image_transport", transport).successful
        shared_robot.bring_up()
        if transport == "compressed":
            yield


def header_of(width: int, height: int):
    """Return a function that changes the size in a JPEG's header.

    The header has marker, length, precision, size (ITU T.81, B.2.2).
    """

    def change(data: bytearray) -> bytearray:
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        return data

    return change


def case(name: str, change, part: str):
    return pytest.param(change, part, marks=pytest.mark.fault(AREA, name), id=name)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        case("truncated JPEG", lambda data: data[: len(data) // 2], "it was truncated"),
        case("no image at all", lambda data: bytearray(b"<html>404</html>"), "expected a JPEG or PNG file"),
        case("empty", lambda data: bytearray(), "is empty"),
        case("JPEG whose tables are damaged", lambda data: data[:4] + b"\0" * 300 + data[304:], "damaged"),
        case("JPEG that claims 30000 x 20000 pixels", header_of(30000, 20000), "the header is damaged"),
    ],
)
def test_a_damaged_file_is_named_and_the_next_one_is_used(change, part, robot: Robot, row: Row):
    good = robot.jpeg()

    def damaged() -> CompressedImage:
        return CompressedImage(
            header=robot.jpeg().header, format=good.format, data=change(bytearray(good.data))
        )

    robot.forget_images()
    waits = f"a mug in a file: {row.fault}"
    robot.say(waits)
    row.said = robot.hears("[WARN]", "image on /image/compressed is not usable", part, make=damaged)
    row.diagnostics = robot.diagnosed("images", "WARN", part, damaged)
    assert not robot.of(waits)  # it waits for an image that can be used
    robot.works(row, robot.jpeg)
    row.held("the next good image is used")


@pytest.mark.fault(AREA, "raw camera on a node that expects compressed images")
def test_the_other_kind_of_image_is_missed_aloud(robot: Robot, row: Row):
    robot.works(make=robot.jpeg)
    robot.begin()
    row.said = robot.hears("[WARN]", "no image on /image/compressed", make=robot.image)
    row.diagnostics = robot.diagnosed("images", "WARN", "no image on /image/compressed")
    assert "image_transport" in row.said
    robot.works(row, robot.jpeg)
    row.held("images are used as soon as they come")
