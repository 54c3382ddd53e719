"""A ROS graph of their own for the tests of this process, and ROS's strictest checks."""

from __future__ import annotations

import os

# Before anything imports rclpy or a message: both read these once.
os.environ["ROS_DOMAIN_ID"] = str(os.getpid() % 99 + 1)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Otherwise a message takes values of the wrong type and fails only when it is published.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
