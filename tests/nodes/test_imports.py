"""Imports of the ROS processes before they have work to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Seconds of CPU, and of no use to a node that has no model yet, or to a client that never has one.
LATER = ("torch", "transformers", "onnxruntime", "mujoco", "rosbags", "lens_ros.lens", "lens_ros.simulation")


@pytest.mark.parametrize(
    "module", ["nodes.perception.node", "nodes.camera.node", "commands.watch_view", "client"]
)
def test_what_is_costly_is_imported_when_it_is_needed(module: str) -> None:
    script = (
        f"import sys, lens_ros.{module}\n"
        f"print('rclpy' in sys.modules, *sorted({set(LATER)!r} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout.split() == ["True"], ran.stdout + ran.stderr
