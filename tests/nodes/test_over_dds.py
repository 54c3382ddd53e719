"""The camera and `perception` as two processes that are connected only through DDS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from action_client import Client
from diagnostic_msgs.msg import DiagnosticArray
from ros_graph import TIMEOUT, Conversation
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lens_ros.nodes.perception.goals import RESULTS_KEPT_S
from lens_ros.ros import conversions
from lens_ros.ros.driver import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE
from lens_ros.ros.endpoints import goal_requests
from lens_ros.ros.process import TRIM_PERIOD_S

# Seconds from an answer until nothing of it is left: results are kept, garbage is looked for now and then.
SETTLED_S = RESULTS_KEPT_S + TRIM_PERIOD_S + 10.0

ROOT = Path(__file__).resolve().parents[2]
DEMO, NANO = ROOT / "demo" / "tabletop", ROOT / "models" / "lens-nano"


def stamp(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


@pytest.fixture(scope="module")
def camera(graph, pictures):
    return graph.launch("camera", {"source": str(pictures), "frame_rate_hz": 8.0, "frame_id": "eye"})


@pytest.fixture(scope="module")
def perception(graph, camera, checkpoint):
    parameters = {"model": str(checkpoint), "max_new_tokens": 48, "tracking": False}
    process = graph.launch("perception", parameters)
    graph.bring_up()
    return process


def converse(graph, text: str) -> None:
    """Send one instruction and check every reply against what the camera sent."""
    sent: dict[tuple[int, int], Image] = {}
    conversation = Conversation(graph, with_images=False)
    images = graph.node.create_subscription(
        Image, "image", lambda message: sent.update({stamp(message): message}), 200
    )
    conversation.wait_until_heard()
    # A machine under load may not bring every image to this reader: then ask about another one.
    for attempt in range(10):
        graph.wait_until(lambda: sent, TIMEOUT, "camera images")
        instruction = f"{text} {attempt}"
        conversation.say(instruction)
        answer = conversation.wait_for_answer(instruction)
        at = stamp(answer)
        graph.wait_until(
            lambda at=at: [mask for mask in conversation.of("mask") if stamp(mask) == at],
            TIMEOUT,
            "a mask of the same stamp",
        )
        graph.wait_until(lambda at=at: max(sent) > at, TIMEOUT, "a later image")
        if at in sent:
            break
    graph.node.destroy_subscription(images)
    conversation.close()

    image = sent[stamp(answer)]
    assert answer.header == image.header and answer.header.frame_id == "eye"
    mask = [mask for mask in conversation.of("mask") if stamp(mask) == stamp(answer)][-1]
    assert mask.header == image.header
    assert (mask.encoding, mask.height, mask.width) == ("mono8", 480, 640)
    assert set(mask.data) <= {0, 255}
    union = np.zeros((480, 640), bool)
    for instance in answer.instances:
        decoded = conversions.decode_mask(instance.mask)
        assert decoded.shape == (480, 640)
        if not instance.rejected:
            union |= decoded
    np.testing.assert_array_equal(np.frombuffer(mask.data, np.uint8).reshape(480, 640) > 0, union)
    assert bool(answer.reason) == (not union.any())

    names = [name for name, m in conversation.received if getattr(m, "instruction", "") == instruction]
    assert names[0] == "reasoning" and names.count("segmentation") == 1
    thoughts = conversation.of("reasoning", instruction)
    assert not thoughts[0].finished and thoughts[-1].finished
    assert {stamp(thought) for thought in thoughts} == {stamp(answer)}


def test_raw_images_of_almost_a_megabyte(graph, perception):
    converse(graph, "the red ball")


def test_the_overlay_is_made_for_subscribers_only(graph, perception):
    conversation = Conversation(graph, with_images=False)
    overlays: list[Image] = []
    subscription = graph.node.create_subscription(Image, "overlay", overlays.append, 10)
    graph.wait_until(lambda: graph.node.count_publishers("overlay"), TIMEOUT, "the overlay's publisher")
    conversation.wait_until_heard()
    conversation.say("the red ball with a picture")
    answer = conversation.wait_for_answer("the red ball with a picture")
    # One of what was asked before may still be under way.
    graph.wait_until(lambda: overlays and overlays[-1].header == answer.header, TIMEOUT, "its overlay")
    assert (overlays[-1].encoding, overlays[-1].height, overlays[-1].width) == ("rgb8", 480, 640)
    graph.node.destroy_subscription(subscription)
    conversation.close()


def test_compressed_images_after_a_new_configuration(graph, perception):
    for transition in (DEACTIVATE, CLEANUP):
        assert graph.change_state("perception", transition)
    assert graph.set_parameter("perception", "image_transport", "compressed").successful
    for transition in (CONFIGURE, ACTIVATE):
        assert graph.change_state("perception", transition)
    assert "images from /image/compressed" in perception.log
    converse(graph, "the red ball, compressed")


def test_an_instruction_is_repeated_at_the_interval_that_is_set(graph, perception):
    conversation = Conversation(graph, with_images=False)
    conversation.wait_until_heard()
    assert graph.set_parameter("perception", "reasoner_interval_s", 0.1).successful
    text = "the red ball again and again"
    conversation.say(text)
    graph.wait_until(lambda: len(conversation.of("segmentation", text)) >= 3, TIMEOUT, "repetitions")
    assert graph.set_parameter("perception", "reasoner_interval_s", 0.0).successful
    stamps = [stamp(message) for message in conversation.of("segmentation", text)]
    assert stamps == sorted(set(stamps))  # each time a newer image
    conversation.close()


def test_goals_that_come_at_once_leave_no_memory_behind(graph, perception):
    """By default ROS 2 makes Fast DDS keep the peak memory of these goals (config/fastdds.xml)."""
    native: list[float] = []

    def read(message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for status in message.status for pair in status.values}
        if "native memory in use, MB" in values:
            native.append(float(values["native memory in use, MB"]))

    diagnostics = graph.node.create_subscription(DiagnosticArray, "/diagnostics", read, 10)
    client = Client(graph, **goal_requests())

    assert graph.change_state("perception", DEACTIVATE) and graph.change_state("perception", ACTIVATE)
    image = conversions.rgb_to_image(np.zeros((1080, 1920, 3), np.uint8), Header())  # 6.2 MB
    assert client.ask("the red ball", image).wait().success
    native.clear()
    graph.wait_until(lambda: len(native) >= 2, TIMEOUT, "reports in /diagnostics")
    before = native[-1]
    asked = [client.ask("the red ball", image) for _ in range(16)]
    assert all(each.wait().success for each in asked)
    native.clear()
    graph.wait_until(lambda: native and native[-1] < before + 10.0, 2 * SETTLED_S, "memory as before, MB")
    client.client.destroy()
    graph.node.destroy_subscription(diagnostics)


def test_it_all_ends_cleanly(graph, perception, camera):
    assert graph.stop(camera) == 0
    assert graph.stop(perception) == 0
    for process in (camera, perception):
        assert "Traceback" not in process.log


def test_the_demo_finds_what_it_asks_for(tmp_path):
    """`make run ASK=...` runs as a process; its exit code, pictures and table are checked."""
    import subprocess
    import sys

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lens_ros.commands.demo",
            "--out",
            str(tmp_path / "out"),
            "--ask",
            "the yellow bowl",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "> the yellow bowl" in done.stdout and "pictures:" in done.stdout
    assert (tmp_path / "out" / "1-the-yellow-bowl.png").is_file()
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    assert "nothing:" not in done.stdout, done.stdout
