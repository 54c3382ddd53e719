"""Define why an object has no place in three dimensions."""

from __future__ import annotations

from lens_ros.codes import Code, Coded


class GeometryError(Exception):
    """An object cannot be located; `reason` says why, with a code for machines."""

    def __init__(self, text: str, code: Code) -> None:
        super().__init__(text)
        self.reason = Coded(text, code)
