"""Define the client's errors."""

from __future__ import annotations

import os

from rclpy.node import Node

from lens_ros.codes import Code, known_code


class LensError(Exception):
    """Why there is no answer, in one sentence.

    Attributes:
        code: the node's code for it; UNSPECIFIED for what the client itself noticed.
    """

    def __init__(self, reason: str, code: int = Code.UNSPECIFIED) -> None:
        super().__init__(reason)
        self.code = known_code(code)


class LensUnavailableError(LensError):
    """No running, configured node offers the service or action."""


class LensTimeoutError(LensError):
    """The node was found, but did not answer in time."""


class LensRefusedError(LensError):
    """The node refused, or failed; `code` says which."""


class LensInputError(LensError, ValueError):
    """The image or the instruction cannot be sent."""


class LensCancelledError(LensError):
    """The question was cancelled before it had an answer."""


def missing(node: Node, perception: str, waited_s: float) -> str:
    """Return why the node `perception` was not found: what was expected, what is there, what to do."""
    wanted = perception if perception.startswith("/") else node.get_namespace().rstrip("/") + "/" + perception
    names = sorted(
        {f"{space.rstrip('/')}/{name}" for name, space in node.get_node_names_and_namespaces()}
        - {node.get_fully_qualified_name()}
    )
    if wanted in names:
        return (
            f"'{wanted}' runs, but did not offer its services within {waited_s:g} s: configure it "
            f"(ros2 lifecycle set {wanted} configure) and activate it; if it is active, try again: to be "
            "found takes longer on a loaded machine, and after a program was killed"
        )
    return (
        f"no node '{wanted}' was found within {waited_s:g} s in ROS domain "
        f"{os.environ.get('ROS_DOMAIN_ID', '0')} (nodes there: {', '.join(names) or 'none'}); start it "
        "(ros2 launch lens_ros perception.launch.py), or correct its name or ROS_DOMAIN_ID"
    )
