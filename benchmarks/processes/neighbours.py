"""Run idle DDS participants: `python -m benchmarks.processes.neighbours NUMBER`."""

from __future__ import annotations

import signal
import sys

import rclpy


def main() -> None:
    """Run until killed."""
    kept = []
    for number in range(int(sys.argv[1])):
        context = rclpy.Context()  # a separate participant
        rclpy.init(context=context)
        kept.append(rclpy.create_node(f"neighbour_{number}", context=context))
    signal.pause()


if __name__ == "__main__":
    main()
