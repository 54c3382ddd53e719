"""Start rclpy: bad ROS arguments get one message, and a log folder that cannot be written stops nobody."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.logging import get_logger
from rclpy.node import Node

from lens_ros.ros.overrides import files_for_others

WITHOUT_LOG_FILES = ("--ros-args", "--disable-external-lib-logs")
_ADVICE = (
    "; the log goes to the terminal and to /rosout only. Set ROS_LOG_DIR to a folder that can be written"
)


class StartError(Exception):
    """ROS cannot be started with these arguments or in this environment."""


def init(arguments: Sequence[str] | None = None, **options: Any) -> None:
    """Call `rclpy.init`; log to the terminal and /rosout alone, with a warning, where no file can be written.

    Args:
        arguments: ROS arguments; None takes the command line's.
        options: the other arguments of `rclpy.init`.

    Raises:
        StartError: for arguments that ROS refuses.
    """
    given = list(sys.argv if arguments is None else arguments)
    objection = log_folder_objection()
    try:
        rclpy.init(args=[*given, *WITHOUT_LOG_FILES] if objection else given, **options)
    except RuntimeError as error:  # rclpy's own errors are subclasses
        rclpy.try_shutdown(context=options.get("context"))
        reason = re.sub(r", at \S+:\d+", "", str(error))  # the lines in the sources of rcl
        if type(error).__name__ == "UnknownROSArgsError":
            reason = f"unknown arguments {reason}"
        raise StartError(
            f"cannot start ROS: {reason}; correct what follows --ros-args on the command line, or the file "
            "that is named there"
        ) from error
    if objection:
        get_logger("lens_ros").warning(objection)


def log_folder_objection() -> str:
    """Return why ROS could not write its log files, and what to do, or the empty string."""
    folder = _log_folder()
    if folder is None:
        return f"cannot write log files: HOME is not set{_ADVICE}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return f"cannot write log files to {folder}: {error.strerror}{_ADVICE}"
    return ""


def _log_folder() -> Path | None:
    """Return the folder that rcl takes: ROS_LOG_DIR, else log in ROS_HOME, else ~/.ros/log.

    None where that needs HOME, which rcl takes from the environment alone.
    """
    home = os.environ.get("HOME", "")
    chosen = os.environ.get("ROS_LOG_DIR", "")
    if not chosen:
        chosen = os.path.join(os.environ.get("ROS_HOME", "") or "~/.ros", "log")
    if chosen.startswith("~"):
        if not home:
            return None
        chosen = home + chosen[1:]
    return Path(chosen)


def warn_of_files_for_others(node: Node, arguments: Sequence[str] | None = None) -> None:
    """Warn of files of parameters on the command line that have none for a node, as under a misspelt name."""
    name = node.get_fully_qualified_name()
    for message in files_for_others(name, sys.argv if arguments is None else arguments):
        node.get_logger().warning(message)
