"""Robot that sends images and instructions to `perception` and accounts for its answers."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_graph import START_TIMEOUT, TIMEOUT, ForkedNode, Graph
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool

from lens_ros.msg import Segmentation
from lens_ros.ros import conversions
from lens_ros.ros.driver import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, NodeProcess

from .report import LOG_INTERVAL_S, Row

QUESTION = "the blue mug"  # there is one in the demo recording's first image
ECHOED = 1000  # characters of a refused instruction that its answer repeats
FRAME_ID = "camera_optical_frame"
LEVELS = ("OK", "WARN", "ERROR", "STALE")


def nothing() -> None:
    """Send nothing, for tests in which another process is the camera."""


class Robot:
    """Everything that one test and its successors exchange with one `perception`.

    Every instruction must be sent with `say`, so that `settle` can check that each was answered once.
    """

    def __init__(
        self, graph: Graph, process: NodeProcess, picture: np.ndarray, name: str = "/perception"
    ) -> None:
        self.graph = graph
        self.process = process
        self.picture = picture
        self.name = name
        self.namespace = name.rpartition("/")[0]
        self.said: Counter[str] = Counter()
        self.answers: list[Segmentation] = []  # to instructions, without those that follow an object on
        self.statuses: list[tuple[str, DiagnosticStatus]] = []  # since `begin`, with their parts
        self._targets: set[tuple[int, int]] = set()  # with an answer; the ids begin anew at activation
        self._asked: Counter[str] = Counter()
        self._activations = 0
        self._log_begins = 0
        self._box: np.ndarray | None = None
        node = graph.node
        self.images = node.create_publisher(Image, f"{self.namespace}/image", 5)
        self.compressed = node.create_publisher(CompressedImage, f"{self.namespace}/image/compressed", 5)
        self.instructions = node.create_publisher(String, f"{self.namespace}/instruction", 100)
        self._subscriptions = [
            node.create_subscription(Segmentation, f"{self.namespace}/segmentation", self._answered, 1000),
            node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 50),
        ]

    # Before and after a fault -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Forget earlier log lines and diagnostics."""
        self.graph.spin(2 * LOG_INTERVAL_S)  # what was said before may be said again
        self.statuses.clear()
        self._log_begins = len(self.process.log)

    def bring_up(self) -> None:
        """Bring the node from unconfigured to active and wait until both sides know each other."""
        assert self.graph.change_state(self.name, CONFIGURE, START_TIMEOUT), self.process.tail()
        self.activate()

    def activate(self) -> None:
        """Bring the node from inactive to active."""
        assert self.graph.change_state(self.name, ACTIVATE, START_TIMEOUT), self.process.tail()
        self._activations += 1
        self.wait_until_heard()

    def deactivate(self) -> None:
        """Bring the node from active to inactive."""
        assert self.graph.change_state(self.name, DEACTIVATE, START_TIMEOUT), self.process.tail()

    def forget_images(self) -> None:
        """Make the node forget the last good image, which would serve instructions for a while."""
        for enabled in (False, True):
            request = SetBool.Request(data=enabled)
            assert self.graph.call(SetBool, f"{self.name}/enable", request, TIMEOUT).success
        self.wait_until_heard()

    def take_down(self) -> None:
        """Bring the node from active to unconfigured."""
        self.deactivate()
        assert self.graph.change_state(self.name, CLEANUP, START_TIMEOUT), self.process.tail()

    def wait_until_heard(self) -> None:
        """Wait until `perception` subscribes to this robot and this robot to `perception`."""
        self.wait_until(
            lambda: (
                (self.images.get_subscription_count() or self.compressed.get_subscription_count())
                and self.instructions.get_subscription_count()
                and self.graph.node.count_publishers(f"{self.namespace}/segmentation")
            ),
            "perception's endpoints",
        )

    def works(self, row: Row | None = None, make: Callable[[], Any] | None = None) -> Segmentation:
        """Check that a good image and an instruction are answered as before the fault.

        The box is compared relative to the image's size, so that cameras of other resolutions may be used.

        Args:
            row: The row that gets the recovery time.
            make: Creates other images.
        """
        begun = time.monotonic()
        answer = self.ask(QUESTION, make)
        if row is not None:
            row.recovery_s = round(time.monotonic() - begun, 3)
        accepted = [instance for instance in answer.instances if not instance.rejected]
        assert len(accepted) == 1 and answer.reason == "", answer
        region, mask = accepted[0].box, accepted[0].mask
        box = np.array([region.x_offset, region.y_offset, region.width, region.height], float)
        box /= [mask.width, mask.height, mask.width, mask.height]
        if self._box is None:
            self._box = box
        np.testing.assert_allclose(box, self._box, atol=0.03)
        return answer

    def settle(self) -> None:
        """Check that every instruction so far has exactly one answer."""
        given = lambda: Counter(answer.instruction for answer in self.answers)  # noqa: E731
        self.wait_until(lambda: not self.said - given(), "an answer to every instruction")
        unasked = given() - self.said
        assert not unasked, f"answered more often than asked: {unasked}"

    # What it sends ------------------------------------------------------------------------------------------

    def image(self, size: tuple[int, int] = (320, 240), **changes: Any) -> Image:
        """Return the demo's first picture, resized and stamped now, with some fields changed."""
        header = Header(stamp=self.graph.node.get_clock().now().to_msg(), frame_id=FRAME_ID)
        image = conversions.rgb_to_image(cv2.resize(self.picture, size), header)
        for name, value in changes.items():
            setattr(image, name, value)
        return image

    def jpeg(self) -> CompressedImage:
        """Return the demo's first picture as a JPEG of 640x480 pixels."""
        header = Header(stamp=self.graph.node.get_clock().now().to_msg(), frame_id=FRAME_ID)
        return conversions.rgb_to_compressed(self.picture, header, quality=95)

    def send(self, image: Any) -> None:
        """Publish a raw or compressed image."""
        (self.compressed if isinstance(image, CompressedImage) else self.images).publish(image)

    def say(self, instruction: str) -> None:
        """Publish an instruction, and expect one answer to it."""
        self.said[instruction[:ECHOED]] += 1
        self.instructions.publish(String(data=instruction))

    def ask(self, instruction: str, make: Callable[[], Any] | None = None) -> Segmentation:
        """Return the answer to an instruction about the images that are sent now and then.

        Every second time the text gets a full stop, because the same text would change nothing while it is
        active.
        """
        before = len(self.of(instruction))
        self.say(f"{instruction}." if self._asked[instruction] % 2 else instruction)
        self._asked[instruction] += 1
        self.wait_until(
            lambda: len(self.of(instruction)) > before, f"an answer to '{instruction}'", make or self.image
        )
        return self.of(instruction)[before]

    # What comes back ----------------------------------------------------------------------------------------

    def of(self, instruction: str) -> list[Segmentation]:
        """Return every answer to an instruction, with or without a full stop."""
        text = instruction[:ECHOED].removesuffix(".")
        return [answer for answer in self.answers if answer.instruction.removesuffix(".") == text]

    @property
    def log(self) -> str:
        """Log lines that the node has written since `begin`."""
        return self.process.log[self._log_begins :]

    def hears(self, *parts: str, make: Callable[[], Any] | None = None) -> str:
        """Return the first log line since `begin` that contains every part.

        Meanwhile images from `make` are sent, if it is given.
        """

        def lines() -> list[str]:
            return [line for line in self.log.splitlines() if all(part in line for part in parts)]

        self.wait_until(lines, f"a line of the log with {parts}", make)
        return lines()[0]

    def diagnosed(self, part: str, level: str, text: str, make: Callable[[], Any] | None = None) -> str:
        """Return the first status since `begin` of a part, with a level and a text in its message.

        For level OK only statuses from now on count, because the part was also OK before the fault.
        """
        begun = len(self.statuses) if level == "OK" else 0

        def statuses() -> list[str]:
            return [
                f"{level} {part}: {status.message}"
                for name, status in self.statuses[begun:]
                if name == part and _level(status) == level and text in status.message
            ]

        self.wait_until(statuses, f"{level} '{text}' in the diagnostics of {part}", make)
        return statuses()[0]

    def counter(self, part: str, key: str) -> int:
        """Return a value of the next status."""
        begun = len(self.statuses)
        self.wait_until(lambda: self._values(part, key, begun), f"diagnostics of {part}")
        return int(float(self._values(part, key, begun)[-1]))

    def counted(self, part: str, key: str, before: int, make: Callable[[], Any] | None = None) -> str:
        """Wait until a counter exceeds `before`."""
        self.wait_until(
            lambda: any(float(value) > before for value in self._values(part, key)), f"'{key}' to go up", make
        )
        level = next(_level(status) for name, status in reversed(self.statuses) if name == part)
        return f"{level} {part}: the counter '{key}' goes up"

    def _values(self, part: str, key: str, since: int = 0) -> list[str]:
        return [
            pair.value
            for name, status in self.statuses[since:]
            if name == part
            for pair in status.values
            if pair.key == key
        ]

    def wait_until(
        self, condition: Callable[[], object], what: str, make: Callable[[], Any] | None = None
    ) -> None:
        """Spin until a condition is true, and publish an image from `make` five times a second."""
        next_image = 0.0

        def come_true() -> object:
            nonlocal next_image
            if make is not None and time.monotonic() >= next_image:
                next_image = time.monotonic() + 0.2
                image = make()
                if image is not None:
                    self.send(image)
            return condition()

        self.graph.wait_until(come_true, TIMEOUT, what)

    @contextlib.contextmanager
    def parameters(self, **values: Any) -> Iterator[None]:
        """Change parameters for a while: name=(meanwhile, afterwards)."""
        for name, (meanwhile, _) in values.items():
            result = self.graph.set_parameter(self.name, name, meanwhile)
            assert result.successful, result.reason
        try:
            yield
        finally:
            for name, (_, afterwards) in values.items():
                assert self.graph.set_parameter(self.name, name, afterwards).successful

    def _answered(self, message: Segmentation) -> None:
        target = self._activations, message.target_id
        if message.target_id == 0 or target not in self._targets:
            self.answers.append(message)
        self._targets.add(target)

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name, part = status.name.split(": ")
            if name == self.name.lstrip("/"):
                self.statuses.append((part, status))

    def close(self) -> None:
        """Destroy all publishers and subscriptions."""
        for subscription in self._subscriptions:
            self.graph.node.destroy_subscription(subscription)
        for publisher in (self.images, self.compressed, self.instructions):
            self.graph.node.destroy_publisher(publisher)


def launch(
    graph: Graph,
    module: str,
    name: str,
    parameters: dict[str, Any],
    *,
    kind: type[NodeProcess] = ForkedNode,
    **options: Any,
) -> NodeProcess:
    """Start a process of the graph with a separate log; `build_engines` is off by default."""
    log = Path(graph.logs) / f"{name}.log"
    process = kind(module, log, parameters={"build_engines": False, **parameters}, **options)
    graph.processes.append(process)
    return process


def _level(status: DiagnosticStatus) -> str:
    value = status.level
    return LEVELS[int.from_bytes(value, "little") if isinstance(value, bytes) else value]
