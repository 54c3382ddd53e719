"""Run a client as a separate process, to be killed or stopped.

Usage: `python -m faults.client_process -p does:=...`

`goal` asks about its own image and waits. `cancel` asks, cancels and exits without waiting for anything.
`instruction` publishes an instruction and exits. `subscriber` listens to everything that `perception`
publishes.
"""

from __future__ import annotations

import os
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String

from lens_ros.action import SegmentInstruction
from lens_ros.msg import Reasoning, Segmentation


def ask(node: Node, instruction: str, then: Any) -> None:
    """Send a goal; `then(handle)` is called while the model reasons about it."""
    client: Any = ActionClient(node, SegmentInstruction, "perception/segment_instruction")
    client.wait_for_server()
    goal = SegmentInstruction.Goal(instruction=instruction, use_latest_image=True)
    heard: list[Any] = []
    sent = client.send_goal_async(goal, heard.append)
    while not (sent.done() and any(m.feedback.stage == m.feedback.REASONING for m in heard)):
        rclpy.spin_once(node)
    then(sent.result())


def cancel(handle: Any) -> None:
    """Request a cancellation and exit before the response."""
    handle.cancel_goal_async()
    print("vanishes", flush=True)
    os._exit(0)


def main() -> None:
    rclpy.init()
    node = rclpy.create_node(f"client_{os.getpid()}")
    does = node.declare_parameter("does", "").value
    says = node.declare_parameter("says", "").value
    if does == "goal":
        ask(node, says, lambda handle: print("in progress", flush=True))
    elif does == "cancel":
        ask(node, says, cancel)
    elif does == "instruction":
        publisher = node.create_publisher(String, "instruction", 10)
        while not publisher.get_subscription_count():
            rclpy.spin_once(node, timeout_sec=0.1)
        publisher.publish(String(data=says))
        publisher.wait_for_all_acked()
        os._exit(0)
    elif does == "subscriber":
        heard: set[str] = set()

        def hear(topic: str, message: Any) -> None:
            if topic not in heard:
                heard.add(topic)
                print(f"hears {topic}", flush=True)

        topics = (
            ("segmentation", Segmentation),
            ("reasoning", Reasoning),
            ("mask", Image),
            ("overlay", Image),
        )
        for topic, kind in topics:
            node.create_subscription(kind, topic, lambda m, topic=topic: hear(topic, m), 5)
    rclpy.spin(node)


if __name__ == "__main__":
    main()
