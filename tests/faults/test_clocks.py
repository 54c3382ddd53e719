"""Wrong time: stamps that are old, come from the future or jump, and simulated time that stops."""

from __future__ import annotations

import pytest
from builtin_interfaces.msg import Time
from ros_graph import TIMEOUT
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from .report import Row
from .robot import QUESTION, Robot

AREA = "Time"


def shifted(robot: Robot, seconds: int) -> Image:
    image = robot.image()
    image.header.stamp.sec += seconds
    return image


@pytest.mark.fault(AREA, "stale stamps (max_image_age_ms set)")
def test_images_that_are_too_old_are_not_used(robot: Robot, row: Row):
    refused(robot, row, -60, "ms old by its stamp and is not used", "too old")


@pytest.mark.fault(AREA, "stamps from the future (max_image_age_ms set)")
def test_images_from_the_future_are_not_used(robot: Robot, row: Row):
    refused(robot, row, 60, "ms in the future and is not used", "stamped in the future")


def refused(robot: Robot, row: Row, seconds: int, said: str, counter: str) -> None:
    with robot.parameters(max_image_age_ms=(20000, 0)):
        before = robot.counter("images", counter)
        robot.forget_images()
        wrong = lambda: shifted(robot, seconds)  # noqa: E731
        waits = f"a mug with {row.fault}"
        robot.say(waits)
        row.said = robot.hears("[WARN]", said, make=wrong)
        row.diagnostics = robot.diagnosed("images", "WARN", said, wrong)
        robot.counted("images", counter, before)
        assert not robot.of(waits)
        robot.works(row)
    row.held("instructions wait for an image of the present")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        pytest.param(-3600, "jumped back by", marks=pytest.mark.fault(AREA, "stamps jump back"), id="back"),
        pytest.param(3600, "jumped ahead by", marks=pytest.mark.fault(AREA, "stamps jump ahead"), id="ahead"),
    ],
)
def test_stamps_that_jump_are_told(seconds, said, robot: Robot, row: Row):
    robot.works()
    wrong = lambda: shifted(robot, seconds)  # noqa: E731
    row.said = robot.hears("[WARN]", f"stamps {said}", make=wrong)
    answer = robot.ask(QUESTION, wrong)
    row.diagnostics = robot.diagnosed("images", "WARN", f"stamps {said}")
    offset = answer.header.stamp.sec - robot.graph.node.get_clock().now().nanoseconds / 1e9
    assert abs(offset - seconds) < 600
    robot.works(row)
    row.held("answers go on, with the stamps as they come")


@pytest.mark.fault(AREA, "use_sim_time and no /clock")
def test_simulated_time_that_has_not_begun(robot: Robot, row: Row):
    with robot.parameters(use_sim_time=(True, False)):
        row.said = robot.hears("[WARN]", "simulated time has not begun")
        row.diagnostics = robot.diagnosed("images", "WARN", "simulated time has not begun")
        robot.works(row)
    row.held("answers do not wait for time; diagnostics run on the steady clock")


@pytest.mark.fault(AREA, "simulated time stands still, jumps back and ahead")
def test_simulated_time_that_stands_still_and_jumps(robot: Robot, row: Row):
    clock = robot.graph.node.create_publisher(Clock, "/clock", 10)
    now = 1000

    def tick(step: int = 1) -> Image:
        nonlocal now
        now += step
        clock.publish(Clock(clock=Time(sec=now)))
        image = robot.image()
        image.header.stamp = Time(sec=now)
        return image

    with robot.parameters(use_sim_time=(True, False), max_image_age_ms=(60000, 0)):
        robot.graph.wait_until(lambda: clock.get_subscription_count(), TIMEOUT, "a subscription to /clock")
        robot.works(make=tick)
        row.said = robot.hears("[WARN]", "simulated time stands still", make=lambda: tick(0))
        row.diagnostics = robot.diagnosed("images", "WARN", "simulated time stands still", lambda: tick(0))
        robot.works(make=tick)
        for step, way in ((-900, "back"), (5000, "ahead")):  # the simulator starts over, the player jumps
            tick(step)
            robot.works(row, tick)
            robot.diagnosed("images", "WARN", f"stamps jumped {way}", tick)
    robot.graph.node.destroy_publisher(clock)
    robot.works(row)
    row.held("answers go on throughout; ages are measured on the simulator's clock")


@pytest.mark.parametrize(
    ("stamp", "limit", "fate"),
    [
        pytest.param(
            Time(sec=-5), 0, "used like an image without a stamp",
            marks=pytest.mark.fault(AREA, "stamps before 1970"), id="negative",
        ),
        pytest.param(
            Time(sec=5, nanosec=2_000_000_000), 0, "used like an image without a stamp",
            marks=pytest.mark.fault(AREA, "stamps with two seconds of nanoseconds"), id="nanoseconds",
        ),
        pytest.param(
            Time(sec=-5), 20000, "cannot be compared with max_image_age_ms",
            marks=pytest.mark.fault(AREA, "stamps before 1970 (max_image_age_ms set)"), id="limited",
        ),
    ],
)  # fmt: skip
def test_stamps_that_are_no_time(stamp, limit, fate, robot: Robot, row: Row):
    def wrong() -> Image:
        image = robot.image()
        image.header.stamp = stamp
        return image

    with robot.parameters(max_image_age_ms=(limit, 0)):
        robot.forget_images()
        waits = f"a mug with {row.fault}"
        robot.say(waits)
        said = f"has the invalid stamp sec {stamp.sec}, nanosec {stamp.nanosec}"
        row.said = robot.hears("[WARN]", said, fate, make=wrong)
        row.diagnostics = robot.diagnosed("images", "WARN", said, wrong)
        if not limit:
            robot.wait_until(lambda: robot.of(waits), "an answer", wrong)
            assert robot.of(waits)[0].header.stamp == stamp
        assert bool(robot.of(waits)) is not bool(limit)
        robot.works(row)
    assert "Traceback" not in robot.log
    row.held(
        "instructions wait for an image with a stamp"
        if limit
        else "answers go on, with the stamps as they come"
    )
