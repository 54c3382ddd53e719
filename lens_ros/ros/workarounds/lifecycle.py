"""Answer services and parameters while a lifecycle transition runs.

Symptom: `get_state`, parameter services and other lifecycle services wait until `change_state` returns (28 s
    while a model loads), and a transition that does not start leaves its client without an answer.
Upstream: none; rclpy puts all of them into the default callback group by design.
Versions: rclpy of Humble, Jazzy and Kilted.
Test: tests/nodes/test_transitions.py::test_everything_but_a_transition_is_answered_during_each_transition
May go: when `LifecycleNode` takes a callback group for its services and answers refused transitions.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node

from lens_ros.ros.reporting import ThrottledLog
from lens_ros.ros.texts import shortened

REFUSALS_S = 5.0  # interval of the log lines about refused transitions


class TransitionRefused(RuntimeError):
    """A transition that does not start: another one is running."""


class PromptLifecycleNode(LifecycleNode):
    """A `LifecycleNode` whose `change_state` occupies neither its other services nor its parameters.

    rclpy puts all lifecycle services into the default callback group, together with the parameter services.
    There a transition that takes half a minute keeps all of them waiting. Here the lifecycle services have
    a reentrant group of their own. Run `change_state` in another thread than the rest (`CallbackExecutor`).

    At most one transition runs at a time. `change_state` answers success = false at once while another
    transition runs, and for a transition that does not start in the present state. rclpy would raise, and
    leave the client without an answer.
    """

    def __init__(self, name: str, **options: Any) -> None:
        # As LifecycleNode.__init__ does it, which does not pass on the group.
        Node.__init__(self, name, **options)
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        self._changing_state = threading.Lock()
        self._refusals = ThrottledLog(self, REFUSALS_S)
        (service,) = (each for each in self.services if each.srv_type is ChangeState)
        self._change_state = service.callback
        service.callback = self._on_change_state

    def trigger_configure(self) -> TransitionCallbackReturn:
        """See `LifecycleNode`. This and the others raise `TransitionRefused` while a transition runs."""
        with self._alone():
            return super().trigger_configure()

    def trigger_activate(self) -> TransitionCallbackReturn:
        """See `trigger_configure`."""
        with self._alone():
            return super().trigger_activate()

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        """See `trigger_configure`."""
        with self._alone():
            return super().trigger_deactivate()

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        """See `trigger_configure`."""
        with self._alone():
            return super().trigger_cleanup()

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        """See `trigger_configure`."""
        with self._alone():
            return super().trigger_shutdown()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the state machine; raise `TransitionRefused` if another transition has it."""
        if not self._changing_state.acquire(blocking=False):
            raise TransitionRefused(
                f"the node is {self._state_machine.current_state[1]}; wait until this transition has ended"
            )
        try:
            yield
        finally:
            self._changing_state.release()

    def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        wanted = request.transition
        try:
            with self._alone():
                possible = {each[0]: each[1] for each in self._state_machine.available_transitions}
                if wanted.label in possible.values() if wanted.label else wanted.id in possible:
                    return self._change_state(request, response)
                why = (
                    f"it does not start in the state {self._state_machine.current_state[1]}; possible: "
                    f"{', '.join(f'{label} ({number})' for number, label in possible.items()) or 'none'}"
                )
        except TransitionRefused as busy:
            why = str(busy)
        self._refusals.warning(
            "transition", f"transition '{shortened(wanted.label) or wanted.id}' refused: {why}"
        )
        response.success = False
        return response
