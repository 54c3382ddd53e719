"""Run a client that sends goals and listens until it is killed.

`python -m benchmarks.processes.visitor`
"""

from __future__ import annotations

import rclpy
from rclpy.action import ActionClient
from sensor_msgs.msg import Image

from lens_ros.action import SegmentInstruction
from lens_ros.msg import Segmentation


def main() -> None:
    """Run until killed."""
    rclpy.init()
    node = rclpy.create_node("visitor")
    node.create_subscription(Segmentation, "segmentation", lambda message: None, 5)
    node.create_subscription(Image, "overlay", lambda message: None, 5)
    client: ActionClient = ActionClient(node, SegmentInstruction, "perception/segment_instruction")
    client.wait_for_server(timeout_sec=10.0)

    def ask() -> None:
        goal = SegmentInstruction.Goal(instruction="the leftmost mug", use_latest_image=True)
        client.send_goal_async(goal)

    node.create_timer(1.0, ask)
    rclpy.spin(node)


if __name__ == "__main__":
    main()
