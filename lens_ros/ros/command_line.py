"""Command lines of the nodes' programs. Imports nothing heavy: help and refusals come at once."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from lens_ros import interrupts

# Exit statuses; launch starts a program again only after CRASHED, or a signal such as SIGSEGV.
ENDED, CRASHED, UNUSABLE = 0, 1, 2

HELPS = {
    "perception": """\
The lifecycle node `perception`: camera images and instructions in, reasoning and masks out.

It waits to be configured and activated:
  ros2 lifecycle set /perception configure
  ros2 lifecycle set /perception activate
or does both at once:
  ros2 run lens_ros perception_node --ros-args -p autostart:=true
Other names of topics, a namespace, a file of parameters:
  ... --ros-args -r image:=/camera/image -r __ns:=/robot --params-file my.yaml
Every parameter: config/perception.yaml in `ros2 pkg prefix --share lens_ros`.
""",
    "camera": """\
The node `camera`: plays a recording or a folder of pictures as if a camera were there.

  ros2 run lens_ros camera_node --ros-args -p source:=/path/to/rosbag2_folder -p rate:=2.0
Every parameter: config/camera.yaml in `ros2 pkg prefix --share lens_ros`.
""",
}
EXIT_STATUSES = (
    f"Exit status: {ENDED} ended by SIGINT or SIGTERM, or at the end of a recording; {UNUSABLE} unusable "
    f"arguments, parameters or recording; {CRASHED} crashed."
)


def run(node: str) -> int:
    """Run `lens_ros.nodes.NODE` with this process' command line; return the exit status."""
    parse(node)
    for number in interrupts.ENDING:  # nothing has begun that would need an orderly end
        signal.signal(number, lambda *_: os._exit(ENDED))
    return importlib.import_module(f"lens_ros.nodes.{node}.node").main()


def parse(node: str, arguments: Sequence[str] | None = None) -> None:
    """Print the help if it is asked for, and refuse what is neither that nor a ROS argument.

    Raises:
        SystemExit: with status 0 after the help, 2 after a refusal.
    """
    parser = argparse.ArgumentParser(
        prog=f"{node}_node",
        usage="%(prog)s [-h] [--ros-args ROS_ARGUMENT ...]",
        description=HELPS[node],
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _, unknown = parser.parse_known_args(
        without_ros_arguments(sys.argv[1:] if arguments is None else arguments)
    )
    if unknown:
        parser.error(
            f"unknown arguments: {' '.join(unknown)}; parameters and remappings follow --ros-args, as in "
            "--ros-args -p autostart:=true"
        )


def without_ros_arguments(arguments: Sequence[str]) -> list[str]:
    """Leave out what stands between each --ros-args and its end, `--` or the last argument."""
    left, ros = [], False
    for argument in arguments:
        if argument == "--ros-args":
            ros = True
        elif ros and argument == "--":
            ros = False
        elif not ros:
            left.append(argument)
    return left
