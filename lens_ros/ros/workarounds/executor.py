"""Run callbacks without losing a wake-up: quick ones in the spinning thread, waiting ones in others.

Symptom: a shutdown between collecting and waiting leaves `spin` waiting for ever, or raises `AttributeError`;
    `MultiThreadedExecutor` doubles the time of an answer while the model works.
Upstream: the shutdown reads like https://github.com/ros2/rclpy/issues/968 (open); none for the time.
Versions: rclpy of Humble, Jazzy (raises) and Kilted (waits).
Test: tests/nodes/test_executor.py::test_a_shutdown_that_wakes_nobody_up_is_noticed
May go: when `Executor.spin` returns after a shutdown from any thread, and an executor without a pool runs
    waiting callbacks in threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.context import Context
from rclpy.executors import Executor, ShutdownException, TimeoutException
from rclpy.service import Service

OFFERED_AGAIN_S = 0.0005
LONGEST_WAIT_S = 1.0


def spin(executor: Executor) -> None:
    """Run callbacks until the executor or its context is shut down.

    A shutdown between collecting and waiting wakes nobody up: rclpy destroys at once what it wakes with, and
    its own `spin` would wait for ever. So no wait here lasts long.

    Raises:
        ExternalShutdownException: the context was shut down; also whatever callbacks raise.
    """
    while executor.context.ok() and not executor._is_shutdown:
        try:
            executor.spin_once(timeout_sec=LONGEST_WAIT_S)
        except AttributeError:
            # Jazzy: a shutdown between collecting and waiting has replaced by None what the wait is for.
            if not executor._is_shutdown:
                raise


class CallbackExecutor(Executor):
    """Executor with quick callbacks in its own thread, and services of the `waiting` types in `threads`.

    With rclpy's `MultiThreadedExecutor` every callback goes through a pool: a thread has to wake up for it,
    while the spinning one already collects anew what to wait for, both in need of the interpreter's lock,
    which the model's thread wants as well. That doubles the time of an answer while the model works
    (benchmarks/service_latency.py).
    """

    def __init__(self, waiting: Collection[type], threads: int, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._waiting = waiting
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="waiting")
        # All now: one that is started hours later, at the first busy moment, would be taken for a leak.
        together = threading.Barrier(threads)
        list(self._pool.map(lambda _: together.wait(), range(threads)))
        self._begun: list[Any] = []  # handlers in the pool
        self.turns = 0  # how often `spin_once` has begun: a sign of life

    def spin(self) -> None:
        """Run callbacks until the executor is shut down."""
        spin(self)

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for one callback and run it; raise what it raises, or what one in the pool has raised."""
        self.turns += 1
        entity: Any
        try:
            handler, entity, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except ShutdownException:
            return
        except TimeoutException:
            pass
        else:
            self._begin(handler, entity)
        for each in [each for each in self._begun if each.done()]:
            self._begun.remove(each)
            each.result()

    def _begin(self, handler: Any, entity: Any) -> None:
        if isinstance(entity, Service) and entity.srv_type in self._waiting:
            if handler in self._begun:  # rclpy offers it until its thread has woken up
                time.sleep(OFFERED_AGAIN_S)
            else:
                self._begun.append(handler)
                self._pool.submit(handler)
        else:
            handler()
            # Whom it has woken up gets on first: to collect what to wait for next takes half a millisecond.
            time.sleep(0)
            if handler.done():
                handler.result()

    def shutdown(self, timeout_sec: float | None = None, *, wait_for_threads: bool = True) -> bool:
        """End spinning and, unless told otherwise, wait for running callbacks."""
        done = super().shutdown(timeout_sec)
        self._pool.shutdown(wait=wait_for_threads)
        return done
