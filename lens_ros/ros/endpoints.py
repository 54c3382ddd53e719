"""Create publishers, subscriptions, services and timers with lens_ros' quality of service.

Every endpoint can be overridden by the parameters `qos_overrides.*`. Publishers are reliable, because a best
effort publisher would not reach rviz and other reliable readers; images are read as best effort, because that
matches every camera driver (REP-2003).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from lens_ros.ros.matching import conflicts, node_of, quality_objection, type_name, types_objection
from lens_ros.ros.reporting import ThrottledLog

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import (  # type: ignore[no-redef]
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
    )

MISMATCHES_S, MISMATCHES = 5.0, 5  # interval, and log lines about one topic in it
RECHECK_S = 1.0  # between two looks at the types and quality of service of other nodes' endpoints


class EndpointError(ValueError):
    """An endpoint that cannot be created; the message says why, and what to do."""


def reliable(depth: int) -> QoSProfile:
    """Return RELIABLE, VOLATILE, the last `depth` messages."""
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
    """Return RELIABLE, VOLATILE, the last 100 messages: for services and their clients.

    Of ROS's ten, a burst of requests would lose some without a word; and a client receives the responses to
    all other clients too, which push its own out while its process does not get to reading.
    """
    return reliable(100)


def goal_requests() -> dict[str, Any]:
    """Return the quality of service of `requests` as arguments of an action's server or client."""
    return {f"{service}_service_qos_profile": requests() for service in ("goal", "result", "cancel")}


def newest_only() -> QoSProfile:
    """Return BEST_EFFORT, VOLATILE, the newest message: for reading images."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


@dataclass(frozen=True, eq=False)
class _Watched:
    """A publisher or subscription of the node, and what others on its topic are compared with."""

    topic: str
    type: str
    profile: QoSProfile
    publisher: bool
    advice: Callable[[str], str]


def _remap(foreign: str) -> str:
    return "remap the topic, or change the publisher"


class Endpoints:
    """Endpoints that one part of a node opened, to be closed together."""

    def __init__(
        self, node: LifecycleNode, on_mismatch: Callable[[str, str], None] = lambda topic, text: None
    ) -> None:
        """Watch for endpoints of other nodes that do not match in type or quality of service.

        `on_mismatch(topic, text)` is called when the text changes, and with an empty text once all match.
        """
        self._node = node
        self._on_mismatch = on_mismatch
        self._watched: list[_Watched] = []
        self._checking = threading.Lock()
        self._mismatched: dict[_Watched, str] = {}
        self._log = ThrottledLog(node, MISMATCHES_S, burst=MISMATCHES)
        self._open: list[tuple[Callable[[Any], Any], Any]] = []  # how to destroy it, and what

    def publisher(self, message_type: type, topic: str, depth: int) -> Any:
        """Return a reliable lifecycle publisher, which publishes only while the node is active."""
        resolved = self._node.resolve_topic_name(topic)
        watched: list[_Watched] = []
        callbacks = PublisherEventCallbacks(incompatible_qos=lambda event: self._mismatch(watched, event))
        created: Any = self._create(
            message_type,
            resolved,
            lambda: self._node.create_lifecycle_publisher(
                message_type,
                topic,
                reliable(depth),
                event_callbacks=callbacks,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            ),
        )
        self._open.append((self._node.destroy_lifecycle_publisher, created))
        watched.append(_Watched(resolved, type_name(message_type), created.qos_profile, True, _remap))
        self._watch(watched[0])
        return created

    def subscription(
        self,
        message_type: type,
        topic: str,
        callback: Callable[..., None],
        profile: QoSProfile,
        advice: Callable[[str], str] = _remap,
    ) -> None:
        """Create a subscription with its own callback group; log publishers that do not match it.

        `callback` takes the message, and may take rclpy's information about it as well. `advice(type)` says
        what to do about publishers of another type.
        """
        resolved = self._node.resolve_topic_name(topic)
        watched: list[_Watched] = []
        callbacks = SubscriptionEventCallbacks(incompatible_qos=lambda event: self._mismatch(watched, event))
        created = self._create(
            message_type,
            resolved,
            lambda: self._node.create_subscription(
                message_type,
                topic,
                callback,
                profile,
                callback_group=MutuallyExclusiveCallbackGroup(),
                event_callbacks=callbacks,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            ),
        )
        self._open.append((self._node.destroy_subscription, created))
        watched.append(_Watched(resolved, type_name(message_type), created.qos_profile, False, advice))
        self._watch(watched[0])

    def service(
        self,
        service_type: type,
        name: str,
        callback: Callable[[Any, Any], Any],
        group: CallbackGroup | None = None,
    ) -> None:
        """Create a service; without `group` in its own callback group."""
        try:
            created = self._node.create_service(
                service_type,
                name,
                callback,
                qos_profile=requests(),
                callback_group=group or MutuallyExclusiveCallbackGroup(),
            )
        except Exception as error:
            resolved, own = self._node.resolve_service_name(name), type_name(service_type)
            there = dict(self._node.get_service_names_and_types()).get(resolved, [])
            if not any(each != own for each in there):
                raise
            raise EndpointError(
                f"the service {resolved} has the type {', '.join(there)} already, and this node needs {own} "
                "there: remap one of the two to another name"
            ) from error
        self._open.append((self._node.destroy_service, created))

    def timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """Create a timer on the steady clock; it runs while simulated time stands still, too."""
        created = self._node.create_timer(
            period_s,
            callback,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._open.append((self._node.destroy_timer, created))

    def close(self) -> None:
        """Destroy everything that was opened, the latest first."""
        with self._checking:
            self._watched.clear()
            reported, self._mismatched = self._mismatched, {}
        for watched in reported:
            self._on_mismatch(watched.topic, "")
        with contextlib.suppress(IndexError):  # at the process' end another thread may be closing as well
            while True:
                destroy, entity = self._open.pop()
                destroy(entity)

    def why_silent(self, topic: str) -> str:
        """Return why none of the publishers on a subscribed topic can be received, or the empty string."""
        resolved = self._node.resolve_topic_name(topic)
        infos = self._node.get_publishers_info_by_topic(resolved)
        for watched in self._watched:
            if watched.topic != resolved or watched.publisher or not infos:
                continue
            alike = [info for info in infos if info.topic_type == watched.type]
            if all(conflicts(info.qos_profile, watched.profile) for info in alike):
                return self._objection(watched)
        return ""

    def _create(self, message_type: type, topic: str, create: Callable[[], Any]) -> Any:
        """Return what `create` returns; raise `EndpointError` where the topic has another type.

        A process cannot have two types on one topic, and rclpy's error does not always say that.
        """
        try:
            return create()
        except Exception as error:
            own = type_name(message_type)
            node = self._node
            infos = [*node.get_publishers_info_by_topic(topic), *node.get_subscriptions_info_by_topic(topic)]
            others = sorted({f"{i.topic_type} ({node_of(i)})" for i in infos if i.topic_type != own})
            if not others:
                raise
            raise EndpointError(
                f"the topic {topic} has the type {', '.join(others)} already, and this node needs {own} "
                "there: remap one of the two to another topic"
            ) from error

    def _watch(self, watched: _Watched) -> None:
        with self._checking:
            first = not self._watched
            self._watched.append(watched)
        if first:
            self.timer(RECHECK_S, self._recheck)

    def _recheck(self) -> None:
        """Check the endpoints of other nodes: no event reports that one is gone or, everywhere, its type."""
        for watched in list(self._watched):
            self._report(watched, self._objection(watched))

    def _objection(self, watched: _Watched) -> str:
        look = (
            self._node.get_subscriptions_info_by_topic
            if watched.publisher
            else self._node.get_publishers_info_by_topic
        )
        infos = look(watched.topic)
        alike = [info for info in infos if info.topic_type == watched.type]
        quality = quality_objection(watched.topic, watched.profile, alike, publisher=watched.publisher)
        types = (
            "" if watched.publisher else types_objection(watched.topic, watched.type, infos, watched.advice)
        )
        return "; ".join(text for text in (types, quality) if text)

    def _report(self, watched: _Watched, text: str) -> None:
        with self._checking:
            if watched not in self._watched or text == self._mismatched.get(watched, ""):
                return
            if text:
                self._mismatched[watched] = text
            else:
                del self._mismatched[watched]
        if text:
            self._log.warning(watched.topic, text)
        self._on_mismatch(watched.topic, text)

    def _mismatch(self, created: list[_Watched], event: Any) -> None:
        """Report an endpoint that does not match; the graph may not show it yet."""
        if not created:
            return
        (watched,) = created
        policy = str(qos_policy_name_from_kind(event.last_policy_kind)).split(".")[-1]
        who = "a subscription" if watched.publisher else "a publisher"
        self._report(
            watched,
            self._objection(watched)
            or f"{who} on {watched.topic} has a quality of service that does not match ({policy})",
        )
