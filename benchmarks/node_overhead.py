"""Measure the node's cost beyond transport and model: 1080p bgr8 image in, segmentation out.

    python -m benchmarks.node_overhead [--images 200] [--json out/node_overhead.json]

Real processes over DDS take turns within one run. Each round trip is measured from before `publish(image)`
until the segmentation has arrived in this process:
- echo: a bare rclpy node that subscribes to the image and publishes a message like the node's answer. This
  measures the transport, including rclpy's own cost.
- instant: the node `perception` with its model replaced by one that answers at once (twenty tokens of
  reasoning, three objects). The difference to the echo is all of the node's own time, including its work at
  each token. It is split into the time before the model is called, while it writes, and after its answer.
- lens-nano: the node with its model. The transport and the model's time given in the message (preprocess_ms +
  reason_ms + decode_ms) are subtracted from its round trip. The node's work between tokens is part of it.

There is one target, which is not tracked (every image is reasoned about). `segmentation` and `reasoning` have
subscribers, the picture topics have none. A second table shows the cost of single steps, alone in a process,
including those for pictures. Exit status 1 if the median of the node's own time, instant, is above 3 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from tqdm import tqdm

from benchmarks.processes.instant import HEIGHT, WIDTH
from benchmarks.processes.instant_model import answer
from lens_ros.msg import Reasoning, Segmentation
from lens_ros.nodes.camera.sources import open_source
from lens_ros.nodes.perception.camera_images import decode
from lens_ros.nodes.perception.picture_publisher import Identified, label_image
from lens_ros.ros import conversions
from lens_ros.ros.driver import (
    ACTIVATE,
    CONFIGURE,
    Driver,
    NodeProcess,
    isolate,
    own_domain,
)
from lens_ros.ros.endpoints import reliable
from lens_ros.visualization import overlay

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MS = 3.0
PAUSE_S = 0.02  # between images; by then a process has finished what it does after its answer
NODE = {
    "reasoner_interval_s": 1e-3,  # every image is reasoned about
    "instruction": "the leftmost mug",
    "tracking": False,
    "build_engines": False,
}
NANO_EVERY = 4  # lens-nano gets fewer round trips by this factor, because they are long
PARTS = ("before the model", "while it writes", "after the model")


@dataclass
class RoundTrip:
    """Times of one round trip, in milliseconds.

    Attributes:
        total: From publishing an image to receiving its answer.
        there: From publishing the image to the call of the model.
        working: While the model worked.
        back: From the model's return to receiving the answer.
        model: The model's time as given in the answer.
    """

    total: float
    there: float
    working: float
    back: float
    model: float


class Peer:
    """Connection to one of the processes, which runs in a separate namespace."""

    def __init__(self, node: Node, driver: Driver, name: str) -> None:
        self._driver = driver
        self._publisher = node.create_publisher(Image, f"{name}/image", reliable(5))
        self._answers: list[tuple[float, Segmentation]] = []
        self._reasonings = node.create_subscription(Reasoning, f"{name}/reasoning", lambda _: None, 50)
        self._subscription = node.create_subscription(
            Segmentation,
            f"{name}/segmentation",
            lambda message: self._answers.append((time.perf_counter(), message)),
            5,
        )
        driver.wait_until(self._publisher.get_subscription_count, 60, f"{name}'s subscription")
        driver.wait_until(lambda: node.count_publishers(f"{name}/segmentation"), 60, f"{name}'s publisher")

    def round_trip(self, image: Image) -> RoundTrip:
        """Send an image and wait for its answer."""
        self._driver.spin(PAUSE_S)
        self._answers.clear()
        started = time.perf_counter()
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(time.time_ns(), 10**9)
        self._publisher.publish(image)
        while not self._answers:
            self._driver.executor.spin_once(timeout_sec=1.0)
            if time.perf_counter() - started > 30:
                raise TimeoutError("an image was lost: is the Fast DDS profile set (. ./env.sh)?")
        ended, message = self._answers[0]
        assert message.header.stamp == image.header.stamp and message.instances, message.reason
        model = message.preprocess_ms + message.reason_ms + message.decode_ms
        if message.model == "lens-nano":
            return RoundTrip(1e3 * (ended - started), 0.0, 0.0, 0.0, model)
        called, returned = json.loads(message.answer)
        there, working, back = called - started, returned - called, ended - returned
        return RoundTrip(1e3 * (ended - started), 1e3 * there, 1e3 * working, 1e3 * back, model)


def measure(images: int) -> dict[str, list[RoundTrip]]:
    """Measure round trips with every peer, taking turns."""
    isolate(own_domain())
    rclpy.init(args=[])
    node = rclpy.create_node("node_overhead")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    driver = Driver(node, executor)
    logs = Path(tempfile.mkdtemp(prefix="node_overhead_"))
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    modules = {
        "echo": "benchmarks.processes.echo",
        "instant": "benchmarks.processes.instant",
        "nano": "lens_ros.nodes.perception.node",
    }
    image = picture()
    try:
        for name, module in modules.items():
            process = NodeProcess(
                module,
                logs / f"{name}.log",
                parameters=NODE if name != "echo" else None,
                remappings={"__ns": f"/{name}"},
                environment=paths,
            )
            driver.processes.append(process)
        for name in ("instant", "nano"):
            for transition in (CONFIGURE, ACTIVATE):
                assert driver.change_state(f"/{name}/perception", transition)
        peers = {name: Peer(node, driver, name) for name in modules}
        times: dict[str, list[RoundTrip]] = {name: [] for name in modules}
        for number in tqdm(range(-10, images), leave=False):
            for name in modules if number % 2 else reversed(modules):
                if name == "nano" and number % NANO_EVERY:
                    continue
                trip = peers[name].round_trip(image)
                if number >= 0:  # the first ones are warm-up
                    times[name].append(trip)
        return times
    finally:
        for process in driver.processes:
            process.stop()
        rclpy.try_shutdown()


def picture() -> Image:
    """Return an image of the recorded table as 1080p bgr8."""
    shots = open_source(ROOT / "demo" / "tabletop").shots()
    shot = next(shot.content for shot in shots if not isinstance(shot, str) and shot.stream == "color")
    assert isinstance(shot, CompressedImage)
    rgb = cv2.resize(conversions.compressed_to_rgb(shot), (WIDTH, HEIGHT))
    return conversions.rgb_to_image(rgb, shot.header, encoding="bgr8")


def parts(repeats: int) -> dict[str, float]:
    """Return median milliseconds of single steps, alone in this process."""
    image, found = picture(), answer(HEIGHT, WIDTH)
    rgb, header = decode(image), image.header
    message = conversions.segmentation_to_message(found, header)
    identified = [Identified(found, range(1, 1 + len(found.instances)))]
    serialized = serialize_message(image)
    drawn = overlay(rgb, found)
    steps: dict[str, Callable[[], Any]] = {
        "image from its serialised form (rclpy)": lambda: deserialize_message(serialized, Image),
        "image_to_rgb, bgr8": lambda: decode(image),
        "segmentation_to_message, 3 masks as run lengths": lambda: conversions.segmentation_to_message(
            found, header
        ),
        "segmentation to its serialised form (rclpy)": lambda: serialize_message(message),
        "for subscribers: mask": lambda: conversions.mask_to_image(found.mask, header),
        "for subscribers: labels": lambda: conversions.labels_to_image(
            label_image((HEIGHT, WIDTH), identified), header
        ),
        "for subscribers: overlay, drawing": lambda: overlay(rgb, found),
        "for subscribers: overlay, message": lambda: conversions.rgb_to_image(drawn, header),
        "for subscribers: overlay/compressed, JPEG": lambda: conversions.rgb_to_compressed(drawn, header),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def summary(times: dict[str, list[RoundTrip]]) -> dict[str, Any]:
    """Compute the node's own time: median and quartiles of differences between neighbouring round trips."""
    echo, instant, nano = times["echo"], times["instant"], times["nano"]
    own = [each.total - bare.total for each, bare in zip(instant, echo, strict=True)]
    before = [each.there - bare.there for each, bare in zip(instant, echo, strict=True)]
    after = [each.back - bare.back for each, bare in zip(instant, echo, strict=True)]
    beside = [
        each.total - each.model - bare.total for each, bare in zip(nano, echo[::NANO_EVERY], strict=True)
    ]
    return {
        "transport": _spread([each.total for each in echo]),
        "round trip, instant": _spread([each.total for each in instant]),
        "own": _spread(own),
        **{
            part: _spread(values)
            for part, values in zip(PARTS, (before, [e.working for e in instant], after), strict=True)
        },
        "round trip, nano": _spread([each.total for each in nano]),
        "model, nano": _spread([each.model for each in nano]),
        "own, nano": _spread(beside),
    }


def _spread(values: list[float]) -> dict[str, float]:
    lower, median, upper = statistics.quantiles(values, n=4)
    return {"median": median, "lower": lower, "upper": upper}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="sent to each process")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found, alone = summary(measure(options.images)), parts(min(options.images, 50))
    print(f"{'ms, 1920x1080 bgr8':52}{'median':>8}{'quartiles':>16}")
    for name, row in found.items():
        print(f"{name:52}{row['median']:8.2f}{row['lower']:9.2f}{row['upper']:7.2f}")
    print(
        f"the node's own time: {found['own']['median'] / found['transport']['median']:.2f} of the transport"
    )
    print("\nsingle steps, alone in a process")
    for name, median in alone.items():
        print(f"{name:52}{median:8.2f}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"milliseconds": found, "steps": alone}, indent=2) + "\n")
    return 1 if found["own"]["median"] > LIMIT_MS else 0


if __name__ == "__main__":
    sys.exit(main())
