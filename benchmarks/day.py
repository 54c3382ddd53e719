"""Simulate a robot's day for a node: clients that ask, cancel, come, go and are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from benchmarks.steadiness import NATIVE, OBJECTS, REFERENCE, SUBSCRIBERS
from lens_ros.action import SegmentInstruction
from lens_ros.client import BlockingLensClient, LensError
from lens_ros.msg import Reasoning, Segmentation
from lens_ros.ros.driver import ACTIVATE, DEACTIVATE, Driver
from lens_ros.ros.endpoints import requests
from lens_ros.ros.workarounds.executor import spin
from lens_ros.ros.workarounds.goal_client import GoalClient
from lens_ros.srv import Segment, SetInstruction

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 180.0  # timeout of every call, for a machine that other programs use too
INSTRUCTIONS = (
    "the leftmost mug", "the red bottle", "all the mugs", "the laptop", "something to clean the table with",
    "the can to the right of the white mug", "the mug that is not blue",
)  # fmt: skip
BASE = INSTRUCTIONS[:2]  # active between rounds
Operation = SetInstruction.Request


class Observer:
    """Listen to the answers in a separate thread and measure their delay from the image's stamp."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, list[float]] = {}
        self._node = rclpy.create_node("soak_observer")
        self._node.create_subscription(Segmentation, "segmentation", self._on_answer, 20)
        self._node.create_subscription(Reasoning, "reasoning", lambda message: None, 50)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.told: dict[str, str] = {}  # values of the latest report
        self.reports = 0  # number of reports received
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def add(self, what: str, seconds: float) -> None:
        """Record how long something took."""
        with self._lock:
            self._times.setdefault(what, []).append(1e3 * seconds)

    def take(self) -> dict[str, list[float]]:
        """Return the times recorded since the last call."""
        with self._lock:
            times, self._times = self._times, {}
        return times

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()

    def _on_answer(self, message: Segmentation) -> None:
        stamp = message.header.stamp
        if stamp.sec and not message.reason.startswith("the node"):
            what = "reasoned" if message.reasoned_stamp == stamp else "followed"
            self.add(what, time.time() - (stamp.sec + 1e-9 * stamp.nanosec))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for status in message.status for pair in status.values}
        if NATIVE in values:
            self.told = {name: values[name] for name in (NATIVE, OBJECTS, SUBSCRIBERS)}
            self.reports += 1

    def _spin(self) -> None:
        try:
            spin(self._executor)
        except ExternalShutdownException:
            pass


class Day:
    """Events of a robot's day, one method for each. `begin` defines the state between rounds."""

    def __init__(self, driver: Driver, observer: Observer, seed: int) -> None:
        self._driver = driver
        self._node = driver.node
        self._observer = observer
        self._random = random.Random(seed)
        self.counts: dict[str, int] = {}
        self._images: list[Image] = []
        self._node.create_subscription(Image, "image", self._keep, 1)
        self._instruction = self._node.create_publisher(String, "instruction", 10)
        self._set: Any = self._client(SetInstruction, "perception/set_instruction")
        self._segment: Any = self._client(Segment, "perception/segment")
        self._enable: Any = self._client(SetBool, "perception/enable")
        self._reset: Any = self._client(Trigger, "perception/reset_tracking")
        self._parameters: Any = self._client(GetParameters, "camera/get_parameters")
        self._camera_set: Any = self._client(SetParameters, "camera/set_parameters")
        self._action: Any = GoalClient(self._node, SegmentInstruction, "perception/segment_instruction")
        self._visitor: subprocess.Popen[bytes] | None = None
        driver.wait_until(lambda: self._images, TIMEOUT, "an image")
        driver.wait_until(self._action.server_is_ready, TIMEOUT, "the action")
        for node in ("perception", "camera"):
            driver.meet(node, TIMEOUT)

    @property
    def events(self) -> dict[str, tuple[Callable[[], None], float]]:
        """Events by name, each with its relative frequency."""
        return {
            "add": (self._add, 4),
            "remove": (self._remove, 4),
            "set": (self._replace, 2),
            "clear": (self._clear, 1),
            "topic": (self._say, 2),
            "goals": (self._goals, 4),
            "cancels": (self._cancels, 6),
            "segment": (self._request, 1),
            "picture": (self._pictures, 3),
            "client": (self._come_and_go, 1),
            "kill": (self._kill, 0.5),
            "disable": (self._disable, 0.5),
            "reset": (self._reset_tracking, 1),
            "deactivate": (self._deactivate, 0.4),
        }

    def begin(self) -> None:
        """Set the state between rounds: the instructions of `BASE` and no others."""
        self._call_set(Operation.CLEAR)
        for text in BASE:
            self._call_set(Operation.ADD, text)

    def round(self, seconds: float) -> None:
        """Run events in random order; then restore the state between rounds."""
        events = self.events
        names = list(events)
        weights = [weight for _, weight in events.values()]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            [name] = self._random.choices(names, weights)
            self.counts[name] = self.counts.get(name, 0) + 1
            events[name][0]()
            self._call(self._parameters, GetParameters.Request(), REFERENCE)
            self._driver.spin(self._random.uniform(0.0, 0.2))
        self.begin()

    @contextmanager
    def rest(self, seconds: float) -> Iterator[None]:
        """Keep the node active with its instructions but idle, without camera images, for a while.

        The camera pauses. A disabled node still receives every image. The memory that it keeps of a dozen
        freed images, until its heaps are trimmed, varies randomly by up to 25 MB.
        """
        self._call(self._enable, SetBool.Request(data=False), None)
        self._pause(True)
        self._driver.spin(seconds)
        seen = self._observer.reports
        self._driver.wait_until(lambda: self._observer.reports > seen, TIMEOUT, "a report in /diagnostics")
        yield
        self._pause(False)
        self._call(self._enable, SetBool.Request(data=True), None)

    # Events -------------------------------------------------------------------------------------------------

    def _add(self) -> None:
        self._call_set(Operation.ADD, self._text())  # refused if eight are active

    def _remove(self) -> None:
        ids = self._call_set(Operation.LIST).target_ids
        if ids:
            self._call_set(Operation.REMOVE, target_id=self._random.choice(ids))

    def _replace(self) -> None:
        self._call_set(Operation.SET, self._text())

    def _clear(self) -> None:
        self._call_set(Operation.CLEAR)

    def _say(self) -> None:
        self._instruction.publish(String(data=self._text()))

    def _goals(self) -> None:
        started = time.monotonic()
        handles = [self._send() for _ in range(self._random.randint(1, 8))]
        results = [handle.get_result_async() for handle in handles]
        self._driver.wait_until(lambda: all(each.done() for each in results), TIMEOUT, "results of goals")
        self._observer.add("goal", (time.monotonic() - started) / len(handles))

    def _cancels(self) -> None:
        handle = self._send()
        result = handle.get_result_async()
        self._driver.spin(self._random.uniform(0.0, 0.15))
        started = time.monotonic()
        response = handle.cancel_goal_async()
        self._driver.wait_until(response.done, TIMEOUT, "an answer to a cancel request")
        self._observer.add("cancel", time.monotonic() - started)
        self._driver.wait_until(result.done, TIMEOUT, "the result of a cancelled goal")

    def _request(self) -> None:
        self._call(self._segment, Segment.Request(image=self._images[-1], instruction=self._text()), None)

    def _pictures(self) -> None:
        kinds = [
            (Image, "overlay"),
            (CompressedImage, "overlay/compressed"),
            (Image, "mask"),
            (Image, "labels"),
        ]
        kind, topic = self._random.choice(kinds)
        heard: list[Any] = []
        subscription = self._node.create_subscription(kind, topic, heard.append, 2)
        deadline = time.monotonic() + 1.0
        while len(heard) < 3 and time.monotonic() < deadline:
            self._driver.spin(0.02)
        self._node.destroy_subscription(subscription)

    def _come_and_go(self) -> None:
        with BlockingLensClient(node_name=f"guest_{self._random.randrange(1000)}") as lens:
            try:
                lens.ask(self._text(), timeout_s=TIMEOUT)
            except LensError as error:
                raise AssertionError(f"a guest was not answered: {error}") from error

    def _kill(self) -> None:
        """Kill the client started last time, and start a new one."""
        self.end_visit()
        self._visitor = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.processes.visitor"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def end_visit(self) -> None:
        """Kill the client, if there is one."""
        if self._visitor is not None:
            self._visitor.send_signal(signal.SIGKILL)
            self._visitor.wait()
            self._visitor = None

    def _disable(self) -> None:
        for data in (False, True):
            self._call(self._enable, SetBool.Request(data=data))
            self._driver.spin(0.1)

    def _reset_tracking(self) -> None:
        self._call(self._reset, Trigger.Request())

    def _deactivate(self) -> None:
        assert self._driver.change_state("perception", DEACTIVATE)
        assert self._driver.change_state("perception", ACTIVATE)

    # Calls --------------------------------------------------------------------------------------------------

    def _client(self, service_type: type, name: str) -> Any:
        return self._node.create_client(service_type, name, qos_profile=requests())

    def _keep(self, message: Image) -> None:
        self._images[:] = [message]

    def _text(self) -> str:
        return self._random.choice(INSTRUCTIONS)

    def _send(self) -> Any:
        goal = SegmentInstruction.Goal(instruction=self._text(), use_latest_image=self._random.random() < 0.7)
        if not goal.use_latest_image:
            goal.image = self._images[-1]
        sent = self._action.send_goal_async(goal)
        self._driver.wait_until(sent.done, TIMEOUT, "an accepted goal")
        return sent.result()

    def _pause(self, paused: bool) -> None:
        request = SetParameters.Request(parameters=[Parameter("paused", value=paused).to_parameter_msg()])
        response = self._call(self._camera_set, request, None)
        assert response.results[0].successful, response.results[0].reason

    def _call_set(self, operation: int, text: str = "", target_id: int = 0) -> Any:
        request = Operation(operation=operation, instruction=text, target_id=target_id)
        return self._call(self._set, request)

    def _call(self, client: Any, request: Any, series: str | None = "service") -> Any:
        started = time.monotonic()
        future = client.call_async(request)
        self._driver.wait_until(future.done, TIMEOUT, f"an answer of {client.srv_name}")
        if series is not None:
            self._observer.add(series, time.monotonic() - started)
        return future.result()
