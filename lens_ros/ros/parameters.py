"""Declare, check and read the parameters of a node from a table.

A table is a frozen dataclass whose fields are made by `parameter`: name, type, default, range, meaning. It is
declared on a node and read back from it, so that no other module knows parameter names as strings.
`config/*.yaml` documents the same tables for people; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from lens_ros.ros import overrides
from lens_ros.ros.reporting import described
from lens_ros.ros.texts import shortened


@dataclass(frozen=True)
class Specification:
    """One parameter.

    `bounds` are inclusive and only for numbers, `choices` only for strings. With `or_zero`, 0 is allowed
    below the bounds. `when` says from when on a new value counts: "start" (read-only, given at launch),
    "configure" (may change while the node is unconfigured), "now" (at any time).
    """

    default: bool | int | float | str
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    when: str = "now"
    or_zero: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """Return what `ros2 param describe` shows, and what rclpy enforces."""
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
        if self.or_zero:
            descriptor.additional_constraints = f"Expected {expected(self)}."
        if self.bounds is not None:
            low, high = self.bounds
            low = 0.0 if self.or_zero else low
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
                return f"parameter '{name}' is {shortened(repr(value))}; expected {expected(self)}"
            low, high = self.bounds or (-math.inf, math.inf)
            if not low <= value <= high and not (self.or_zero and value == 0):
                return f"parameter '{name}' is {value:g}; expected {expected(self)}"
        if self.choices and value not in self.choices:
            return (
                f"parameter '{name}' is '{shortened(str(value))}'; expected one of {', '.join(self.choices)}"
            )
        return ""


def parameter(
    default: bool | int | float | str,
    description: str,
    *,
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    when: str = "now",
    or_zero: bool = False,
) -> Any:
    """Return the dataclass field of one parameter; see `Specification`."""
    specification = Specification(default, description, bounds, choices, when, or_zero)
    return field(default=default, metadata={"specification": specification})


Values = TypeVar("Values")


def specifications(table: type[Values]) -> dict[str, Specification]:
    """Return the rows of a table by parameter name, in order."""
    return {row.name: row.metadata["specification"] for row in fields(table)}  # type: ignore[arg-type]


def declare(node: Node, table: type[Values]) -> Values:
    """Declare every parameter of `table` on `node` and return the values, with overrides applied.

    Warns of overrides that no parameter has the name of.

    Raises:
        ParameterError: a value of the wrong type, out of range or outside of its choices.
    """
    rows = specifications(table)
    given = [name for name in node._parameter_overrides if not node.has_parameter(name)]
    if objection := overrides.unknown_names(given, rows):
        node.get_logger().warning(objection)
    values = {name: parameter.value for name, parameter in node._parameter_overrides.items()}
    if objection := overrides.unusable_policies(values):
        raise ParameterError(f"{objection}: correct the parameters file or the command line")
    for name, row in rows.items():
        try:
            node.declare_parameter(name, row.default, row.descriptor())
        except Exception as error:  # rclpy raises a different family of exceptions in each distribution
            raise ParameterError(
                f"parameter '{name}' cannot be used as given: {described(error)}; expected {expected(row)}: "
                "correct the parameters file or the command line"
            ) from error
        objection = row.objection(name, node.get_parameter(name).value)
        if objection:
            raise ParameterError(f"{objection}: correct the parameters file or the command line")
    return read(node, table)


def read(node: Node, table: type[Values]) -> Values:
    """Return the present values of every parameter of `table`."""
    return table(**{name: value_of(node, name, row) for name, row in specifications(table).items()})


def value_of(node: Node, name: str, row: Specification) -> Any:
    """Return a parameter's value, an integer as a float where the row's default is one."""
    value = node.get_parameter(name).value
    return float(value) if isinstance(row.default, float) else value


def validator(
    table: type[Values], unconfigured: Callable[[], bool]
) -> Callable[[Iterable[Parameter]], SetParametersResult]:
    """Return a callback for `Node.add_on_set_parameters_callback` that enforces choices and `when`.

    `unconfigured()` says whether parameters of the kind "configure" may change at this moment.
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


def expected(row: Specification) -> str:
    """Return which values a parameter takes, in words."""
    kind = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    text = kind[type(row.default)]
    if row.bounds is not None:
        text += f" from {row.bounds[0]:g} to {row.bounds[1]:g}"
    if row.or_zero:
        text += ", or 0"
    return text
