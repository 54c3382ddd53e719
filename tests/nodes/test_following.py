"""lens-nano tracks objects in the recorded camera's images: two processes that communicate over DDS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from ros_graph import TIMEOUT, Conversation
from sensor_msgs.msg import Image

from lens_ros.srv import SetInstruction

ROOT = Path(__file__).resolve().parents[2]


def stamp(header) -> tuple[int, int]:
    return header.sec, header.nanosec


def test_masks_follow_the_camera_while_it_reasons_once(graph):
    camera = {"source": str(ROOT / "demo" / "tabletop"), "rate": 0.5}
    graph.launch("camera", camera)
    process = graph.launch("perception", {"model": str(ROOT / "models" / "lens-nano")})
    graph.bring_up()
    conversation = Conversation(graph, with_images=False)
    conversation.wait_until_heard()
    instruction = "the blue mug"
    conversation.say(instruction)

    def answers() -> list:
        return conversation.of("segmentation", instruction)

    graph.wait_until(lambda: len(answers()) >= 6, TIMEOUT, "segmentations of six images")
    first, *later = answers()[:6]
    assert first.reasoned_stamp == first.header.stamp and first.tokens > 0
    carried = [message for message in later if message.tokens == 0]
    assert len(carried) >= 4
    for message in carried:
        assert message.reason_ms == 0.0 and message.decode_ms > 0.0
        assert stamp(message.reasoned_stamp) < stamp(message.header.stamp)
        assert message.target_id == first.target_id
    stamps = [stamp(message.header.stamp) for message in (first, *carried)]
    assert stamps == sorted(set(stamps))  # one of each image
    ids = {tuple(i.id for i in message.instances if not i.rejected) for message in (first, *carried)}
    assert len(ids - {()}) == 1  # the same object, as long as it is tracked

    labels: list[Image] = []
    graph.node.create_subscription(Image, "labels", labels.append, 100)
    request = SetInstruction.Request(operation=SetInstruction.Request.ADD, instruction="the red bottle")
    added = graph.call(SetInstruction, "perception/set_instruction", request, TIMEOUT)
    assert added.success, added.message
    both = {number for (number,) in ids - {()}}

    def labelled() -> list[Image]:
        """Return images with the objects of both targets."""
        for message in conversation.of("segmentation", "the red bottle"):
            both.update(i.id for i in message.instances if not i.rejected)
        return [m for m in labels if len(both) == 2 and both <= set(np.frombuffer(m.data, np.uint16))]

    graph.wait_until(lambda: len(labelled()) >= 3, TIMEOUT, "labels of both targets")
    stamps = [stamp(image.header.stamp) for image in labels]
    assert stamps == sorted(stamps)  # pictures do not go back in time

    # What it is not sure enough of is not followed, and asked about until it is, or the threshold is another.
    assert graph.set_parameter("perception", "score_threshold", 1.0).successful
    unsure = "the leftmost mug"
    conversation.say(unsure)

    def reasoned() -> list:
        return [m for m in conversation.of("segmentation", unsure) if m.tokens]

    graph.wait_until(lambda: len(reasoned()) >= 2, TIMEOUT, "two answers that are rejected")
    assert reasoned()[0].score_threshold == 1.0 and reasoned()[0].instances[0].rejected
    for message in conversation.of("segmentation", unsure):
        assert all(instance.rejected for instance in message.instances)
        assert "is below the score_threshold 1" in message.reason
    assert graph.set_parameter("perception", "score_threshold", -1.0).successful

    def followed() -> list:
        """Return tracked segmentations with an accepted object."""
        told = conversation.of("segmentation", unsure)
        return [m for m in told if not m.tokens and any(not i.rejected for i in m.instances)]

    graph.wait_until(followed, TIMEOUT, "the mug, followed")
    own = json.loads((ROOT / "models" / "lens-nano" / "config.json").read_text())["calibration"]["threshold"]
    assert followed()[0].score_threshold == np.float32(own)
    assert followed()[0].instances[0].score >= np.float32(own)
    assert graph.stop(process) == 0
    assert "Traceback" not in process.log
