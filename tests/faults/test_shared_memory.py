"""Images that Fast DDS cannot transfer from one process to the other."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from sensor_msgs.msg import CameraInfo

from .report import Row, read_json, write_json
from .robot import Robot

AREA = "Shared memory"
TESTS = Path(__file__).resolve().parents[1]
TIMEOUT_S = 600.0
SHARE = 0.3  # of the images arrives


@pytest.fixture(scope="module")
def dockers_shm() -> list[str]:
    """Return a command prefix that runs a command with a separate 64 MB /dev/shm, as in Docker."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux)")
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", *root, "sh", "-c", mount, "sh"]
    ran = subprocess.run([*command, "true"], capture_output=True, text=True)
    if ran.returncode != 0:
        pytest.skip(f"no mount namespace may be made here, which needs root: {ran.stderr.strip()}")
    return command


@pytest.mark.fault(AREA, "/dev/shm of 64 MB, Docker's default")
def test_large_images_arrive_in_a_container(dockers_shm: list[str], row: Row, demo_image, tmp_path):
    row.own_process = True
    cv2.imwrite(str(tmp_path / "picture.png"), cv2.cvtColor(demo_image, cv2.COLOR_RGB2BGR))
    write_json([row], tmp_path / "row.json")
    program = [sys.executable, "-m", "faults.small_shared_memory", str(tmp_path)]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [*dockers_shm, *program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (seen,) = read_json(tmp_path / "row.json")
    assert seen.verdict == "held"
    vars(row).update(vars(seen))


@pytest.mark.fault(AREA, "most images of a camera get lost, its camera_info arrives")
def test_lost_images_are_noticed(robot: Robot, row: Row):
    infos = robot.graph.node.create_publisher(CameraInfo, "camera_info", 5)
    draw = random.Random(0)

    def most_are_lost():
        image = robot.image()
        infos.publish(CameraInfo(header=image.header, height=image.height, width=image.width))
        return image if draw.random() < SHARE else None

    row.diagnostics = robot.diagnosed("images", "WARN", "most images get lost", most_are_lost)
    row.said = robot.hears("[WARN]", "most images get lost on their way", "--shm-size")
    robot.diagnosed("images", "OK", "images arrive", robot.image)
    robot.graph.node.destroy_publisher(infos)
    robot.works(row)
    row.held("the warning ends when the images arrive")
