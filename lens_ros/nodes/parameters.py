"""Every parameter of the nodes, once: name, type, default, range, meaning.

A table declares itself on a node and reads itself back into a frozen dataclass, so that no other module knows
parameter names as strings. `config/*.yaml` documents the same tables for people; a test holds the two
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from lens_ros.choices import BACKEND_CHOICES, DECODINGS, PRECISIONS, QUANTIZATIONS
from lens_ros.nodes import overrides
from lens_ros.nodes.reporting import described
from lens_ros.nodes.texts import shortened


@dataclass(frozen=True)
class Specification:
    """One parameter.

    `bounds` are inclusive and only for numbers, `choices` only for strings. `when` says from when on a new
    value counts: "start" (read-only, given at launch), "configure" (may change while the node is
    unconfigured), "now" (at any time).
    """

    default: bool | int | float | str
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    when: str = "now"

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows, and what rclpy enforces."""
        text = self.description
        if self.choices:
            text += f" One of: {', '.join(self.choices)}."
        if self.when == "configure":
            text += " Read when the node is configured."
        descriptor = ParameterDescriptor(description=text, read_only=self.when == "start")
        if self.choices:
            descriptor.additional_constraints = f"One of: {', '.join(self.choices)}."
        if isinstance(self.default, float):
            # `validator` checks the type, and takes integers as well: people write 0 for 0.0.
            descriptor.dynamic_typing = True
        if self.bounds is not None:
            low, high = self.bounds
            if isinstance(self.default, int):
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(low), to_value=float(high))
                ]
        return descriptor

    def objection(self, name: str, value: Any) -> str:
        """Return why `value` is not acceptable, or the empty string.

        Types are checked of floating-point parameters only; the others, and ranges of what has the declared
        type, are rclpy's business.
        """
        if isinstance(self.default, float):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return f"parameter '{name}' is {shortened(repr(value))}; expected {_expected(self)}"
            low, high = self.bounds or (-math.inf, math.inf)
            if not low <= value <= high:
                return f"parameter '{name}' is {value:g}; expected {_expected(self)}"
        if self.choices and value not in self.choices:
            return (
                f"parameter '{name}' is '{shortened(str(value))}'; expected one of {', '.join(self.choices)}"
            )
        return ""


def _parameter(
    default: bool | int | float | str,
    description: str,
    *,
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    when: str = "now",
) -> Any:
    specification = Specification(default, description, bounds, choices, when)
    return field(default=default, metadata={"specification": specification})


@dataclass(frozen=True)
class PerceptionParameters:
    """What the node `perception` can be told."""

    autostart: bool = _parameter(
        False,
        "Configure and activate at once; otherwise a lifecycle manager does. The launch files do it at once "
        "unless a parameters file says otherwise: take this line out of your copy, or set it to true.",
        when="start",
    )
    model: str = _parameter(
        "lens-nano",
        "Name of a model that ships with lens_ros, or path of a checkpoint folder.",
        when="configure",
    )
    device: str = _parameter(
        "cpu", "Where the model runs, as torch names it: cpu, cuda, cuda:1.", when="configure"
    )
    backend: str = _parameter(
        "auto",
        "What runs the segmenter; auto takes the fastest whose engines are ready, else torch.",
        choices=BACKEND_CHOICES,
        when="configure",
    )
    precision: str = _parameter(
        "auto",
        "Precision of the engines; auto takes what passed the self-check.",
        choices=("auto", *PRECISIONS),
        when="configure",
    )
    quantization: str = _parameter(
        "none",
        "Quantization of the language model, from a file that `lens quantize` put beside the weights.",
        choices=QUANTIZATIONS,
        when="configure",
    )
    engine_cache_dir: str = _parameter(
        "", "Folder of the engines; empty takes the user's cache.", when="configure"
    )
    build_engines: bool = _parameter(
        True,
        "Make engines that are missing or stale, in a process of its own, while the next backend serves.",
        when="configure",
    )
    decoding: str = _parameter(
        "dynamic",
        "How answers are written; only the speed differs: dynamic (a cache that grows), static (of fixed "
        "size; on a GPU a CUDA graph), compiled (static, by torch.compile: first answers wait for the "
        "compiler), lookup (several tokens at a time where the answer repeats the instruction).",
        choices=DECODINGS,
        when="configure",
    )
    threads: int = _parameter(
        0, "CPU threads of the model; 0 takes all cores but one.", bounds=(0, 256), when="configure"
    )
    image_transport: str = _parameter(
        "raw",
        "raw subscribes to the topic image (sensor_msgs/Image), compressed to image/compressed (JPEG or "
        "PNG).",
        choices=("raw", "compressed"),
        when="configure",
    )
    instruction: str = _parameter(
        "",
        "Instruction to follow from activation on; empty waits for the topic or the service.",
        when="configure",
    )
    tracking: bool = _parameter(
        True,
        "Carry what was found from image to image between two acts of reasoning, each with a segmentation of "
        "its own, and reason anew about what is lost. Otherwise only images reasoned about get one.",
        when="configure",
    )
    reasoner_interval_s: float = _parameter(
        0.0,
        "Seconds between the starts of two answers to one instruction; 0 answers every instruction once.",
        bounds=(0.0, 3600.0),
    )
    max_targets: int = _parameter(
        8, "Most instructions that may be active at once (~/set_instruction, ADD).", bounds=(1, 64)
    )
    max_rate_hz: float = _parameter(
        0.0,
        "Most camera images per second that are answered about; 0 sets no limit.",
        bounds=(0.0, 1000.0),
    )
    max_image_age_ms: int = _parameter(
        0,
        "Camera images that are older by their stamp are not used; 0 sets no limit. Needs clocks that agree.",
        bounds=(0, 3600000),
    )
    score_threshold: float = _parameter(
        -1.0,
        "Objects that score below this are rejected, from the next answer on. 0 rejects none for its score; "
        "any negative number takes the model's own threshold.",
        bounds=(-1.0, 1.0),
    )
    max_instances: int = _parameter(
        0, "Most objects that are accepted per answer, the best ones; 0 sets no limit.", bounds=(0, 1000)
    )
    think: str = _parameter(
        "auto",
        "Whether to reason in words before answering: always, never (faster), or auto, the model's own way.",
        choices=("auto", "always", "never"),
    )
    max_new_tokens: int = _parameter(128, "Most tokens that one answer may have.", bounds=(16, 4096))
    reasoning_rate_hz: float = _parameter(
        30.0,
        "Most messages per second on the topic reasoning; the first and the last of an answer always go out. "
        "0 publishes every token.",
        bounds=(0.0, 1000.0),
    )
    image_timeout_s: float = _parameter(
        5.0,
        "Seconds without an image after which the log says why that may be; 0 never.",
        bounds=(0.0, 3600.0),
    )
    hang_timeout_s: float = _parameter(
        120.0,
        "Seconds without a turn of the node's executor after which its process prints where each thread is "
        "and ends with status 1, so that launch starts it anew; 0 never, otherwise at least 3. Time in a "
        "debugger counts. Without effect on Humble, whose Python's watchdog goes by the system's clock.",
        bounds=(0.0, 3600.0),
    )
    log_interval_s: float = _parameter(
        5.0,
        "Seconds in which lines of the log of the same kind, about images, instructions, goals and requests, "
        "are counted and not logged after the first ones.",
        bounds=(0.0, 3600.0),
        when="configure",
    )


@dataclass(frozen=True)
class CameraParameters:
    """What the node `camera` can be told."""

    source: str = _parameter(
        "",
        "A recording (rosbag2 folder, .mcap, .db3, or .bag of ROS 1), or a folder of pictures.",
        when="start",
    )
    loop: bool = _parameter(True, "Begin again at the end; otherwise the node ends there.", when="start")
    rate: float = _parameter(
        1.0,
        "Playing speed of a recording: 2 is twice as fast as it was recorded.",
        bounds=(0.01, 100.0),
        when="start",
    )
    paused: bool = _parameter(False, "Stay where it is, and publish nothing meanwhile.")
    frame_rate_hz: float = _parameter(
        10.0, "Pictures per second from a folder of pictures.", bounds=(0.01, 1000.0), when="start"
    )
    stamp: str = _parameter(
        "now",
        "now stamps every message when it is published (messages of one recorded instant share a stamp), "
        "recorded keeps the recording's stamps.",
        choices=("now", "recorded"),
        when="start",
    )
    frame_id: str = _parameter(
        "",
        "frame_id of every message; empty keeps the recording's, or camera_color_optical_frame.",
        when="start",
    )
    color_topic: str = _parameter(
        "",
        "Color topic in the recording; empty chooses by type, encoding and name, and the log says which.",
        when="start",
    )
    depth_topic: str = _parameter(
        "", "Depth topic in the recording; empty takes one registered to color, if any.", when="start"
    )
    camera_info_topic: str = _parameter(
        "", "CameraInfo topic in the recording; empty takes the one nearest to the color topic.", when="start"
    )
    jpeg_quality: int = _parameter(
        90,
        "Quality of image/compressed where the source is not compressed already.",
        bounds=(1, 100),
        when="start",
    )


Values = TypeVar("Values", PerceptionParameters, CameraParameters)


def specifications(table: type[Values]) -> dict[str, Specification]:
    """The rows of a table by parameter name, in order."""
    return {row.name: row.metadata["specification"] for row in fields(table)}


def declare(node: Node, table: type[Values]) -> Values:
    """Declare every parameter of `table` on `node`; return their values, which launch files may have
    overridden. Warn of overrides that no parameter has the name of.

    Raises `ParameterError` for a value outside of its choices; rclpy's own exceptions for a wrong type or
    range are turned into it as well.
    """
    rows = specifications(table)
    given = [name for name in node._parameter_overrides if not node.has_parameter(name)]
    if objection := overrides.unknown_names(given, rows):
        node.get_logger().warning(objection)
    for name, row in rows.items():
        try:
            node.declare_parameter(name, row.default, row.descriptor())
        except Exception as error:  # rclpy raises a different family of exceptions in each distribution
            raise ParameterError(
                f"parameter '{name}' cannot be used as given: {described(error)}; expected {_expected(row)}: "
                "correct the parameters file or the command line"
            ) from error
        objection = row.objection(name, node.get_parameter(name).value)
        if objection:
            raise ParameterError(f"{objection}: correct the parameters file or the command line")
    return read(node, table)


def read(node: Node, table: type[Values]) -> Values:
    """The present values of every parameter of `table`."""
    return table(**{name: value_of(node, name, row) for name, row in specifications(table).items()})


def value_of(node: Node, name: str, row: Specification) -> Any:
    """Return a parameter's value, an integer as a float where the row's default is one."""
    value = node.get_parameter(name).value
    return float(value) if isinstance(row.default, float) else value


def validator(
    table: type[Values], unconfigured: Callable[[], bool]
) -> Callable[[Iterable[Parameter]], SetParametersResult]:
    """A callback for `Node.add_on_set_parameters_callback` that enforces choices and `when`.

    `unconfigured()` tells whether parameters of the kind "configure" may change at this moment.
    """
    rows = specifications(table)

    def validate(changes: Iterable[Parameter]) -> SetParametersResult:
        for change in changes:
            row = rows.get(change.name)
            if row is None:
                continue
            reason = row.objection(change.name, change.value)
            if not reason and row.when == "configure" and not unconfigured():
                reason = (
                    f"parameter '{change.name}' is read when the node is configured; "
                    "deactivate and clean up the node, set it, then configure and activate again"
                )
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    return validate


class ParameterError(ValueError):
    """A parameter given at start that cannot be used: which one, what was expected, what to do."""


def _expected(row: Specification) -> str:
    kind = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    text = kind[type(row.default)]
    if row.bounds is not None:
        text += f" from {row.bounds[0]:g} to {row.bounds[1]:g}"
    return text
