"""A process in which nothing moves any more ends by itself; an active process lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from ros_graph import START_TIMEOUT

LIMIT_S = 5.0  # the least is 3

NODE = """
import ctypes, sys, time
import rclpy
from rclpy.node import Node
from lens_ros.ros import process
from lens_ros.ros.workarounds.executor import CallbackExecutor

class Stuck(Node):
    in_transition = hangs = False
    hang_timeout_s = float(sys.argv[2])

    def __init__(self):
        super().__init__("stuck")
        self.create_timer(0.1, self.stop_moving)

    def begin(self):
        print("begun", flush=True)

    def close(self):
        pass

    def stop_moving(self):
        if sys.argv[1] == "waits":
            time.sleep(3600)
        if sys.argv[1] == "freezes":
            ctypes.PyDLL(None).sleep(3600)  # keeps the interpreter's lock

    def destroy_publisher(self, publisher):  # as where the middleware has locked itself up
        print(publisher.topic_name, flush=True)
        if sys.argv[1] == "is deaf":
            ctypes.PyDLL(None).sleep(3600)
        return super().destroy_publisher(publisher)

process.TOUCH_PERIOD_S = 1.0
sys.exit(process.run(Stuck, lambda: CallbackExecutor((), 1), []))
"""


def start(what: str, limit_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", NODE, what, str(limit_s)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.parametrize("what", ["waits", "freezes"])
def test_a_callback_that_never_returns_ends_the_process(graph, what):
    """`graph` is only used for its environment: a separate domain."""
    process = start(what, LIMIT_S)
    output, errors = process.communicate(timeout=START_TIMEOUT)
    assert process.returncode == 1 and output.startswith("begun\n")
    assert "Timeout (0:00:05)!" in errors and "in stop_moving" in errors


def test_a_middleware_that_has_locked_itself_up_ends_the_process(graph):
    process = start("is deaf", LIMIT_S)
    output, errors = process.communicate(timeout=START_TIMEOUT)
    assert process.returncode == 1 and output == "begun\n/stuck/_alive\n"
    assert "Timeout (0:00:05)!" in errors and "in _touch_middleware" in errors


@pytest.mark.parametrize(("what", "limit_s"), [("returns", LIMIT_S), ("waits", 0.0)])
def test_who_moves_or_is_not_watched_lives_on(graph, what, limit_s):
    process = start(what, limit_s)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(2 * LIMIT_S)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM if what == "returns" else signal.SIGKILL)
    output, errors = process.communicate(timeout=START_TIMEOUT)
    assert output.count("_alive") >= 2 if limit_s else output == ""
    assert process.returncode == (0 if what == "returns" else -signal.SIGKILL) and "Timeout" not in errors
