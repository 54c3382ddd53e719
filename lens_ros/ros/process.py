"""Run a node's process until a signal, through errors, to an orderly end."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Empty

from lens_ros import interrupts
from lens_ros.ros import starting
from lens_ros.ros.command_line import CRASHED, ENDED, UNUSABLE
from lens_ros.ros.middleware import fitted_profile
from lens_ros.ros.parameters import ParameterError
from lens_ros.ros.reporting import TRACEBACKS_S, described, traced
from lens_ros.ros.starting import StartError
from lens_ros.ros.texts import SENTENCE, shortened
from lens_ros.ros.throttle import Throttle
from lens_ros.ros.workarounds.executor import CallbackExecutor
from lens_ros.ros.workarounds.watchdog import Watchdog
from lens_ros.system.allocator import limit_heaps, trim_heaps

LOADING_GRACE_S = 10.0  # for a transition in progress when the process is to end
INTERRUPT_PERIOD_S = 1.0  # longer than loading takes to react
SWITCH_INTERVAL_S = 0.0005
SIGNAL_POLL_S = 0.2
TRIM_PERIOD_S = 20.0
TOUCH_PERIOD_S = 30.0


class LastingNode(Protocol):
    """A node whose end takes a while."""

    @property
    def context(self) -> Context: ...

    @property
    def in_transition(self) -> bool:
        """Whether the lifecycle is between two states."""

    @property
    def hangs(self) -> bool:
        """Whether one of its threads does not end."""

    @property
    def hang_timeout_s(self) -> float:
        """Seconds without a turn of the executor after which the process is ended; 0: never."""

    def begin(self) -> None:
        """Do what the node does unasked, in its own thread, while its executor spins."""

    def close(self) -> None:
        """Answer what is pending, while the executor still spins."""

    def interrupt(self) -> None:
        """Interrupt the loading in progress, if any; may be called again."""

    def destroy_node(self) -> None: ...


def ended_by_signal() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set.

    The main thread must check it every `SIGNAL_POLL_S`: a signal that the system delivers to another thread
    is handled when the main thread wakes up. Call `interrupts.ignore` when the end begins.
    """
    ended = threading.Event()
    for number in interrupts.ENDING:
        signal.signal(number, lambda *_: ended.set())
    return ended


def run(
    make_node: Callable[[], LastingNode],
    make_executor: Callable[[], CallbackExecutor],
    arguments: list[str] | None = None,
) -> int:
    """Run a node until SIGINT or SIGTERM; return the exit status of the process (`command_line`).

    SIGUSR1 prints where each thread is. A node that does not move any more is ended with status `CRASHED`
    (`Watchdog`). rclpy's own signal handlers would shut the middleware down before pending requests could be
    answered.
    """
    limit_heaps()
    faulthandler.register(signal.SIGUSR1)
    # A callback that answers needs the interpreter's lock several times; the model's thread gives it up when
    # asked, by default after 5 ms each time.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    ended = ended_by_signal()
    log = get_logger("perception")
    try:
        with fitted_profile() as trouble:
            starting.init(arguments, signal_handler_options=SignalHandlerOptions.NO)
            node = make_node()
    except (StartError, ParameterError) as error:
        interrupts.ignore()
        log.fatal(shortened(str(error), SENTENCE))
        rclpy.try_shutdown()
        return UNUSABLE
    if trouble:
        log.warning(trouble)
    executor = make_executor()
    assert isinstance(node, Node)
    starting.warn_of_files_for_others(node, arguments)
    executor.add_node(node)
    watchdog, turns = Watchdog(), executor.turns
    watchdog.alive(node.hang_timeout_s)
    spinning = threading.Thread(target=_spin, args=(executor, ended), name="executor", daemon=True)
    spinning.start()
    beginning = threading.Thread(target=node.begin, name="beginning", daemon=True)
    beginning.start()
    trim_at = time.monotonic() + TRIM_PERIOD_S
    touch_at = time.monotonic() + TOUCH_PERIOD_S
    while not ended.wait(SIGNAL_POLL_S):
        if executor.turns != turns:
            turns = executor.turns
            watchdog.alive(node.hang_timeout_s)
        if time.monotonic() > touch_at and node.hang_timeout_s > 0:
            _touch_middleware(node)
            touch_at = time.monotonic() + TOUCH_PERIOD_S
        if time.monotonic() > trim_at:
            # A cycle may hold images and tensors; Python counts objects, not their size, and would look for
            # it after minutes. What the model consists of is exempt.
            gc.collect()
            trim_heaps()
            trim_at = time.monotonic() + TRIM_PERIOD_S
    interrupts.ignore()
    watchdog.close()
    if not node.context.ok():  # shut down by someone else
        return ENDED
    crashed = not spinning.is_alive()
    node.close()
    deadline = time.monotonic() + LOADING_GRACE_S
    interrupt_at = time.monotonic() + INTERRUPT_PERIOD_S
    while node.in_transition and time.monotonic() < deadline:
        time.sleep(0.05)
        if time.monotonic() > interrupt_at:
            # It may be lost: Python ignores what is raised in a finaliser or in a callback of an import.
            node.interrupt()
            interrupt_at += INTERRUPT_PERIOD_S
    loading_goes_on = node.in_transition
    if loading_goes_on:
        log.info("ends while a transition is in progress")
    # Humble's own part waits for the loading, later distributions' does not.
    executor.shutdown(timeout_sec=1.0, wait_for_threads=not loading_goes_on)
    spinning.join()
    if not loading_goes_on:
        beginning.join()
    node.destroy_node()
    rclpy.try_shutdown()
    if loading_goes_on or node.hangs:
        # It ignored the interruption; do not wait for it any more.
        sys.stderr.flush()
        os._exit(ENDED)
    return CRASHED if crashed else ENDED


def _touch_middleware(node: Node) -> None:
    """Create an endpoint, which blocks for ever if Fast DDS' discovery has deadlocked.

    Nothing is received then while the executor keeps turning; the watchdog ends the process.
    """
    # Not the lifecycle node's own way: that would keep it for its transitions.
    node.destroy_publisher(Node.create_publisher(node, Empty, "~/_alive", 1))


def _spin(executor: CallbackExecutor, ended: threading.Event) -> None:
    """Spin until the executor is shut down, whatever callbacks raise.

    A reliable node does not end because one client has vanished.
    """
    throttle = Throttle(TRACEBACKS_S)
    try:
        while True:
            try:
                executor.spin()
                break
            except InvalidHandle:
                # An endpoint was destroyed, by a transition in another thread, while the executor was about
                # to wait for it: nothing is wrong, but rclpy gives up.
                continue
            except ExternalShutdownException:
                break
            except Exception as error:
                passed = throttle(
                    type(error).__name__,
                    f"internal error in the executor: {described(error)}; the node goes on, please report "
                    "this",
                )
                if passed is not None:
                    get_logger("perception").error("\n".join([passed, *traced(error)]))
                time.sleep(0.1)
    finally:
        ended.set()
