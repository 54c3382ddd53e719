"""A ROS graph of their own for the tests of this process, and ROS's strictest checks."""

from __future__ import annotations

import os

import pytest

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
