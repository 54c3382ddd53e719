"""Define the error of a model's files."""

from __future__ import annotations

from collections.abc import Sequence

_LISTED = 20  # names in one message


class CheckpointError(Exception):
    """Weights or a model folder that cannot be used; the message says what is wrong and what to do."""


def first_few(names: Sequence[str]) -> str:
    """Return the first 20 of ``names``, and the number of the others."""
    listed = ", ".join(names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"
