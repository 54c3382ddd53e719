"""Waiting callbacks do not block other requests; exceptions in callbacks are not lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from ros_graph import TIMEOUT
from std_srvs.srv import SetBool, Trigger

from lens_ros.ros.workarounds.executor import CallbackExecutor, spin


@pytest.fixture
def served(graph):
    """Yield a node spun by a `CallbackExecutor`, with a service that waits for `go_on` and another."""
    import rclpy

    node = rclpy.create_node("served", context=graph.context)
    executor = CallbackExecutor((Trigger,), threads=3, context=graph.context)
    executor.add_node(node)
    node.go_on, node.threads, node.errors = threading.Event(), {}, []

    def wait(request, response):
        node.threads.setdefault("waiting", []).append(threading.current_thread())
        if not node.go_on.wait(TIMEOUT):
            raise TimeoutError
        response.success = True
        return response

    def answer(request, response):
        node.threads.setdefault("quick", []).append(threading.current_thread())
        if not request.data:
            raise LookupError("quick")
        return response

    def fail(request, response):
        time.sleep(0.3)  # until nothing else is left to do
        raise LookupError("waiting")

    group = ReentrantCallbackGroup()
    node.create_service(Trigger, "~/waiting", wait, callback_group=group)
    node.create_service(Trigger, "~/failing", fail, callback_group=group)
    node.create_service(SetBool, "~/quick", answer)

    def spin() -> None:
        while node.context.ok() and not ended.is_set():
            try:
                executor.spin_once(timeout_sec=0.1)
            except LookupError as error:
                node.errors.append(str(error))

    ended = threading.Event()
    thread = threading.Thread(target=spin)
    thread.start()
    yield node
    node.go_on.set()
    ended.set()
    thread.join()
    executor.shutdown()
    node.destroy_node()


def test_no_thread_is_started_later(graph) -> None:
    before = set(threading.enumerate())
    executor = CallbackExecutor((Trigger,), threads=3, context=graph.context)
    started = set(threading.enumerate()) - before
    assert len(started) == 3 and all(thread.name.startswith("waiting") for thread in started)
    executor.shutdown()
    assert not any(thread.is_alive() for thread in started)


def test_a_shutdown_that_wakes_nobody_up_is_noticed(graph, monkeypatch) -> None:
    """The shutdown arrives while the wait set is built: rclpy destroys at once what would wake it up."""
    import rclpy

    node = rclpy.create_node("quiet", context=graph.context)
    executor = SingleThreadedExecutor(context=graph.context)
    executor.add_node(node)
    can_execute = executor.can_execute

    def shut_down_meanwhile(entity) -> bool:
        executor.shutdown()
        return can_execute(entity)

    monkeypatch.setattr(executor, "can_execute", shut_down_meanwhile)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(spin, executor).result(TIMEOUT)
    node.destroy_node()


def test_quick_callbacks_run_beside_those_that_wait(graph, served):
    clients = [graph.node.create_client(Trigger, "served/waiting") for _ in range(2)]
    graph.wait_until(lambda: all(each.service_is_ready() for each in clients), TIMEOUT, "the service")
    futures = [each.call_async(Trigger.Request()) for each in clients]
    graph.wait_until(lambda: len(served.threads.get("waiting", ())) == 2, TIMEOUT, "two that wait")
    for _ in range(3):
        graph.call(SetBool, "served/quick", SetBool.Request(data=True), TIMEOUT)
    assert not any(each.done() for each in futures)
    served.go_on.set()
    graph.wait_until(lambda: all(each.done() for each in futures), TIMEOUT, "their answers")
    assert all(each.result().success for each in futures)
    assert len(served.threads["waiting"]) == 2  # each was called once
    assert len({*served.threads["waiting"]}) == 2 and len({*served.threads["quick"]}) == 1
    for client in clients:
        graph.node.destroy_client(client)


@pytest.mark.parametrize(("name", "kind"), [("quick", SetBool), ("failing", Trigger)])
def test_who_spins_is_told_what_a_callback_raised(name, kind, graph, served):
    client = graph.node.create_client(kind, f"served/{name}")
    graph.wait_until(client.service_is_ready, TIMEOUT, "the service")
    client.call_async(kind.Request())
    graph.wait_until(lambda: served.errors, TIMEOUT, "the error")
    assert served.errors == ["quick" if name == "quick" else "waiting"]
    graph.call(SetBool, "served/quick", SetBool.Request(data=True), TIMEOUT)  # it goes on
    graph.node.destroy_client(client)
