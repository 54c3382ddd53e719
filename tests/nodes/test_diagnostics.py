"""`/diagnostics` over real messages in every state: measurements and problems."""

from __future__ import annotations

import gc
import weakref

import pytest
from action_client import Client
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_graph import START_TIMEOUT, TIMEOUT
from sensor_msgs.msg import Image

from lens_ros.nodes.perception import model_loading
from lens_ros.nodes.perception.measurements import WINDOW_S, Measurements, Series, Trouble
from lens_ros.nodes.perception.node import PerceptionNode
from lens_ros.srv import Segment

PARTS = ("state", "images", "answers", "model")


class Reader:
    """Subscriber that keeps the latest status of each part."""

    def __init__(self, graph) -> None:
        self._graph = graph
        self.latest: dict[str, DiagnosticStatus] = {}
        self.subscription = graph.node.create_subscription(DiagnosticArray, "/diagnostics", self._read, 10)

    def _read(self, message: DiagnosticArray) -> None:
        assert message.header.stamp.sec > 0
        for status in message.status:
            name, part = status.name.split(": ")
            assert name == "perception"
            self.latest[part] = status

    def wait_for(self, part: str, text: str) -> DiagnosticStatus:
        """Return the next status of a part whose message contains a text.

        Statuses about the node of the previous test are ignored: its end takes a while to propagate.
        """

        def come() -> bool:
            message = self.latest[part].message if part in self.latest else ""
            return text in message and "nodes are called" not in message

        self._graph.wait_until(come, TIMEOUT, f"'{text}' in {part}")
        return self.latest[part]

    def values(self, part: str) -> dict[str, str]:
        return {pair.key: pair.value for pair in self.latest[part].values}


@pytest.fixture
def reader(graph):
    gc.collect()  # the node of the test before
    reader = Reader(graph)
    yield reader
    graph.node.destroy_subscription(reader.subscription)


def level(status: DiagnosticStatus) -> int:
    return int.from_bytes(status.level, "little") if isinstance(status.level, bytes) else status.level


OK, WARN, ERROR = range(3)


def test_a_node_at_work_tells_rates_and_latencies(graph, make_node, conversation, reader):
    make_node(reasoner_interval_s=0.01)
    conversation.wait_until_heard()
    conversation.ask("the mug")
    reader.wait_for("state", "active")

    def worked() -> bool:
        conversation.send_image()
        graph.spin(0.05)
        values = reader.values("images"), reader.values("answers")
        return int(values[0].get("received", 0)) >= 5 and int(values[1].get("answers", 0)) >= 2

    graph.wait_until(worked, TIMEOUT, "five images and two answers")
    reader.latest.clear()
    assert level(reader.wait_for("state", "active")) == OK
    assert set(reader.latest) == set(PARTS)
    assert reader.values("state")["instructions"] == "1: the mug"
    images, answers, model = (reader.values(part) for part in ("images", "answers", "model"))
    assert float(images["rate in, Hz"]) > 0
    assert "age when received, ms, p50" in images  # the stamps are of 1970, so the value means nothing
    assert float(answers["rate out, Hz"]) > 0
    assert [answers[f"{stage}, ms, p50"] for stage in ("preprocess", "reason", "decode")] == [
        "1.0",
        "2.0",
        "3.0",
    ]
    assert float(answers["total, ms, p95"]) >= float(answers["total, ms, p50"]) > 0
    assert model["model"] == "finder" and model["backend"] == "torch"
    assert float(model["process memory, MB"]) > float(model["native memory in use, MB"]) > 10
    assert int(model["Python's objects in use"]) > 100_000


def test_it_tells_who_listens(graph, make_node, reader):
    make_node()
    overlay = graph.node.create_subscription(Image, "overlay", lambda message: None, 1)

    def counted(topic: str, count: int) -> bool:
        return f"{topic} {count}" in reader.values("answers").get("subscribers", "").split(", ")

    reader.wait_for("answers", "no trouble")
    graph.wait_until(lambda: counted("/overlay", 1), TIMEOUT, "a subscriber of /overlay")
    assert counted("/mask", 0)
    graph.node.destroy_subscription(overlay)
    graph.wait_until(lambda: counted("/overlay", 0), TIMEOUT, "no subscriber of /overlay")


def test_goals_and_requests_that_are_refused_are_counted(graph, make_node, conversation, reader):
    make_node()
    conversation.wait_until_heard()
    goal = Client(graph).ask("", conversation.send_image())
    assert "the instruction is empty" in goal.wait().message
    request = Segment.Request(image=conversation.send_image(), instruction="")
    response = graph.call(Segment, "perception/segment", request, TIMEOUT)
    assert "the instruction is empty" in response.message
    reader.latest.clear()
    reader.wait_for("answers", "no trouble")
    assert reader.values("answers")["refused"] == "2"


def test_silence_and_bad_images_are_warnings_until_they_end(graph, make_node, conversation, reader):
    make_node(image_timeout_s=0.5)
    status = reader.wait_for("images", "no image on /image for")
    assert level(status) == WARN and "config/fastdds.xml" in status.message  # this test is a publisher
    conversation.wait_until_heard()
    conversation.send_image(encoding="rgb9")
    assert level(reader.wait_for("images", "encoding 'rgb9'")) == WARN
    assert int(reader.values("images")["unusable"]) == 1

    def well() -> bool:
        conversation.send_image()
        return reader.latest["images"].message == "images arrive"

    graph.wait_until(well, TIMEOUT, "the end of the warning")
    assert level(reader.latest["images"]) == OK


def test_a_mismatch_of_quality_of_service_is_a_warning(graph, make_node, reader):
    make_node(**{"qos_overrides./image.subscription.reliability": "reliable"})
    best_effort = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    publisher = graph.node.create_publisher(Image, "image", best_effort)
    assert level(reader.wait_for("images", "does not match (RELIABILITY)")) == WARN
    graph.node.destroy_publisher(publisher)
    graph.wait_until(
        lambda: "does not match" not in reader.latest["images"].message, TIMEOUT, "the end of the warning"
    )


def test_one_that_always_fails_is_a_warning_until_it_ends(make_node, conversation, reader):
    node = make_node()
    conversation.wait_until_heard()
    conversation.ask("this breaks")
    other = node.scheduler().add_instruction("the mug")
    assert conversation.wait_for_answer("the mug", with_images=True).reason == ""
    reader.latest.clear()
    assert level(reader.wait_for("answers", "'this breaks' failed")) == WARN
    node.scheduler().remove(next(t.id for t in node.scheduler().targets if t is not other), "removed")
    assert level(reader.wait_for("answers", "no trouble")) == OK


def test_a_failing_model_is_a_warning_until_it_works(make_node, conversation, reader):
    make_node()
    conversation.wait_until_heard()
    conversation.ask("this breaks")
    assert level(reader.wait_for("answers", "'this breaks' failed: RuntimeError: a kernel failed")) == WARN
    assert reader.values("answers")["failed"] == "1"
    conversation.ask("the mug")
    assert level(reader.wait_for("answers", "no trouble")) == OK


def test_it_speaks_in_every_state_and_says_what_comes_next(graph, make_node, reader):
    node = make_node()
    reader.wait_for("state", "active")
    for transition, text in (
        (node.trigger_deactivate, "inactive; activate it"),
        (node.trigger_cleanup, "unconfigured; configure and activate it"),
        (node.trigger_shutdown, "finalized"),
    ):
        assert transition() == TransitionCallbackReturn.SUCCESS
        assert level(reader.wait_for("state", text)) == OK


def test_a_model_that_does_not_load_is_an_error_until_it_does(graph, monkeypatch, finder, reader):
    def fails(settings):
        raise RuntimeError("no CUDA device")

    monkeypatch.setattr(model_loading, "load_lens", fails)
    node = PerceptionNode(context=graph.context)
    graph.executor.add_node(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    status = reader.wait_for("state", "unconfigured: cannot configure:")
    assert level(status) == ERROR and "no CUDA device" in status.message
    monkeypatch.setattr(model_loading, "load_lens", lambda settings: finder)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert level(reader.wait_for("state", "inactive")) == OK
    graph.end(node)


@pytest.mark.slow
def test_a_process_speaks_while_it_loads(graph, checkpoint, reader):
    process = graph.launch("perception", {"model": str(checkpoint)})
    assert level(reader.wait_for("state", "unconfigured")) == OK
    graph.bring_up()
    reader.wait_for("state", "active")
    assert "torch" in reader.values("model")["backend"]
    assert graph.stop(process) == 0
    assert START_TIMEOUT and "internal error" not in process.log


def test_series_forget_what_is_long_ago():
    now = [0.0]
    measured = Measurements(clock=lambda: now[0])
    for value in range(1, 101):
        measured.add(Series.REASON, float(value))
    quantiles = measured.quantiles(Series.REASON)
    assert (quantiles.p50, quantiles.p95, quantiles.count) == (51.0, 96.0, 100)
    assert measured.rate(Series.REASON) == 100 / WINDOW_S
    now[0] = WINDOW_S + 0.1
    assert measured.quantiles(Series.REASON) is None and measured.rate(Series.REASON) == 0.0


def test_what_happens_seldom_does_not_pile_up():
    class Value(float):
        """A value that can be weakly referenced."""

    now = [0.0]
    measured = Measurements(clock=lambda: now[0])
    value = Value(1.0)
    watched = weakref.ref(value)
    measured.add(Series.TRACK, value)
    del value
    now[0] = WINDOW_S
    measured.add(Series.TRACK, 2.0)
    assert watched() is not None and measured.quantiles(Series.TRACK).count == 2
    now[0] += 0.1
    measured.add(Series.TRACK, 3.0)
    assert watched() is None and measured.quantiles(Series.TRACK).count == 2


def test_notes_are_replaced_and_forgotten():
    measured = Measurements()
    mismatch = Trouble.IMAGE_MISMATCH
    measured.note(mismatch, "a", about="/image")
    measured.note(mismatch, "b", about="/instruction")
    measured.note(mismatch, "c", about="/image")
    measured.note(Trouble.NO_IMAGES, "d")
    assert measured.noted(Trouble.NO_IMAGES, mismatch) == ["d", "c", "b"]
    measured.note(mismatch, "", about="/image")
    assert measured.noted(mismatch) == ["b"]
    measured.forget(mismatch)
    assert measured.noted(*Trouble) == ["d"]


def test_a_note_expires():
    now = [0.0]
    measured = Measurements(clock=lambda: now[0])
    measured.note(Trouble.FAILED_OTHER, "out of memory", seconds=60.0)
    now[0] = 59.9
    assert measured.noted(Trouble.FAILED_OTHER) == ["out of memory"]
    now[0] = 60.0
    assert measured.noted(Trouble.FAILED_OTHER) == []
