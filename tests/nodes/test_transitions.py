"""During a transition the node reports its state, serves parameters and refuses a second transition."""

from __future__ import annotations

import threading

import pytest
from finder import Finder
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_graph import TIMEOUT, Graph, Log

from lens_ros.nodes.perception import model_loading
from lens_ros.nodes.perception.node import WAITING_SERVICES, WAITING_THREADS, PerceptionNode
from lens_ros.ros.driver import (
    ACTIVATE,
    ACTIVE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    INACTIVE,
    UNCONFIGURED,
)
from lens_ros.ros.workarounds.executor import CallbackExecutor
from lens_ros.ros.workarounds.lifecycle import TransitionRefused


class Gate:
    """Wrapper that blocks a function when it is called, until it is released."""

    def __init__(self, function) -> None:
        self._function = function
        self.entered, self.go_on = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        """Enter the block that ends with a release, also if the test fails."""

    def __exit__(self, *_: object) -> None:
        self.go_on.set()

    def __call__(self, *arguments, **options):
        self.entered.set()
        assert self.go_on.wait(TIMEOUT)
        return self._function(*arguments, **options)


@pytest.fixture
def node(graph: Graph, monkeypatch):
    """Yield an unconfigured node with the executor of its process, which spins in a thread."""
    monkeypatch.setattr(model_loading, "load_lens", lambda settings: Finder())
    overrides = [Parameter("tracking", value=False), Parameter("build_engines", value=False)]
    node = PerceptionNode(context=graph.context, parameter_overrides=overrides)
    executor = CallbackExecutor(WAITING_SERVICES, WAITING_THREADS, context=graph.context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield node
    node.close()
    executor.shutdown()
    thread.join()
    node.destroy_node()


def ask(graph: Graph, kind, name: str, request=None):
    return graph.call(kind, f"perception/{name}", request or kind.Request(), TIMEOUT)


def test_everything_but_a_transition_is_answered_during_each_transition(graph, node, monkeypatch):
    client = graph.node.create_client(ChangeState, "perception/change_state")
    graph.meet("perception", TIMEOUT)
    graph.wait_until(client.service_is_ready, TIMEOUT, "the service")
    for transition, during, afterwards, where in (
        (CONFIGURE, State.TRANSITION_STATE_CONFIGURING, INACTIVE, (model_loading, "load_lens")),
        (ACTIVATE, State.TRANSITION_STATE_ACTIVATING, ACTIVE, (node._answers, "begin")),
        (DEACTIVATE, State.TRANSITION_STATE_DEACTIVATING, INACTIVE, (node, "_stop")),
        (CLEANUP, State.TRANSITION_STATE_CLEANINGUP, UNCONFIGURED, (node, "_release")),
    ):
        gate = Gate(getattr(*where))
        with monkeypatch.context() as patch, gate:
            patch.setattr(*where, gate)
            running = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            graph.wait_until(gate.entered.is_set, TIMEOUT, "the transition")

            assert graph.state("perception") == during
            assert len(ask(graph, GetAvailableStates, "get_available_states").available_states) > 4
            ask(graph, GetAvailableTransitions, "get_available_transitions")
            assert ask(graph, GetAvailableTransitions, "get_transition_graph").available_transitions
            assert "model" in ask(graph, ListParameters, "list_parameters").result.names
            names = GetParameters.Request(names=["model"])
            assert ask(graph, GetParameters, "get_parameters", names).values[0].string_value
            described = DescribeParameters.Request(names=["model"])
            assert ask(graph, DescribeParameters, "describe_parameters", described).descriptors
            # What counts at once may be set; what is read when the node is configured may not.
            assert graph.set_parameter("perception", "max_new_tokens", 20 + during).successful
            refused = graph.set_parameter("perception", "model", "other")
            assert not refused.successful and "clean up the node" in refused.reason
            # A second transition, also one that would end the first one, is refused at once.
            for other in (CONFIGURE, ACTIVATE, Transition.TRANSITION_ON_CONFIGURE_SUCCESS):
                assert not graph.change_state("perception", other)
            with pytest.raises(TransitionRefused, match="wait until this transition has ended"):
                node.trigger_configure()
            assert not running.done()

            gate.go_on.set()
            graph.wait_until(running.done, TIMEOUT, "the end of the transition")
        assert running.result().success and graph.state("perception") == afterwards
        assert node._settings().max_new_tokens == 20 + during
    graph.node.destroy_client(client)


def test_a_transition_that_does_not_start_here_is_refused_and_said(graph, node, capfd):
    log = Log(capfd)
    for _ in range(100):
        assert not graph.change_state("perception", ACTIVATE)
    assert not graph.call(
        ChangeState,
        "perception/change_state",
        ChangeState.Request(transition=Transition(label="\x1b[2Jfly")),
        TIMEOUT,
    ).success
    assert graph.state("perception") == UNCONFIGURED
    graph.wait_until(
        lambda: log.count(r"transition '3' refused: it does not start in the state unconfigured"),
        TIMEOUT,
        "a line of the log",
    )
    assert log.count("refused") < 10 and not log.count("No transition matching") and not log.count("\x1b.2J")
    by_label = ChangeState.Request(transition=Transition(label="configure"))
    assert ask(graph, ChangeState, "change_state", by_label).success
    assert graph.state("perception") == INACTIVE


def test_a_manager_that_is_quicker_than_autostart_has_its_way(graph, node, monkeypatch):
    gate = Gate(model_loading.load_lens)
    monkeypatch.setattr(model_loading, "load_lens", gate)
    results = []
    manager = threading.Thread(target=lambda: results.append(node.trigger_configure()))
    manager.start()
    graph.wait_until(gate.entered.is_set, TIMEOUT, "the transition")
    node._parameters["autostart"] = Parameter("autostart", value=True)  # read-only from outside
    node.begin()  # logs that another transition is running, and raises nothing
    gate.go_on.set()
    manager.join()
    assert results == [TransitionCallbackReturn.SUCCESS] and graph.state("perception") == INACTIVE
