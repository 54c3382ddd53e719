"""A ROS graph of their own for the tests of this process, and ROS's strictest checks."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

# Before anything imports rclpy or a message: both read these once.
os.environ["ROS_DOMAIN_ID"] = str(os.getpid() % 99 + 1)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Otherwise a message takes values of the wrong type and fails only when it is published.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"


@pytest.fixture(scope="session")
def opengl() -> None:
    """For tests that render: the one place where tests are skipped for want of OpenGL."""
    from lens_ros.simulation.renderer import SimulatorUnavailable, TabletopSimulator

    try:
        TabletopSimulator().close()
    except SimulatorUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def demo_image() -> np.ndarray:
    """The first image of the demo recording, ``(480, 640, 3)`` uint8 RGB; tests must not change it."""
    with AnyReader([Path(__file__).parents[1] / "demo" / "tabletop"]) as bag:
        color = [c for c in bag.connections if c.topic == "/camera/color/image_raw/compressed"]
        connection, _, raw = next(bag.messages(connections=color))
        data = bag.deserialize(raw, connection.msgtype).data
    return cv2.cvtColor(cv2.imdecode(np.asarray(data), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
