"""The node `perception` in this process, with a model that says and finds what the test wants."""

from __future__ import annotations

import array
import itertools
import signal
import threading
import time

import numpy as np
import pytest
from finder import TOKENS, Finder
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_graph import TIMEOUT, Conversation, Log
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool

from lens_ros import lens
from lens_ros.inputs import DeviceError
from lens_ros.nodes.perception import camera_images, model_loading
from lens_ros.nodes.perception.answer_publisher import DELIVERY_S
from lens_ros.nodes.perception.node import WAITING_SERVICES, WAITING_THREADS, PerceptionNode
from lens_ros.nodes.perception.worker import InferenceWorker
from lens_ros.ros import conversions
from lens_ros.ros.driver import UNCONFIGURED, NodeProcess
from lens_ros.ros.parameters import ParameterError
from lens_ros.ros.workarounds.executor import CallbackExecutor
from lens_ros.srv import Segment, SetInstruction

_instructions = itertools.count(1)


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
    assert (first.label, first.rejected) == ("red mug", "")
    assert (second.label, second.rejected) == ("blue mug", "disagrees")
    assert first.id > 0 and second.id > 0 and first.id != second.id
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
    graph.wait_until(
        lambda: node._answers._pictures._overlays.get_subscription_count(), TIMEOUT, "a subscriber to be seen"
    )
    answer = ask(conversation)
    graph.wait_until(lambda: received, TIMEOUT, "an overlay")
    assert len(computed) == 1 and received[0].header == answer.header
    graph.node.destroy_subscription(subscription)


def test_a_failing_model_is_answered_and_the_next_instruction_works(graph, make_node, conversation, capfd):
    make_node()
    answer = ask(conversation, "this breaks")
    assert answer.reason == "RuntimeError: a kernel failed" and not answer.instances
    assert conversation.of("reasoning", "this breaks")[-1].reason == answer.reason
    graph.wait_until(lambda: conversation.of("mask"), TIMEOUT, "a mask")
    assert max(conversation.of("mask")[-1].data) == 0
    assert ask(conversation).instances
    assert "'this breaks' failed: RuntimeError: a kernel failed" in capfd.readouterr().err


def test_without_memory_the_answer_says_what_to_do(make_node, conversation, finder, monkeypatch, capfd):
    make_node()
    with monkeypatch.context() as patch:
        patch.setattr(finder, "segment_all", lambda *_, **__: np.empty(1 << 60, np.uint8))
        answer = ask(conversation, "the vast mug")
    assert answer.reason.startswith("not enough memory for 1 instruction(s) about an image of 96x64 pixels")
    assert "max_targets" in answer.reason and not answer.instances
    said = capfd.readouterr().err
    assert "'the vast mug' failed: not enough memory" in said and "Traceback" not in said
    assert ask(conversation).instances


def test_without_memory_for_all_at_once_each_is_answered_alone(graph, make_node, conversation, finder):
    node = make_node()
    scheduler = node.scheduler()
    conversation.wait_until_heard()
    for instruction in ("the greedy mug", "the modest mug"):
        scheduler.add_instruction(instruction)
    for instruction in ("the greedy mug", "the modest mug"):
        assert conversation.wait_for_answer(instruction, with_images=True).instances
    assert [len(asked) for asked, _ in finder.asked] == [2, 1, 1]


def test_without_memory_for_the_model_the_node_says_what_to_do(graph, monkeypatch, capfd):
    monkeypatch.setattr(lens.Lens, "from_pretrained", lambda *_, **__: np.empty(1 << 60, np.uint8))
    node = PerceptionNode(context=graph.context)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    said = capfd.readouterr().err
    assert "cannot configure: not enough memory for model 'lens-nano' on cpu (" in said
    assert "GB of swap are free now. Take a smaller model" in said and "Traceback" not in said
    node.destroy_node()


def test_a_panic_does_not_end_the_thread_that_thinks(make_node, conversation, finder, monkeypatch):
    class PanicException(BaseException):
        """Like pyo3's exception of the same name, which a Rust library raises when it panics."""

    def panics(*_, **__):
        raise PanicException("no threads")

    make_node()
    with monkeypatch.context() as patch:
        patch.setattr(finder, "segment_all", panics)
        assert ask(conversation).reason == "RuntimeError: PanicException: no threads"
    assert ask(conversation).instances


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


@pytest.mark.parametrize("endpoint", ["/segmentation.publisher", "/image.subscription"])
def test_a_quality_of_service_that_does_not_exist_is_explained_at_once(endpoint, graph):
    override = Parameter(f"qos_overrides.{endpoint}.reliability", value="sometimes")
    with pytest.raises(ParameterError, match="'sometimes'; expected one of .*: correct the parameters file"):
        PerceptionNode(context=graph.context, parameter_overrides=[override])


def test_a_quality_of_service_for_a_misspelt_topic_is_named(graph, monkeypatch, capfd):
    monkeypatch.setattr(model_loading, "load_lens", lambda settings: Finder())
    names = ("/imagee.subscription.reliability", "/image.subscription.reliability")
    overrides = [Parameter(f"qos_overrides.{name}", value="best_effort") for name in names]
    node = PerceptionNode(context=graph.context, parameter_overrides=overrides)
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    [said] = [line for line in capfd.readouterr().err.splitlines() if "quality of service for topics" in line]
    assert f"'qos_overrides.{names[0]}' (did you mean 'qos_overrides.{names[1]}'?)" in said
    node.close()
    node.destroy_node()


def test_what_ends_is_not_activated_any_more(graph, monkeypatch):
    """The parameter autostart may activate it after the signal: a worker's thread would outlive the node."""
    monkeypatch.setattr(model_loading, "load_lens", lambda settings: Finder())
    node = PerceptionNode(context=graph.context)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.close()
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert node.worker() is None
    node.destroy_node()


def test_what_ends_is_not_configured_any_more(graph, monkeypatch):
    loaded = []
    monkeypatch.setattr(model_loading, "load_lens", loaded.append)
    node = PerceptionNode(context=graph.context)
    node.close()
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert not loaded and not node.in_transition
    node.destroy_node()


@pytest.mark.parametrize(
    ("transition", "state"),
    [("trigger_deactivate", "deactivating"), ("trigger_shutdown", "shuttingdown")],
)
def test_a_transition_is_known_to_be_in_progress(transition, state, graph, make_node, monkeypatch):
    """The end of the process waits for the transition; parameters read when configuring do not change."""
    node = make_node()
    seen = []

    def end() -> None:
        refused = node.set_parameters([Parameter("model", value="another")])[0]
        seen.append((node._situation.state, node.in_transition, refused.successful))

    monkeypatch.setattr(node._warmer, "end", end)
    getattr(node, transition)()
    assert seen[0] == (state, True, False) and not node.in_transition


def test_a_call_in_progress_is_answered_when_the_node_is_shut_down(graph, make_node, conversation, finder):
    node = make_node()
    conversation.wait_until_heard()
    client = graph.node.create_client(Segment, "perception/segment")
    graph.wait_until(client.service_is_ready, TIMEOUT, "the service")
    executor = CallbackExecutor(WAITING_SERVICES, WAITING_THREADS, context=graph.context)
    graph.executor.remove_node(node)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    request = Segment.Request(image=conversation.send_image(), instruction="the mug, slowly")
    answer = client.call_async(request)
    graph.wait_until(lambda: finder.asked, TIMEOUT, "the call")
    node.trigger_shutdown()
    graph.wait_until(answer.done, TIMEOUT, "an answer")
    assert answer.result().message == "the node was shut down"
    executor.shutdown()
    spinning.join()
    graph.node.destroy_client(client)


def test_images_are_received_once_however_transitions_and_enable_meet(graph, make_node, monkeypatch):
    start = InferenceWorker.start

    def disabled_meanwhile(worker: InferenceWorker) -> None:
        start(worker)
        worker.scheduler.enable(False)

    monkeypatch.setattr(InferenceWorker, "start", disabled_meanwhile)
    node = make_node()
    assert graph.node.count_subscribers("image") == 0
    for _ in range(2):  # the second time it is subscribed to already
        node.scheduler().enable(False)
        response = graph.call(SetBool, "perception/enable", SetBool.Request(data=True), TIMEOUT)
        assert response.success
        assert node.count_subscribers("image") == 1


def test_the_log_says_why_an_instruction_waits_while_images_are_disabled(graph, make_node, capfd):
    node = make_node()
    node.scheduler().enable(False)
    request = SetInstruction.Request(operation=SetInstruction.Request.SET, instruction="the red bottle")
    assert graph.call(SetInstruction, "perception/set_instruction", request, TIMEOUT).success
    assert "'the red bottle' waits: camera images are disabled (/perception/enable)" in capfd.readouterr().err


def test_a_failing_callback_does_not_end_the_node(graph, make_node, conversation, monkeypatch, capfd):
    node = make_node()
    log = Log(capfd)

    def fails(message) -> None:
        raise KeyError("surprise")

    with monkeypatch.context() as patch:
        patch.setattr(camera_images, "check", fails)
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
            "No module named 'torch'; expected the packages of requirements/robot.txt",
        ),
        (
            RuntimeError("no CUDA device"),
            "does not load on device 'cpu': RuntimeError: no CUDA device; correct",
        ),
        (
            DeviceError("the device 'gpu' is not available here; expected one of cpu"),
            "expected one of cpu (parameter device: 'cpu'); then configure the node again",
        ),
    ],
)
def test_what_prevents_loading_is_explained(error, said, graph, monkeypatch, capfd):
    def fails(settings):
        raise error

    monkeypatch.setattr(model_loading, "load_lens", fails)
    node = PerceptionNode(context=graph.context)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert said in capfd.readouterr().err
    monkeypatch.setattr(model_loading, "load_lens", lambda settings: Finder())
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.destroy_node()


def test_an_error_in_a_transition_is_told_and_survived(graph, make_node, monkeypatch, capfd):
    """Exceptions raised in a transition are not reported by rclpy itself."""
    node = make_node()

    def state() -> int:
        return node._state_machine.current_state[0]

    def fails(*_):
        raise KeyError("surprise")

    for transition, part, method in (
        (node.trigger_deactivate, node._images, "close"),
        (node.trigger_cleanup, node._goals, "close"),
        (node.trigger_configure, model_loading, "backend_of"),
        (node.trigger_activate, node, "_settings"),
    ):
        if state() == UNCONFIGURED and transition != node.trigger_configure:
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        calls = []

        original = getattr(part, method)

        def once(*arguments, original=original, calls=calls):
            calls.append(arguments)
            return fails() if len(calls) == 1 else original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(part, method, once)
            assert transition() == TransitionCallbackReturn.ERROR
        assert state() == UNCONFIGURED
        said = capfd.readouterr().err
        assert "internal error while" in said and "KeyError: 'surprise'" in said
        assert node._lens is None and node.worker() is None
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS


def test_a_subscriber_that_hangs_keeps_no_other_thread_waiting(graph, make_node, conversation, tmp_path):
    node = make_node()
    with NodeProcess(
        "tests.faults.client_process", tmp_path / "log", parameters={"does": "subscriber"}
    ) as it:
        graph.wait_until(
            lambda: graph.node.count_subscribers("segmentation") == 2, TIMEOUT, "its subscription"
        )
        graph.wait_until(lambda: ask(conversation) and "segmentation" in it.log, TIMEOUT, "an answer there")
        it.send(signal.SIGSTOP)
        ask(conversation)
        ticks, ended = [0], threading.Event()

        def tick() -> None:
            while not ended.wait(0.01):
                ticks[0] += 1

        ticking = threading.Thread(target=tick)
        ticking.start()
        began = time.monotonic()
        node._answers.flush()  # as a cleanup and the end of the process do
        took = time.monotonic() - began
        ended.set()
        ticking.join()
        it.send(signal.SIGKILL)
    assert took > DELIVERY_S  # it has waited
    assert ticks[0] > 10  # one or two where the interpreter's lock is kept
