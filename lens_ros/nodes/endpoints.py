"""Publishers, subscriptions, services and timers with the quality of service that lens_ros documents.

Every endpoint can be overridden by the parameters `qos_overrides.*`. Publishers are reliable, because a best
effort publisher would not reach rviz and other reliable readers; images are read as best effort, because that
matches every camera driver (REP-2003).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from lens_ros.nodes.reporting import ThrottledLog

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]

RECHECK_S = 1.0  # whether publishers that did not match are gone
MISMATCHES_S = 5.0  # interval of the log lines about publishers that do not match


def reliable(depth: int) -> QoSProfile:
    """RELIABLE, VOLATILE, the last `depth` messages."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


def kept(depth: int) -> QoSProfile:
    """Return RELIABLE, TRANSIENT_LOCAL, the last `depth`: also messages from before the subscription."""
    profile = reliable(depth)
    profile.durability = QoSDurabilityPolicy.TRANSIENT_LOCAL
    return profile


def requests() -> QoSProfile:
    """RELIABLE, VOLATILE, the last 100: for services and for their clients.

    Of ROS's ten, a burst of requests would lose some without a word; and a client receives the responses to
    all other clients too, which push its own out while its process does not get to reading.
    """
    return reliable(100)


def goal_requests() -> dict[str, Any]:
    """The same as arguments of an action's server or client."""
    return {f"{service}_service_qos_profile": requests() for service in ("goal", "result", "cancel")}


class GoalClient(ActionClient):
    """An action's client that may send goals all day, from any thread, with `goal_requests`.

    `send_goal_async` of Kilted makes two futures for each goal and returns the second. The first stays with
    the executor, which looks at it in each turn: after 4,000 goals an answer took twice as long. And a
    response that another thread takes before the second is there goes to the first. On Humble and
    Jazzy, without their fixes of October 2025, a response that is taken before its request is noted goes to
    nobody (ros2/rclpy#1123), be it to a goal, to a cancel or to a result's request.
    """

    def __init__(self, node: Node, action_type: type, action_name: str, **options: Any) -> None:
        # Before the client is in the node: a spinning executor calls `take_data` from then on.
        self._sending = threading.Lock()
        super().__init__(node, action_type, action_name, **goal_requests(), **options)

    def send_goal_async(self, goal: Any, feedback_callback: Any = None, goal_uuid: Any = None) -> Any:
        """See `ActionClient`."""
        with self._sending:
            sent = super().send_goal_async(goal, feedback_callback, goal_uuid)
        pending = (self._pending_goal_requests, self._pending_cancel_requests, self._pending_result_requests)
        awaited = {id(future) for requests in pending for future in list(requests.values())}
        for future in [each for each in self._futures if id(each) not in awaited]:
            self.remove_future(future)
        return sent

    def _cancel_goal_async(self, goal_handle: Any) -> Any:
        with self._sending:
            return super()._cancel_goal_async(goal_handle)

    def _get_result_async(self, goal_handle: Any) -> Any:
        with self._sending:
            return super()._get_result_async(goal_handle)

    def take_data(self) -> Any:
        """See `ActionClient`."""
        with self._sending:
            return super().take_data()

    def remove_future(self, future: Any) -> None:
        """Also where another thread was quicker."""
        with contextlib.suppress(ValueError):
            super().remove_future(future)


def newest_only() -> QoSProfile:
    """BEST_EFFORT, VOLATILE, the newest message: how images are read."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


class Endpoints:
    """What one part of a node has opened, so that it can be closed together."""

    def __init__(
        self, node: LifecycleNode, on_mismatch: Callable[[str, str], None] = lambda topic, text: None
    ) -> None:
        """`on_mismatch(topic, text)` is called when a publisher's quality of service does not match, and with
        an empty text once none is left of that kind.
        """
        self._node = node
        self._on_mismatch = on_mismatch
        self._mismatched: set[str] = set()
        self._log = ThrottledLog(node, MISMATCHES_S)
        self._open: list[tuple[Callable[[Any], Any], Any]] = []  # how to destroy it, and what

    def publisher(self, message_type: type, topic: str, depth: int) -> Any:
        """A reliable lifecycle publisher: silent unless the node is active."""
        created: Any = self._node.create_lifecycle_publisher(
            message_type,
            topic,
            reliable(depth),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._open.append((self._node.destroy_lifecycle_publisher, created))
        return created

    def subscription(
        self, message_type: type, topic: str, callback: Callable[..., None], profile: QoSProfile
    ) -> None:
        """Create a subscription with its own callback group; log publishers that do not match it.

        `callback` takes the message, and may take rclpy's information about it as well.
        """
        resolved = self._node.resolve_topic_name(topic)
        created = self._node.create_subscription(
            message_type,
            topic,
            callback,
            profile,
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._mismatch_of(resolved)),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._open.append((self._node.destroy_subscription, created))
        self.timer(RECHECK_S, lambda: self._recheck(resolved, created.qos_profile))

    def service(
        self,
        service_type: type,
        name: str,
        callback: Callable[[Any, Any], Any],
        group: CallbackGroup | None = None,
    ) -> None:
        """A service; without `group` in a callback group of its own."""
        created = self._node.create_service(
            service_type,
            name,
            callback,
            qos_profile=requests(),
            callback_group=group or MutuallyExclusiveCallbackGroup(),
        )
        self._open.append((self._node.destroy_service, created))

    def timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """A timer on the steady clock: it also runs while simulated time stands still."""
        created = self._node.create_timer(
            period_s,
            callback,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._open.append((self._node.destroy_timer, created))

    def close(self) -> None:
        """Destroys everything that was opened, the latest first."""
        while self._mismatched:
            self._on_mismatch(self._mismatched.pop(), "")
        with contextlib.suppress(IndexError):  # at the process' end another thread may be closing as well
            while True:
                destroy, entity = self._open.pop()
                destroy(entity)

    def _recheck(self, topic: str, profile: QoSProfile) -> None:
        """The middleware tells of publishers that do not match, not that they are gone."""
        if topic not in self._mismatched:
            return
        offered = [each.qos_profile for each in self._node.get_publishers_info_by_topic(topic)]
        if all(qos_check_compatible(each, profile)[0] != QoSCompatibility.ERROR for each in offered):
            self._mismatched.discard(topic)
            self._on_mismatch(topic, "")

    def _mismatch_of(self, resolved: str) -> Callable[[Any], None]:
        def mismatch(event: Any) -> None:
            policy = str(qos_policy_name_from_kind(event.last_policy_kind)).split(".")[-1]
            text = (
                f"a publisher on {resolved} offers a quality of service that does not match ({policy}): "
                "nothing is received from it; change the publisher, or the parameters "
                f"qos_overrides.{resolved}.subscription.*"
            )
            self._log.warning((resolved, policy), text)
            self._mismatched.add(resolved)
            self._on_mismatch(resolved, text)

        return mismatch
