"""Stamps of messages as whole nanoseconds, also those that rclpy.time refuses."""

from __future__ import annotations

from builtin_interfaces.msg import Time

SECOND_NS = 1_000_000_000


def nanoseconds(stamp: Time) -> int:
    """Return a stamp in nanoseconds; negative where its seconds are."""
    return SECOND_NS * stamp.sec + stamp.nanosec


def is_valid(stamp: Time) -> bool:
    """Return whether a stamp is a time since 1970 with less than a second of nanoseconds.

    `rclpy.time.Time` raises for negative seconds.
    """
    return stamp.sec >= 0 and stamp.nanosec < SECOND_NS
