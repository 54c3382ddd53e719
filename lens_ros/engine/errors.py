"""Define the errors of compiled models."""

from __future__ import annotations


class EngineError(Exception):
    """An engine, or an ONNX file, that cannot be built or used.

    The message says what is wrong, what was expected and what to do.
    """


class EngineMissing(EngineError):
    """The engine was never built."""
