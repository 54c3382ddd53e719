"""Draw the terminal view of `lens watch`.

    lens watch                            # redraws in place; Ctrl-C ends it
    lens watch --once                     # one snapshot
    lens watch --node /robot/perception

State and instructions are asked for once a second, answers and reasoning are heard on their topics, and what
the node alone knows (image rate, drops, memory, trouble) comes from `/diagnostics`. Images are not subscribed
to.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from lens_ros.client.errors import LensError, missing
from lens_ros.client.lens_client import LensClient, beside
from lens_ros.commands.watched_node import Watched, rendered
from lens_ros.msg import Reasoning, Segmentation
from lens_ros.nodes.perception.measurements import Measurements
from lens_ros.ros import starting
from lens_ros.ros.endpoints import reliable, requests
from lens_ros.ros.middleware import fitted_profile
from lens_ros.ros.stamps import is_valid, nanoseconds
from lens_ros.ros.starting import StartError

ASK_PERIOD_S = 1.0
ONCE_LISTENS_S = 2.5  # at least; what arrives meanwhile belongs to a snapshot
REDRAW_S = 0.5
REPEAT_S = 5.0  # between the snapshots of what is no terminal
WAIT_S = 10.0


class Watcher:
    """Keeps a `Watched` up to date from the messages of the node `perception`."""

    def __init__(self, node: Node, perception: str) -> None:
        self.watched = Watched(node.resolve_service_name(perception), Measurements())
        self._node = node
        self._client = LensClient(node, perception, server_timeout_s=ASK_PERIOD_S)
        self._state: Any = node.create_client(GetState, f"{perception}/get_state", qos_profile=requests())
        self._prefix = self.watched.node.lstrip("/") + ": "
        self._asked: tuple[float, Any] | None = None  # when the state was asked for, and the future
        node.create_subscription(
            Segmentation, beside(perception, "segmentation"), self._segmentation, reliable(20)
        )
        node.create_subscription(Reasoning, beside(perception, "reasoning"), self._reasoning, reliable(50))
        node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, reliable(10))
        node.create_timer(ASK_PERIOD_S, self._ask, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def found(self) -> bool:
        """Whether a node of this name runs."""
        return self._state.service_is_ready()

    def _ask(self) -> None:
        if not self.found:
            self.watched.state, self.watched.targets = "gone", None
            self._asked = None
            return
        if self._asked is not None:
            since, future = self._asked
            if time.monotonic() < since + 5.0:
                return
            self._state.remove_pending_request(future)
            self.watched.state = "does not answer"
        future = self._state.call_async(GetState.Request())
        self._asked = time.monotonic(), future
        future.add_done_callback(self._hear_state)

    def _hear_state(self, future: Any) -> None:
        self._asked = None
        if future.result() is None:
            return
        self.watched.state = future.result().current_state.label
        if self.watched.state == "active":
            self._client.list().add_done_callback(self._hear_targets)
        else:
            self.watched.targets = {}

    def _hear_targets(self, future: Any) -> None:
        try:
            self.watched.targets = future.result()
        except LensError:
            self.watched.targets = None  # deactivated meanwhile, or no answer: the next state shows which

    def _segmentation(self, message: Segmentation) -> None:
        now = self._node.get_clock().now().nanoseconds * 1e-9
        stamp = message.header.stamp
        known = is_valid(stamp) and nanoseconds(stamp)
        self.watched.hear_segmentation(message, now - 1e-9 * nanoseconds(stamp) if known else None)

    def _reasoning(self, message: Reasoning) -> None:
        self.watched.reasoning = message

    def _diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(self._prefix):
                self.watched.diagnostics[status.name[len(self._prefix) :]] = status


def watch(
    perception: str, out: TextIO, *, once: bool, wait_s: float = WAIT_S, interval_s: float | None = None
) -> None:
    """Show the node until Ctrl-C, or once.

    Once: after `interval_s` of listening, and up to `wait_s` more for what the node has not sent by then.

    Raises:
        LensError: the node is not found.
    """
    context = rclpy.Context()
    with fitted_profile():  # it receives small messages alone: whatever fits will do
        starting.init([], context=context)
        executor = SingleThreadedExecutor(context=context)
        node = rclpy.create_node(f"lens_watch_{os.getpid()}", context=context)
    try:
        executor.add_node(node)
        watcher = Watcher(node, perception)
        _spin(executor, wait_s, lambda: watcher.found)
        if not watcher.found:
            raise LensError(missing(node, perception, wait_s))
        if once:
            _spin(executor, ONCE_LISTENS_S if interval_s is None else interval_s)
            _spin(executor, wait_s, lambda: watcher.watched.told)
            out.write("\n".join(rendered(watcher.watched, time.strftime("%H:%M:%S"))) + "\n")
            return
        in_place = out.isatty()
        interval = interval_s or (REDRAW_S if in_place else REPEAT_S)
        while True:
            _spin(executor, interval)
            _show(watcher.watched, out, in_place)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def _show(watched: Watched, out: TextIO, in_place: bool) -> None:
    clock = time.strftime("%H:%M:%S")
    if in_place:
        size = shutil.get_terminal_size()
        lines = rendered(watched, clock, width=size.columns)[: size.lines - 1]
        # Home; each line over the old one and cleared to its end; then all below. Nothing flickers.
        out.write("\033[H" + "".join(f"{line}\033[K\n" for line in lines) + "\033[J")
    else:
        out.write("\n".join(rendered(watched, clock)) + "\n\n")
    out.flush()


def _spin(
    executor: SingleThreadedExecutor, seconds: float, until: Callable[[], bool] = lambda: False
) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not until():
        executor.spin_once(timeout_sec=min(left, 0.1))


def main(options: argparse.Namespace) -> int:
    """Run the view; return the exit status: 0 ended by Ctrl-C or after one snapshot, 2 no such node."""
    try:
        watch(options.node, sys.stdout, once=options.once, wait_s=options.wait, interval_s=options.interval)
    except (LensError, StartError) as error:
        print(f"lens watch: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException, BrokenPipeError):
        pass
    return 0
