"""Compare endpoints of the node with those of other nodes on the same topic: types, quality of service."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from rclpy.duration import Infinite
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

POLICIES = ("reliability", "durability", "deadline", "liveliness", "liveliness_lease_duration")
OVERRIDABLE = ("reliability", "history", "depth")  # by qos_overrides.*


def type_name(message_type: type) -> str:
    """Return a generated message class' name as the graph shows it, such as `sensor_msgs/msg/Image`."""
    package, kind = message_type.__module__.split(".")[:2]
    return f"{package}/{kind}/{message_type.__name__}"


def node_of(info: Any) -> str:
    """Return the full name of an endpoint's node."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def types_objection(topic: str, own: str, infos: Iterable[Any], advice: Callable[[str], str]) -> str:
    """Return which other types the publishers on a topic have, or the empty string.

    `advice(type)` says what to do about a type.
    """
    others: dict[str, list[str]] = {}
    for info in infos:
        if info.topic_type != own:
            others.setdefault(info.topic_type, []).append(node_of(info))
    said = [
        f"{', '.join(sorted(set(nodes)))} sends {foreign} on {topic}, and this node reads {own}: nothing is "
        f"received from there; {advice(foreign)}"
        for foreign, nodes in sorted(others.items())
    ]
    return "; ".join(said)


def conflicts(offered: QoSProfile, asked: QoSProfile) -> list[str]:
    """Return the policies by which a publisher's offer does not satisfy what a subscription asks for."""
    offered, asked = _explicit(offered), _explicit(asked)
    found = []
    for policy in POLICIES:
        trial = copy.copy(asked)
        setattr(trial, policy, getattr(offered, policy))
        if qos_check_compatible(trial, asked)[0] == QoSCompatibility.ERROR:
            found.append(policy)
    return found


def quality_objection(topic: str, own: QoSProfile, infos: Iterable[Any], *, publisher: bool) -> str:
    """Return with whom the node's endpoint does not match in quality of service, or the empty string.

    The text names the policies with what both sides say. `own` is of a publisher or of a subscription;
    `infos` are of the other side, with the same type.
    """
    said = []
    for info in infos:
        offered, asked = (own, info.qos_profile) if publisher else (info.qos_profile, own)
        policies = conflicts(offered, asked)
        if not policies:
            continue
        theirs, ours = (
            ", ".join(f"{policy} {_value(profile, policy)}" for policy in policies)
            for profile in (info.qos_profile, own)
        )
        side = "publisher" if publisher else "subscription"
        could = [policy for policy in policies if policy in OVERRIDABLE]
        override = f", or the parameters qos_overrides.{topic}.{side}.*" if could else ""
        names = ", ".join(policy.upper() for policy in policies)
        if publisher:
            said.append(
                f"a subscription on {topic} asks for a quality of service that does not match ({names}): "
                f"{node_of(info)} asks for {theirs}, this node offers {ours}; it receives nothing; change "
                f"the subscription{override}"
            )
        else:
            said.append(
                f"a publisher on {topic} offers a quality of service that does not match ({names}): "
                f"{node_of(info)} offers {theirs}, this node asks for {ours}; nothing is received from it; "
                f"change the publisher{override}"
            )
    return "; ".join(dict.fromkeys(said))


def _explicit(profile: QoSProfile) -> QoSProfile:
    """Return a profile in which durations of 0, which stand for the default, are infinite."""
    profile = copy.copy(profile)
    for policy in ("deadline", "liveliness_lease_duration"):
        if not getattr(profile, policy).nanoseconds:
            setattr(profile, policy, Infinite)
    return profile


def _value(profile: QoSProfile, policy: str) -> str:
    value = getattr(profile, policy)
    return str(getattr(value, "name", value))
