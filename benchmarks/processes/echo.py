"""Minimal rclpy node: receive an image, publish a message of the size of an answer.

Its heaps keep the memory that an image needs. Start it with `python -m benchmarks.processes.echo`. It uses
the same topics and QoS as the node `perception`.
"""

from __future__ import annotations

import json
import time

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from benchmarks.processes.instant import HEIGHT, WIDTH
from benchmarks.processes.instant_model import answer
from lens_ros.msg import Segmentation
from lens_ros.ros.conversions import segmentation_to_message
from lens_ros.ros.endpoints import newest_only, reliable
from lens_ros.ros.workarounds.executor import spin
from lens_ros.system.allocator import limit_heaps


def main() -> int:
    """Run until SIGINT."""
    limit_heaps()
    rclpy.init()
    node = rclpy.create_node("echo")
    message = segmentation_to_message(answer(HEIGHT, WIDTH), Header())
    publisher = node.create_publisher(Segmentation, "segmentation", reliable(5))

    def echo(image: Image) -> None:
        now = time.perf_counter()
        message.header = image.header
        message.answer = json.dumps([now, now])
        publisher.publish(message)

    node.create_subscription(Image, "image", echo, newest_only())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        spin(executor)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # normal ways to end
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
