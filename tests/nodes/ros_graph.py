"""Shared by the tests of the nodes: a node, processes, and a record of everything received."""

from __future__ import annotations

import array
import contextlib
import gc
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rclpy
from forked import ForkedProcess
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String

from lens_ros.msg import Reasoning, Segmentation
from lens_ros.ros.driver import ACTIVATE, CONFIGURE, Driver, NodeProcess, isolate, own_domain
from lens_ros.ros.middleware import PROFILE_VARIABLE, fitted_profile

TIMEOUT = 180.0  # of anything that takes a moment; only ever reached by a failure
START_TIMEOUT = 240.0  # of a process that imports torch beside other work

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def own_graph(tmp_path_factory: Any) -> Iterator[Graph]:
    """Yield a graph that nothing else sees, for processes that run this checkout."""
    saved = dict(os.environ)
    domain = own_domain()
    isolate(domain)
    os.environ[PROFILE_VARIABLE] = str(ROOT / "config" / "fastdds.xml")
    os.environ["RMW_FASTRTPS_USE_QOS_FROM_XML"] = "1"
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_logs"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with fitted_profile():
        graph = Graph(domain, tmp_path_factory.mktemp("logs"))
    try:
        yield graph
    finally:
        graph.close()
        os.environ.clear()
        os.environ.update(saved)


class ForkedNode(NodeProcess):
    """A node's process that is a fork of the tests' template, which starts quickly (`forked`)."""

    def _start(self, arguments: list[str], environment: dict[str, str]) -> Any:
        return ForkedProcess(self.module, arguments, output=self.log_path, environment=environment)


class Graph(Driver):
    """A node that drives and listens, and the processes that it started."""

    def __init__(self, domain: int, logs: Path) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        node = rclpy.create_node("tests", context=self.context)
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)
        super().__init__(node, executor)
        self.logs = logs

    def launch(
        self, name: str, parameters: dict[str, Any], *, kind: type[NodeProcess] = ForkedNode, **options: Any
    ) -> NodeProcess:
        """Start `lens_ros.nodes.NAME` as a process of this graph; `build_engines` is off by default.

        Args:
            name: Name of the node.
            parameters: Its parameters.
            kind: `NodeProcess` to start it as a user would.
            options: Further arguments of `kind`.
        """
        if name == "perception":
            parameters = {"build_engines": False, **parameters}
        log = self.logs / f"{name}_{len(self.processes)}.log"
        process = kind(f"lens_ros.nodes.{name}.node", log, parameters=parameters, **options)
        self.processes.append(process)
        return process

    def stop(self, process: NodeProcess, *signals: Any) -> int:
        """Stop a process, stop monitoring it, and return its exit code."""
        self.processes.remove(process)
        code = process.stop(*signals)
        assert code != -signal.SIGABRT, f"it did not end when asked:\n{process.tail(80)}"
        return code

    def close(self) -> None:
        for process in self.processes:
            process.stop()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def end(self, node: Any) -> None:
        """Close and destroy a `PerceptionNode` of this process.

        The graph shows the node until Python has freed it, so the caller must not keep a reference.
        """
        node.close()
        self.executor.remove_node(node)
        node.destroy_node()
        del node
        self.spin(0.05)  # the executor lets go of it
        gc.collect()

    def bring_up(self, node_name: str = "perception") -> None:
        assert self.change_state(node_name, CONFIGURE, START_TIMEOUT)
        assert self.change_state(node_name, ACTIVATE, START_TIMEOUT)

    def set_parameter(self, node_name: str, name: str, value: Any) -> Any:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, f"{node_name}/set_parameters", request, TIMEOUT).results[0]

    def wait_for_log(self, process: NodeProcess, *parts: str) -> str:
        """Return the first log line that contains every part."""

        def line() -> str:
            return next((line for line in process.log.splitlines() if all(p in line for p in parts)), "")

        self.wait_until(line, TIMEOUT, f"a line of the log with {parts}")
        return line()


class Log:
    """Reader of what has been written to standard error since it was created, while pytest captures it.

    pytest captures to a file. `capfd.readouterr` empties that file after reading it, so output written by
    another thread in between is lost. A second file description reads without emptying.
    """

    def __init__(self, capfd: Any) -> None:
        self._capfd = capfd  # must be active: standard error is a file only while it is
        self._file = open("/proc/self/fd/2", errors="replace")  # noqa: SIM115 - closed with the test's process
        self._file.seek(0, os.SEEK_END)
        self._text = ""

    def count(self, pattern: str) -> int:
        """Count the matches of a regular expression."""
        self._text += self._file.read()
        return len(re.findall(pattern, self._text))


class Conversation:
    """Communication with `perception`: sends images and instructions, keeps all replies in order."""

    def __init__(self, graph: Graph, *, with_images: bool = True) -> None:
        self.graph = graph
        self.received: list[tuple[str, Any]] = []
        node = graph.node
        self._subscriptions = [
            node.create_subscription(
                kind, topic, lambda m, topic=topic: self.received.append((topic, m)), 100
            )
            for topic, kind in (("reasoning", Reasoning), ("segmentation", Segmentation), ("mask", Image))
        ]
        # Without: where a camera process publishes them.
        self.images = node.create_publisher(Image, "image", 5) if with_images else None
        self.instructions = node.create_publisher(String, "instruction", 10)
        self._sent = 0
        self._met = False

    def close(self) -> None:
        for subscription in self._subscriptions:
            self.graph.node.destroy_subscription(subscription)
        for publisher in (self.images, self.instructions):
            if publisher is not None:
                self.graph.node.destroy_publisher(publisher)

    def wait_until_heard(self) -> None:
        """Wait until `perception` subscribes to this node, and both see each other's endpoints."""
        publishers = ("reasoning", "segmentation", "mask")
        self.graph.wait_until(
            lambda: (
                (self.images is None or self.images.get_subscription_count())
                and self.instructions.get_subscription_count()
                and all(self.graph.node.count_publishers(topic) for topic in publishers)
            ),
            TIMEOUT,
            "perception's endpoints",
        )
        if not self._met:
            self.graph.meet("perception", TIMEOUT)
            self._met = True

    def send_image(self, **changes: Any) -> Image:
        """Send a good 96x64 image with a unique stamp and some fields changed."""
        assert self.images is not None
        self._sent += 1
        message = Image(
            height=64, width=96, encoding="rgb8", step=288, data=array.array("B", bytes(64 * 288))
        )
        message.header.stamp.sec = 1000 + self._sent
        message.header.frame_id = "camera_optical_frame"
        for name, value in changes.items():
            setattr(message, name, value)
        self.images.publish(message)
        return message

    def say(self, instruction: str) -> None:
        self.instructions.publish(String(data=instruction))

    def of(self, topic: str, instruction: str | None = None) -> list[Any]:
        return [
            message
            for name, message in self.received
            if name == topic and (instruction is None or message.instruction == instruction)
        ]

    def wait_for_answer(self, instruction: str, *, with_images: bool = False) -> Segmentation:
        """Return the next segmentation for an instruction; send good images meanwhile if requested."""
        next_image = 0.0

        def come() -> object:
            nonlocal next_image
            if with_images and time.monotonic() > next_image:
                next_image = time.monotonic() + 0.2
                self.send_image()
            thoughts = self.of("reasoning", instruction)  # topics are not ordered among each other
            return bool(self.of("segmentation", instruction)) and thoughts and thoughts[-1].finished

        self.graph.wait_until(come, TIMEOUT, f"a segmentation for '{instruction}'")
        return self.of("segmentation", instruction)[0]

    def assert_it_works(self, instruction: str) -> None:
        """Assert that a good image and a new instruction are answered."""
        answer = self.ask(instruction)
        assert answer.tokens > 0 and answer.header.frame_id == "camera_optical_frame"

    def ask(self, instruction: str) -> Segmentation:
        self.say(instruction)
        return self.wait_for_answer(instruction, with_images=True)
