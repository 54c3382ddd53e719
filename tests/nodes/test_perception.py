"""The node `perception` in this process, with a model that says and finds what the test wants."""

from __future__ import annotations

import array
import itertools
import re

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_graph import TIMEOUT, Conversation
from sensor_msgs.msg import CompressedImage, Image

from lens_ros import lens
from lens_ros.nodes import conversions, perception
from lens_ros.nodes.perception import PerceptionNode

TOKENS = 40  # fewer than the topic's depth, so that a reader that sleeps loses none
_instructions = itertools.count(1)


class Finder:
    """Instead of a `Lens`: thinks in 40 tokens and finds two objects, of which it rejects the second."""

    model_id = "finder"

    def segment(self, image, instruction, *, on_text=None, cancelled=None, max_new_tokens=128):
        rgb = lens.as_rgb(image)
        if "breaks" in instruction:
            raise RuntimeError("CUDA out of memory")
        for count in range(1, TOKENS + 1):
            if cancelled():
                raise lens.Cancelled
            on_text(" ".join(["so"] * count))
        first, second = np.zeros((2, *rgb.shape[:2]), bool)
        first[10:20, 30:50] = True
        second[40:50, 5:8] = True
        instances = (
            lens.Instance(first, (30.0, 10.0, 50.0, 20.0), 0.9, "red mug", 0.8),
            lens.Instance(second, (5.0, 40.0, 8.0, 50.0), 0.2, "blue mug", 0.1, rejected="disagrees"),
        )
        return lens.Segmentation(
            instruction=instruction.strip(), instances=instances, mask=first, reasoning="i look for a mug .",
            answer="[...]", well_formed=True, reason="", preprocess_ms=1.0, reason_ms=2.0, decode_ms=3.0,
            tokens=TOKENS, model=self.model_id,
        )  # fmt: skip


class Log:
    """What the node has written to standard error."""

    def __init__(self, capfd) -> None:
        self._capfd = capfd
        self._text = ""

    def count(self, pattern: str) -> int:
        self._text += self._capfd.readouterr().err
        return len(re.findall(pattern, self._text))


@pytest.fixture
def make_node(graph, monkeypatch):
    """Makes an active node with a `Finder`, in the same executor as the test's own node."""
    monkeypatch.setattr(perception, "_load_lens", lambda settings: Finder())
    nodes = []

    def make(**parameters) -> PerceptionNode:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = PerceptionNode(context=graph.context, parameter_overrides=overrides)
        nodes.append(node)
        graph.executor.add_node(node)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        return node

    yield make
    for node in nodes:
        node.close()
        graph.executor.remove_node(node)
        node.destroy_node()


@pytest.fixture
def conversation(graph):
    conversation = Conversation(graph)
    yield conversation
    conversation.close()


def ask(conversation: Conversation, instruction: str = ""):
    instruction = instruction or f"the mug {next(_instructions)}"
    conversation.wait_until_heard()
    return conversation.ask(instruction)


def test_an_answer_becomes_messages(graph, make_node, conversation):
    make_node()
    answer = ask(conversation, "  the red mug ")
    assert answer.instruction == "  the red mug "  # as it was sent, so that the sender knows it again
    assert (answer.model, answer.tokens, answer.reason) == ("finder", TOKENS, "")
    assert (answer.preprocess_ms, answer.reason_ms, answer.decode_ms) == (1.0, 2.0, 3.0)
    assert answer.reasoned_stamp == answer.header.stamp
    first, second = answer.instances
    assert (first.id, first.label, first.rejected) == (1, "red mug", "")
    assert (second.id, second.label, second.rejected) == (2, "blue mug", "disagrees")
    assert first.score == pytest.approx(0.9) and first.consistency == pytest.approx(0.8)
    box = first.box
    assert (box.x_offset, box.y_offset, box.width, box.height) == (30, 10, 20, 10)
    assert conversions.decode_mask(first.mask).sum() == 200
    graph.wait_until(lambda: conversation.of("mask"), TIMEOUT, "a mask")
    mask = conversation.of("mask")[-1]
    pixels = np.frombuffer(mask.data, np.uint8).reshape(mask.height, mask.width)
    np.testing.assert_array_equal(
        pixels > 0, conversions.decode_mask(first.mask)
    )  # the rejected one is not in it


@pytest.mark.parametrize(("rate", "count"), [(0.001, 2), (0.0, TOKENS + 1)])
def test_the_rate_of_reasoning_is_limited_but_never_its_first_and_last(rate, count, make_node, conversation):
    make_node(reasoning_rate_hz=rate)
    thoughts = conversation.of("reasoning", ask(conversation).instruction)
    first, last = thoughts[0], thoughts[-1]
    assert (first.text, first.tokens, first.finished) == ("so", 1, False)
    assert (last.text, last.tokens, last.finished) == ("i look for a mug .", TOKENS, True)
    assert len(thoughts) == count


def test_an_overlay_is_computed_for_subscribers_only(graph, make_node, conversation, monkeypatch, capfd):
    computed: list[lens.Segmentation] = []

    def overlay(rgb, result):
        computed.append(result)
        return rgb

    monkeypatch.setattr("lens_ros.visualization.overlay", overlay)
    node = make_node()
    log, instruction = Log(capfd), ask(conversation).instruction
    graph.wait_until(lambda: log.count(f"'{instruction}': 1 object"), TIMEOUT, "the end of the work")
    assert not computed
    received: list[Image] = []
    subscription = graph.node.create_subscription(Image, "overlay", received.append, 5)
    graph.wait_until(lambda: node._overlays.get_subscription_count(), TIMEOUT, "a subscriber to be seen")
    answer = ask(conversation)
    graph.wait_until(lambda: received, TIMEOUT, "an overlay")
    assert len(computed) == 1 and received[0].header == answer.header
    graph.node.destroy_subscription(subscription)


def test_a_failing_model_is_answered_and_the_next_instruction_works(graph, make_node, conversation, capfd):
    make_node()
    answer = ask(conversation, "this breaks")
    assert answer.reason == "RuntimeError: CUDA out of memory" and not answer.instances
    assert conversation.of("reasoning", "this breaks")[-1].reason == answer.reason
    graph.wait_until(lambda: conversation.of("mask"), TIMEOUT, "a mask")
    assert max(conversation.of("mask")[-1].data) == 0
    assert ask(conversation).instances
    assert "'this breaks' failed: RuntimeError: CUDA out of memory" in capfd.readouterr().err


def test_an_instruction_by_parameter_is_followed_from_activation_on(make_node, conversation):
    make_node(instruction="the parameter's mug")
    conversation.wait_until_heard()
    assert conversation.wait_for_answer("the parameter's mug", with_images=True).instances


def test_compressed_images_follow_the_remapped_topic(graph, make_node, conversation):
    make_node(image_transport="compressed")
    publisher = graph.node.create_publisher(CompressedImage, "image/compressed", 5)
    graph.wait_until(publisher.get_subscription_count, TIMEOUT, "a subscription")
    rgb = np.zeros((48, 64, 3), np.uint8)
    header = conversation.send_image().header
    bad = CompressedImage(
        header=header, format="jpeg", data=array.array("B", b"\xff\xd8\xff rubbish \xff\xda \xff\xd9")
    )
    conversation.say("the compressed mug")

    def come() -> object:
        publisher.publish(bad)
        graph.spin(0.05)
        publisher.publish(conversions.rgb_to_compressed(rgb, header))
        return conversation.of("segmentation", "the compressed mug")

    graph.wait_until(come, TIMEOUT, "an answer")
    answer = conversation.of("segmentation", "the compressed mug")[0]
    assert answer.header == header and answer.instances[0].mask.width == 64
    graph.node.destroy_publisher(publisher)


def test_silence_without_a_publisher_is_explained_once(graph, make_node, capfd):
    log = Log(capfd)
    make_node(image_timeout_s=0.5)
    pattern = r"no image on /image for \d+ s; nobody publishes there: is the camera running"
    graph.wait_until(lambda: log.count(pattern), TIMEOUT, "a hint")
    graph.spin(1.5)
    assert log.count(pattern) == 1


def test_a_quality_of_service_that_does_not_match_is_reported(graph, make_node, capfd):
    log = Log(capfd)
    make_node(**{"qos_overrides./image.subscription.reliability": "reliable"})
    best_effort = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    publisher = graph.node.create_publisher(Image, "image", best_effort)
    pattern = (
        r"a publisher on /image offers a quality of service that does not match \(RELIABILITY\).*"
        r"qos_overrides\./image\.subscription"
    )
    graph.wait_until(lambda: log.count(pattern), TIMEOUT, "a warning")
    graph.node.destroy_publisher(publisher)


@pytest.mark.parametrize(
    ("endpoint", "state"), [("/segmentation.publisher", "configure"), ("/image.subscription", "activate")]
)
def test_a_quality_of_service_that_does_not_exist_is_explained(endpoint, state, graph, monkeypatch, capfd):
    monkeypatch.setattr(perception, "_load_lens", lambda settings: Finder())
    override = Parameter(f"qos_overrides.{endpoint}.reliability", value="sometimes")
    node = PerceptionNode(context=graph.context, parameter_overrides=[override])
    if state == "activate":
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    else:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    said = capfd.readouterr().err
    assert f"cannot {state}: " in said and "sometimes" in said and "qos_overrides.*" in said
    node.destroy_node()


def test_a_failing_callback_does_not_end_the_node(graph, make_node, conversation, monkeypatch, capfd):
    node = make_node()
    log = Log(capfd)

    def fails(message) -> None:
        raise KeyError("surprise")

    with monkeypatch.context() as patch:
        patch.setattr(perception, "_check", fails)
        conversation.wait_until_heard()
        conversation.send_image()
        pattern = r"internal error in _on_image: KeyError: 'surprise'; the node goes on"
        graph.wait_until(lambda: log.count(pattern), TIMEOUT, "a line of the log")
    assert ask(conversation).instances
    assert node._worker is not None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'torch'"),
            "No module named 'torch'; expected the Python packages",
        ),
        (
            RuntimeError("no CUDA device"),
            "does not load on device 'cpu': RuntimeError: no CUDA device; correct",
        ),
    ],
)
def test_what_prevents_loading_is_explained(error, said, graph, monkeypatch, capfd):
    def fails(settings):
        raise error

    monkeypatch.setattr(perception, "_load_lens", fails)
    node = PerceptionNode(context=graph.context)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert said in capfd.readouterr().err
    monkeypatch.setattr(perception, "_load_lens", lambda settings: Finder())
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.destroy_node()
