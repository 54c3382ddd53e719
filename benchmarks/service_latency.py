"""Measure how soon services and cancellation answer while the model works, against an idle node.

    python -m benchmarks.service_latency [--calls 300] [--threads 0] [--json out/service_latency.json]

Three real processes over DDS: the recorded camera, the node `perception` with lens-nano, and this client. The
node is measured twice in one run: active without an instruction, and reasoning without a pause about several
instructions. Calls that change that work (SET, ADD, disabling and enabling the stream) are measured only in
the second case. A call's time runs from sending the request to having the response in this process.
Cancellation is measured on goals just accepted and on the one in progress, to the response and to the result.
Prints a table; exit status 1 if a p99 under load is above 50 ms.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from tqdm import tqdm

from lens_ros.action import SegmentInstruction
from lens_ros.msg import Segmentation
from lens_ros.ros.driver import ACTIVATE, CONFIGURE, Driver, NodeProcess, isolate, own_domain
from lens_ros.ros.workarounds.goal_client import GoalClient
from lens_ros.srv import SetInstruction

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MS = 50.0
INSTRUCTIONS = ("the red mug", "the blue mug", "the bowl", "something to drink from")
SERVICES: dict[str, tuple[Any, Any]] = {
    "set_instruction (LIST)": (SetInstruction, SetInstruction.Request(operation=SetInstruction.Request.LIST)),
    "enable (no change)": (SetBool, SetBool.Request(data=True)),
    "reset_tracking": (Trigger, Trigger.Request()),
    "get_state": (GetState, GetState.Request()),
    "camera/get_parameters": (GetParameters, GetParameters.Request()),  # cost of the machine itself
}
REFERENCE = "camera/get_parameters"


class Bench:
    """Client that sends one request at a time and measures the time."""

    def __init__(self, node: Node, driver: Driver) -> None:
        self.node = node
        self.driver = driver
        self.clients: dict[str, Any] = {
            name: node.create_client(kind, name if "/" in name else f"perception/{name.split()[0]}")
            for name, (kind, _) in SERVICES.items()
        }
        self.action: Any = GoalClient(node, SegmentInstruction, "perception/segment_instruction")
        self.answers = 0
        self.images: list[Image] = []
        node.create_subscription(Segmentation, "segmentation", self._count, 10)
        self._camera = node.create_subscription(Image, "image", self.images.append, 1)
        for client in (*self.clients.values(), self.action):
            ready = getattr(client, "service_is_ready", None) or client.server_is_ready
            driver.wait_until(ready, 30, "a server")
        for each in ("perception", "camera"):
            driver.meet(each, 30)
        driver.wait_until(lambda: self.images, 30, "an image")
        node.destroy_subscription(self._camera)

    def _count(self, _: Segmentation) -> None:
        self.answers += 1

    def service(self, name: str, request: Any = None) -> float:
        """Return milliseconds of one call, with its request from `SERVICES` unless another is given."""
        started = time.perf_counter()
        future = self.clients[name].call_async(request or SERVICES[name][1])
        while not future.done():
            self.driver.executor.spin_once(timeout_sec=1.0)
        return 1e3 * (time.perf_counter() - started)

    def changes(self) -> Iterator[tuple[str, float]]:
        """Change the work in progress and restore it; yield the name and milliseconds of each call."""
        kinds = SetInstruction.Request
        for number, text in enumerate(INSTRUCTIONS):
            operation, name = (kinds.ADD, "ADD") if number else (kinds.SET, "SET")
            request = kinds(operation=operation, instruction=text)
            yield f"set_instruction ({name})", self.service("set_instruction (LIST)", request)
        for enabled in (False, True):
            request = SetBool.Request(data=enabled)
            yield f"enable ({enabled})".lower(), self.service("enable (no change)", request)

    def cancel(self, *, reasons: bool) -> tuple[float, float]:
        """Return milliseconds from a cancel request to its response, and to the goal's result.

        The goal is one that `reasons`, or one that was just accepted.
        """
        reasoning = []

        def heard(message: Any) -> None:
            if message.feedback.stage == SegmentInstruction.Feedback.REASONING:
                reasoning.append(message)

        goal = SegmentInstruction.Goal(instruction=INSTRUCTIONS[0], image=self.images[0])
        sent = self.action.send_goal_async(goal, heard)
        self.driver.wait_until(sent.done, 30, "an accepted goal")
        handle = sent.result()
        result = handle.get_result_async()
        if reasons:
            self.driver.wait_until(lambda: reasoning or result.done(), 30, "reasoning")
        started = time.perf_counter()
        response = handle.cancel_goal_async()
        answered = 0.0
        while not result.done() or not response.done():
            self.driver.executor.spin_once(timeout_sec=1.0)
            if response.done() and not answered:
                answered = time.perf_counter()
        return 1e3 * (answered - started), 1e3 * (time.perf_counter() - started)


def quantile(values: list[float], share: float) -> float:
    """Return the value below which a `share` of all values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(bench: Bench, calls: int, what: str, *, changes: bool) -> dict[str, list[float]]:
    """Return milliseconds of `calls` calls of each kind, taking turns.

    If `changes` is true, calls that change the work are included.
    """
    times: dict[str, list[float]] = {}
    for _ in tqdm(range(calls), desc=what, leave=False):
        for name in SERVICES:
            times.setdefault(name, []).append(bench.service(name))
            bench.driver.spin(0.01)
        for name, reasons in (("accepted goal", False), ("reasoning goal", True)):
            answer, result = bench.cancel(reasons=reasons)
            times.setdefault(f"cancel {name}", []).append(answer)
            times.setdefault(f"cancel {name}, result", []).append(result)
        for name, milliseconds in bench.changes() if changes else ():
            times.setdefault(name, []).append(milliseconds)
            bench.driver.spin(0.01)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=300, help="of each kind, idle and under load")
    parser.add_argument("--threads", type=int, default=0, help="of the model (parameter threads)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    isolate(own_domain())
    rclpy.init(args=[])
    node = rclpy.create_node("service_latency")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    driver = Driver(node, executor)
    logs = Path(tempfile.mkdtemp(prefix="service_latency_"))
    camera = NodeProcess(
        "lens_ros.nodes.camera.node",
        logs / "camera.log",
        parameters={"source": str(ROOT / "demo" / "tabletop")},
    )
    perception = NodeProcess(
        "lens_ros.nodes.perception.node",
        logs / "perception.log",
        parameters={"threads": options.threads, "build_engines": False},
    )
    with camera, perception:
        driver.processes = [camera, perception]
        assert driver.change_state("perception", CONFIGURE) and driver.change_state("perception", ACTIVATE)
        bench = Bench(node, driver)
        idle = measure(bench, options.calls, "idle", changes=False)
        always = Parameter("reasoner_interval_s", value=1e-3).to_parameter_msg()
        driver.call(
            SetParameters, "perception/set_parameters", SetParameters.Request(parameters=[always]), 30
        )
        for text in INSTRUCTIONS:
            request = SetInstruction.Request(operation=SetInstruction.Request.ADD, instruction=text)
            assert driver.call(SetInstruction, "perception/set_instruction", request, 30).success
        driver.wait_until(lambda: bench.answers >= 2 * len(INSTRUCTIONS), 60, "answers")
        before, started = bench.answers, time.perf_counter()
        busy = measure(bench, options.calls, "reasoning", changes=True)
        rate = (bench.answers - before) / (time.perf_counter() - started)
    rclpy.try_shutdown()
    print(f"{'ms':32}{'idle p50':>10}{'p99':>8}{'reasoning p50':>16}{'p99':>8}{'max':>8}")
    report = {}
    for name in sorted(busy, key=lambda each: each == REFERENCE):
        alone = idle.get(name, [math.nan])
        row = [
            quantile(alone, 0.5), quantile(alone, 0.99),
            quantile(busy[name], 0.5), quantile(busy[name], 0.99), max(busy[name]),
        ]  # fmt: skip
        report[name] = dict(zip(("idle_p50", "idle_p99", "p50", "p99", "max"), row, strict=True))
        print(f"{name:32}{row[0]:10.1f}{row[1]:8.1f}{row[2]:16.1f}{row[3]:8.1f}{row[4]:8.1f}")
    every = [value for name, values in busy.items() if name != REFERENCE for value in values]
    p99 = quantile(every, 0.99)
    print(
        f"all of them, reasoning: p99 {p99:.1f} ms of {len(every)} calls, mean {statistics.mean(every):.1f} "
        f"ms; meanwhile {rate:.1f} answers per second"
    )
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"milliseconds": report, "p99": p99, "answers_hz": rate}, indent=2)
        )
    return 1 if max(row["p99"] for name, row in report.items() if name != REFERENCE) > LIMIT_MS else 0


if __name__ == "__main__":
    sys.exit(main())
