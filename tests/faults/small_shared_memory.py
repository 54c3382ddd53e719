"""Run a robot with a /dev/shm as in Docker, in a separate mount namespace.

Usage: `python -m faults.small_shared_memory FOLDER`

Everything that shares memory has to be in the namespace, including this program. It writes the fault's row to
FOLDER/row.json. Its exit status is not 0 if the fault was not survived.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import median

import cv2

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "nodes"))

from ros_graph import Graph, own_graph  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from lens_ros.ros.endpoints import newest_only  # noqa: E402

from .conftest import SETTINGS  # noqa: E402
from .report import read_json, write_json  # noqa: E402
from .robot import Robot, launch  # noqa: E402

FRAME_RATE_HZ = 10.0
SIZES = ((640, 480), (1280, 720))
IMAGES = 40


class Folders:
    """Create the folders that a graph asks for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def mktemp(self, name: str) -> Path:
        folder = self._root / name
        folder.mkdir()
        return folder


def main(folder: Path) -> None:
    """Play raw images of growing size through `perception`; raise if they do not arrive as they are sent."""
    picture = cv2.cvtColor(cv2.imread(str(folder / "picture.png")), cv2.COLOR_BGR2RGB)
    (row,) = read_json(folder / "row.json")
    with own_graph(Folders(folder)) as graph:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ["PYTHONPATH"]])
        process = launch(graph, "lens_ros.nodes.perception.node", "perception", SETTINGS)
        robot = Robot(graph, process, picture)
        robot.bring_up()
        robot.works()
        row.said = next(line for line in process.log.splitlines() if "/dev/shm" in line)
        assert "--shm-size" in row.said and row.said.startswith("[WARN]")
        for size in SIZES:
            play(graph, robot, size, folder)
        row.diagnostics = robot.diagnosed("images", "OK", "images arrive", robot.image)
        robot.works(row)
        robot.settle()
        robot.close()
    row.held("raw images of 640x480 and 1280x720 arrive at the camera's rate")
    write_json([row], folder / "row.json")


def play(graph: Graph, robot: Robot, size: tuple[int, int], folder: Path) -> None:
    """Check that a best-effort subscriber and `perception` get what a camera sends."""
    source = folder / f"{size[0]}"
    source.mkdir()
    large = cv2.cvtColor(cv2.resize(robot.picture, size), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(source / "0.png"), large)
    stamps: list[float] = []

    def receive(message: Image) -> None:
        if message.width == size[0]:
            stamps.append(message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec)

    subscription = graph.node.create_subscription(Image, "image", receive, newest_only())
    received = robot.counter("images", "received")
    settings = {"source": str(source), "frame_rate_hz": FRAME_RATE_HZ}
    camera = launch(graph, "lens_ros.nodes.camera.node", f"camera_{size[0]}", settings)
    robot.wait_until(lambda: len(stamps) > IMAGES, f"{IMAGES} images of {size[0]}x{size[1]}")
    gaps = [later - earlier for earlier, later in zip(stamps, stamps[1:], strict=False)]
    assert median(gaps) < 1.5 / FRAME_RATE_HZ, (size, gaps)
    robot.wait_until(
        lambda: robot.counter("images", "received") - received > IMAGES / 2, "as many counted by perception"
    )
    assert "/dev/shm" in camera.log
    graph.stop(camera)
    graph.node.destroy_subscription(subscription)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
