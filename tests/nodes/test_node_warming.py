"""Engines that are missing, vanish or fail while the node serves, with the real model and real builds."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_graph import START_TIMEOUT, TIMEOUT, Conversation, Log

from lens_ros.engine.errors import EngineError
from lens_ros.nodes.perception.node import PerceptionNode
from lens_ros.ros.driver import ACTIVATE, DEACTIVATE

NANO = Path(__file__).resolve().parents[2] / "models" / "lens-nano"


@pytest.fixture
def engines(nano_cache, tmp_path) -> Path:
    """Return a cache that lacks the decoder."""
    shutil.copytree(nano_cache.root, tmp_path / "engines")
    remove(tmp_path / "engines", "decoder")
    return tmp_path / "engines"


def remove(engines: Path, part: str) -> None:
    for folder in engines.glob(f"*/{part}-*"):
        shutil.rmtree(folder)


def half_made(engines: Path) -> list[Path]:
    return list(engines.glob("*/.making-*"))


def makers(engines: Path) -> list[str]:
    """Return the commands of processes that build in this cache."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if b"lens_ros.engine.background_build" in command and str(engines).encode() in command:
            found.append(path.parent.name)
    return found


@pytest.fixture
def diagnostics(graph):
    """Yield the record of the status `perception: model`: level, message, values."""
    told: list[tuple[bytes, str, dict[str, str]]] = []

    def listen(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "perception: model":
                values = {each.key: each.value for each in status.values}
                told.append((status.level, status.message, values))

    subscription = graph.node.create_subscription(DiagnosticArray, "/diagnostics", listen, 50)
    yield told
    graph.node.destroy_subscription(subscription)


# The process comes first: clients of this process may mistake an earlier node of it for another of the same
# name.


def test_the_making_ends_with_activity_and_with_the_process(graph, engines):
    process = graph.launch(
        "perception", {"model": str(NANO), "engine_cache_dir": str(engines), "build_engines": True}
    )
    graph.bring_up()
    graph.wait_for_log(process, "engines: decoder fp32: exporting to ONNX")
    assert len(makers(engines)) == 1
    assert graph.change_state("perception", DEACTIVATE)
    assert makers(engines) == half_made(engines) == []
    assert graph.change_state("perception", ACTIVATE)
    graph.wait_until(lambda: half_made(engines), TIMEOUT, "something in the making")
    assert graph.stop(process, signal.SIGTERM, START_TIMEOUT) == 0
    assert makers(engines) == half_made(engines) == []
    assert "Traceback" not in process.log


def test_engines_take_over_are_made_anew_and_may_fail(
    graph, conversation: Conversation, engines, diagnostics, capfd
):
    parameters = {
        "model": str(NANO), "engine_cache_dir": str(engines), "threads": 1, "decoding": "lookup",
    }  # fmt: skip
    node = PerceptionNode(
        context=graph.context,
        parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()],
    )
    graph.executor.add_node(node)
    log = Log(capfd)

    def logged(*parts: str) -> bool:
        return log.count(".*".join(map(re.escape, parts))) > 0

    def runs(*labels: str) -> bool:
        return bool(diagnostics) and all(label in diagnostics[-1][2]["backend"] for label in labels)

    def answers(question: str) -> bool:
        answer = conversation.ask(question)
        return answer.tokens > 0 and "engine" not in answer.reason

    try:
        # Missing: torch serves, and nobody waits.
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert logged("warming: onnxruntime engines are being made", "onnxruntime fp32 and torch serves")
        conversation.wait_until_heard()
        assert answers("the blue mug")
        graph.wait_until(lambda: runs("decoder torch", "encoder onnxruntime fp32"), TIMEOUT, "the word")
        graph.wait_until(
            lambda: [text for _, text, _ in diagnostics if "decoder fp32: exporting, 0 %" in text],
            TIMEOUT,
            "progress in the diagnostics",
        )
        text = next(text for _, text, _ in diagnostics if "exporting, 0 %" in text)
        assert text.startswith("warming: building onnxruntime decoder")
        assert text.endswith("; meanwhile onnxruntime fp32 and torch")
        graph.wait_until(lambda: logged("engines took over"), START_TIMEOUT, "the engines")
        graph.wait_until(lambda: runs("encoder onnxruntime fp32", "decoder onnxruntime"), TIMEOUT, "the word")
        assert diagnostics[-1][:2] == (b"\x00", "loaded")
        assert answers("the red mug")
        # Vanished: what was loaded of it serves on, and it is made anew.
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        remove(engines, "encoder")
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert logged("[WARN]", "the engine of the encoder", "manifest.json is missing", "made anew")
        conversation.wait_until_heard()
        assert answers("the bowl")
        graph.wait_until(lambda: log.count("took over") == 2, START_TIMEOUT, "it took over again")
        assert list(engines.glob("*/encoder-*/graph.onnx")) and answers("the mug")
        # Failing: torch takes over within the same answer.
        lens = node._lens
        assert lens is not None and lens.decoding == "lookup"

        def fails(*_: object) -> None:
            raise EngineError("it is out of order")

        lens.model.segmenter.decoder = fails
        assert answers("the laptop")
        assert logged("[ERROR]", "the engines fail: it is out of order; torch goes on")
        graph.wait_until(lambda: runs("torch: the engines failed"), TIMEOUT, "the word")
        assert diagnostics[-1][0] == b"\x01" and "it is out of order" in diagnostics[-1][1]
        assert not makers(engines) and answers("the blue mug again")
    finally:
        node.close()
        graph.executor.remove_node(node)
        node.destroy_node()
