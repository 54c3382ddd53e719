"""Bad input at a high rate gives a bounded number of log lines, which count the suppressed ones."""

from __future__ import annotations

import array
import functools
import itertools
import time
from collections.abc import Callable

import pytest
from action_client import Client
from builtin_interfaces.msg import Time
from ros_graph import TIMEOUT, Conversation, Graph, Log
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import MarkerArray

from lens_ros.nodes.perception.measurements import Event
from lens_ros.ros.reporting import REQUEST_LINES
from lens_ros.ros.texts import SENTENCE
from lens_ros.srv import Segment, SetInstruction

MANY = 120
INTERVAL_S = 1.0
NASTY = "\x1b[2J\x07\r\n[FATAL] all is lost \u202e" * 200  # 5800 characters
PREFIX = r"(?m)^\[(?:INFO|WARN|ERROR|FATAL)\]"  # of a line of rclpy's


class Flood:
    """An active node and the growth of its log."""

    def __init__(self, graph: Graph, node, conversation: Conversation, capfd) -> None:
        self.graph, self.node, self.conversation = graph, node, conversation
        self.numbers = itertools.count()
        self._capfd = capfd

    @functools.cached_property
    def log(self) -> Log:
        """Log from the first use in the test on; its fixtures write elsewhere."""
        return Log(self._capfd)

    def run(
        self,
        send: Callable[[int], None],
        received: Callable[[], int],
        said: str,
        burst: int,
        *,
        tracebacks: bool = False,
    ) -> None:
        """Send until `MANY` were received, and then until a line counts the suppressed ones.

        Args:
            send: Sends message `number`.
            received: Returns how many were received.
            said: Regular expression of what each line about it contains.
            burst: Number of lines that may be logged in an interval.
            tracebacks: Whether each interval may have one.
        """
        before, other, begun = received(), self.log.count(PREFIX), time.monotonic()
        while received() < before + MANY:
            assert time.monotonic() < begun + TIMEOUT
            send(next(self.numbers))
            self.graph.executor.spin_once(timeout_sec=0.01)
        intervals = 1 + (time.monotonic() - begun) / INTERVAL_S
        assert 0 < self.log.count(said) <= burst * intervals
        assert self.log.count(PREFIX) - other <= 3 * burst * intervals
        assert intervals * burst < 0.8 * MANY  # otherwise nothing was a flood
        time.sleep(INTERVAL_S)

        def counted() -> int:
            send(next(self.numbers))
            return self.log.count(rf"{said}.*\(and \d+ more like this in between\)")

        self.graph.wait_until(counted, TIMEOUT, "a line that counts what was not logged")
        assert not self.log.count("[\x07\x1b\u202e]") and not self.log.count(r"(?m)^\[FATAL\] all is lost")
        assert not self.log.count(rf"(?m)^.{{{SENTENCE + 300}}}")
        assert self.log.count("Traceback") <= (2 + intervals if tracebacks else 0)


@pytest.fixture
def flood(graph, make_node, conversation, capfd):
    node = make_node(log_interval_s=INTERVAL_S)
    conversation.wait_until_heard()
    return Flood(graph, node, conversation, capfd)


def bad_stamp(sec: int, nanosec: int) -> Callable[[int], dict]:
    return lambda number: {"header": Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id="eye")}


def tall(number: int) -> dict:
    """Return the fields of a good 16-bit image of a separate stream, each of which would be reported."""
    data = array.array("B", b"\x0f\x00" * (64 * 96))
    return {
        "header": Header(frame_id=f"{number} {NASTY}"),
        "encoding": "mono16",
        "step": 192,
        "data": data,
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (lambda number: {"encoding": f"{number}{NASTY}"}, "is not usable: image has the encoding '"),
        (lambda number: {"data": array.array("B", bytes(number))}, "it was truncated"),
        (lambda number: {"height": 0}, "at least 1 x 1"),
        (
            bad_stamp(-1, 0),
            r"has the invalid stamp sec -1, nanosec 0; expected .* used like an image without",
        ),
        (bad_stamp(1, 2_000_000_000), r"has the invalid stamp sec 1, nanosec 2000000000"),
        (lambda number: {"header": Header(frame_id=f"{number} {NASTY}")}, "images are now 96 x 64"),
        (lambda number: {"header": Header(stamp=Time(sec=10**6 * (number % 9 + 1)))}, "stamps jumped"),
    ],
    ids=["encoding", "data", "size", "negative stamp", "nanoseconds", "frame_id", "time jumps"],
)
def test_images(changes, said, flood):
    received = lambda: flood.node._images._measured.counted(Event.IMAGE)  # noqa: E731
    flood.run(lambda number: flood.conversation.send_image(**changes(number)), received, said, 1)
    assert flood.conversation.ask("a mug after the flood").tokens > 0


def test_images_with_an_invalid_stamp_are_used_unless_ages_are_limited(flood, graph, conversation):
    assert not flood.log.count("stamp")
    before_1970 = Header(stamp=Time(sec=-5, nanosec=7), frame_id="eye")
    conversation.say("a mug of the past")
    graph.wait_until(
        lambda: conversation.send_image(header=before_1970) and conversation.of("segmentation"),
        TIMEOUT,
        "an answer",
    )
    assert conversation.of("segmentation")[0].header == before_1970
    assert graph.set_parameter("perception", "max_image_age_ms", 1000).successful
    images = flood.node._images
    assert not images.fresh(Image(header=before_1970)) and images.fresh(Image())
    assert images.age_ms(Image(header=before_1970)) is None
    graph.wait_until(
        lambda: (
            flood.log.count(r"cannot be compared with max_image_age_ms \(1000 ms\)")
            or images.fresh(Image(header=before_1970))
        ),
        TIMEOUT,
        "a line of the log",
    )


def test_16_bit_images_of_ever_new_streams(flood):
    answered = lambda: len(flood.conversation.of("segmentation"))  # noqa: E731

    def send(number: int) -> None:
        flood.conversation.say(f"mug {number}")
        flood.conversation.send_image(**tall(number))

    flood.run(send, answered, "8 bits are made of these", REQUEST_LINES)


def test_instructions_that_are_refused(flood):
    answered = lambda: len(flood.conversation.of("segmentation"))  # noqa: E731
    flood.run(
        lambda number: flood.conversation.say(" " * number),
        answered,
        "instruction refused: the instruction is empty",
        REQUEST_LINES,
    )


def test_instructions_that_are_followed(flood):
    flood.conversation.send_image()
    answered = lambda: len(flood.conversation.of("segmentation"))  # noqa: E731
    flood.run(
        lambda number: flood.conversation.say(f"{number} is a mug {NASTY[:900]}"),
        answered,
        r"instruction '\d+ is a mug",
        REQUEST_LINES,
    )


def test_instructions_while_the_node_is_inactive(flood, graph):
    """No message confirms that one was received: the last one sent is the last one in the log."""
    assert not flood.log.count("ignored")
    flood.node.trigger_deactivate()
    for number in range(MANY):
        flood.conversation.say(f"{number} is early")
        graph.spin(0.002)
    time.sleep(INTERVAL_S)
    said = r"instruction '(\d+|last) is early' ignored.*"
    graph.wait_until(
        lambda: (
            flood.conversation.say("last is early")
            or flood.log.count(rf"{said}\(and \d+ more like this in between\)")
        ),
        TIMEOUT,
        "a line that counts what was not logged",
    )
    assert flood.log.count(said) < MANY / 2


@pytest.mark.parametrize(
    ("kind", "name", "request_of", "said"),
    [
        (
            Segment,
            "segment",
            lambda number: Segment.Request(
                instruction="mug", image=Image(height=1, width=1, encoding=f"{number}{NASTY}")
            ),
            "request refused: image has the encoding",
        ),
        (
            SetInstruction,
            "set_instruction",
            lambda number: SetInstruction.Request(instruction="\x1b" * number),
            "instruction refused: the instruction",
        ),
        (SetBool, "enable", lambda number: SetBool.Request(data=bool(number % 2)), "camera images are"),
        (Trigger, "reset_tracking", lambda number: Trigger.Request(), "are answered anew"),
        (
            Segment,
            "segment",
            lambda number: Segment.Request(instruction=f"{number} breaks", image=good()),
            r"'\d+ breaks' failed: RuntimeError: a kernel failed",
        ),
    ],
    ids=["segment", "set_instruction", "enable", "reset_tracking", "failing"],
)
def test_requests(kind, name, request_of, said, flood, graph):
    responses = []
    client = graph.node.create_client(kind, f"perception/{name}")
    graph.wait_until(client.service_is_ready, TIMEOUT, "the service")

    def send(number: int) -> None:
        responses.append(graph.call(kind, f"perception/{name}", request_of(number), TIMEOUT))

    flood.run(send, lambda: len(responses), said, REQUEST_LINES, tracebacks=name == "segment")
    for response in responses:
        assert response.message == "" or response.message.isprintable()
        assert len(response.message) < SENTENCE + 100
    graph.node.destroy_client(client)


def good() -> Image:
    return Image(height=64, width=96, encoding="rgb8", step=288, data=array.array("B", bytes(64 * 288)))


def test_goals(flood, graph):
    client = Client(graph)
    results = []

    def send(number: int) -> None:
        results.append(client.ask("mug", Image(height=1, width=1, encoding=f"{number}{NASTY}")).wait())

    flood.run(send, lambda: len(results), "goal refused: image has the encoding", REQUEST_LINES)
    assert all(not each.success and each.message.isprintable() for each in results)


def test_calibrations_that_change_with_every_message(flood, graph):
    subscription = graph.node.create_subscription(MarkerArray, "markers", lambda message: None, 5)
    infos = graph.node.create_publisher(CameraInfo, "camera_info", 5)
    for endpoint in (flood.node._answers._pictures._markers, infos):
        graph.wait_until(endpoint.get_subscription_count, TIMEOUT, "a match")
    flood.conversation.send_image()
    given = flood.node._camera_info

    def send(number: int) -> None:
        infos.publish(CameraInfo(height=64, width=96, k=[1.0] * 9, distortion_model=f"{number}{NASTY}"))
        given.of_image(64, 96)

    seen = set()

    def received() -> int:
        seen.add(given._content)
        return len(seen)

    flood.run(send, received, "cannot be used for markers", 1)
    graph.node.destroy_subscription(subscription)
    graph.node.destroy_publisher(infos)
