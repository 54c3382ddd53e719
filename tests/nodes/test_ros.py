"""Report that the tests of the nodes are skipped, if they are."""

from __future__ import annotations

import pytest


def test_ros_2_and_the_interfaces_are_there():
    """Everything else in this folder needs them; see conftest.py."""
    reason = "needs ROS 2 and the built interfaces: run `make setup`, then `. ./env.sh`"
    pytest.importorskip("rclpy", reason=reason)
    pytest.importorskip("lens_ros.msg", reason=reason)
