"""Find parameters that were given to a node and that it does not have: misspelt ones, or another node's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

# Declared by rclpy, some of them only later or in later distributions.
OF_ROS = ("use_sim_time", "start_type_description_service")
PREFIX_OF_ROS = "qos_overrides"  # declared when a publisher or subscription is made


def unknown_names(given: Iterable[str], declared: Collection[str]) -> str:
    """Return which of the given names no parameter has, each with the nearest one that exists, or "".

    Names with dots belong to plugins, such as those of image_transport, and are left alone.
    """
    known = [*declared, *OF_ROS]
    unknown = []
    for name in given:
        first, dot, _ = name.partition(".")
        if name in known or first == PREFIX_OF_ROS:
            continue
        nearest = difflib.get_close_matches(first, [PREFIX_OF_ROS] if dot else known, n=1)
        if nearest:
            unknown.append(f"'{name}' (did you mean '{nearest[0]}'?)")
        elif not dot:
            unknown.append(f"'{name}'")
    if not unknown:
        return ""
    return (
        f"ignores parameters that it does not have: {', '.join(unknown)}. Correct the names in the "
        "parameters file or on the command line, unless they are meant for other nodes"
    )


def files_for_others(node: str, arguments: Sequence[str]) -> list[str]:
    """Return a message for each file of parameters on the command line that has none for a node.

    Args:
        node: its fully qualified name.
        arguments: ROS arguments.
    """
    messages = []
    for flag, path in zip(arguments, arguments[1:], strict=False):
        if flag != "--params-file":
            continue
        try:
            names = _node_names(yaml.safe_load(Path(path).read_text()))
        except (OSError, yaml.YAMLError):
            continue  # ROS has read it, and says what is wrong otherwise
        if not any(_matches(name, node) for name in names):
            nearest = difflib.get_close_matches(node, names, n=1)
            messages.append(
                f"{path} has no parameters for {node}, only for {', '.join(names) or 'nobody'}"
                + (f"; did you mean '{node}' by '{nearest[0]}'?" if nearest else "")
            )
    return messages


def _node_names(content: Any, above: str = "") -> list[str]:
    """Return the names, or patterns, of the nodes that a file has parameters for."""
    if not isinstance(content, dict):
        return []
    names = []
    for key, value in content.items():
        if key == "ros__parameters":
            names.append(above)
        else:
            names += _node_names(value, f"{above}/{str(key).strip('/')}")
    return names


def _matches(pattern: str, node: str) -> bool:
    """Tell whether a name, in which * stands for a part and ** for any number of them, is that of a node."""
    expression = re.escape(pattern).replace(r"/\*\*", "(/[^/]+)*").replace(r"\*", "[^/]+")
    return re.fullmatch(expression, node) is not None
