"""Find parameters that were given to a node and that it does not have: misspelt ones, or another node's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rclpy.qos import HistoryPolicy, ReliabilityPolicy

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


def unusable_policies(given: Mapping[str, Any]) -> str:
    """Return which quality of service that was given has a value that no policy takes, or "".

    Args:
        given: values of parameters by name; others than `qos_overrides.*` are left alone.
    """
    choices = {"reliability": ReliabilityPolicy.short_keys(), "history": HistoryPolicy.short_keys()}
    faults = []
    for name, value in given.items():
        policy = name.rpartition(".")[2]
        if not name.startswith(f"{PREFIX_OF_ROS}."):
            continue
        if policy in choices:
            allowed = [key for key in choices[policy] if key != "unknown"]
            if not isinstance(value, str) or value.lower() not in allowed:  # rclpy takes any case
                faults.append(f"'{name}' is {value!r}; expected one of {', '.join(allowed)}")
        elif policy == "depth" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            faults.append(f"'{name}' is {value!r}; expected an integer from 0 on")
    return "; ".join(faults)


def unknown_policies(given: Iterable[str], declared: Iterable[str]) -> str:
    """Return which `qos_overrides.*` fit no endpoint of the node, each with the nearest that does, or "".

    Args:
        given: names of all parameters that were given at start.
        declared: names of the node's parameters, once its endpoints exist.
    """
    known = [name for name in declared if name.startswith(f"{PREFIX_OF_ROS}.")]
    unknown = []
    for name in given:
        if name.startswith(f"{PREFIX_OF_ROS}.") and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            unknown.append(f"'{name}'" + (f" (did you mean '{nearest[0]}'?)" if nearest else ""))
    if not unknown:
        return ""
    return (
        f"ignores quality of service for topics that it does not use: {', '.join(unknown)}. Correct the "
        "names in the parameters file or on the command line; remapped topics have their new names"
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
                f"{path} has no parameters for {node}"
                + (f", only for {', '.join(names)}" if names else ": it has none at all")
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
