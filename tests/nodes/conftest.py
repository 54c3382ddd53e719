"""Without ROS 2 only test_ros.py is collected, which says what is missing."""

from __future__ import annotations

import importlib.util

HAS_ROS = importlib.util.find_spec("rclpy") is not None
collect_ignore_glob = [] if HAS_ROS else ["test_[!r]*.py"]
