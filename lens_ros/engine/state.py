"""Decide whether a cached engine fits this machine, library and weights."""

from __future__ import annotations

from collections.abc import Mapping

from lens_ros.engine.cache import Key
from lens_ros.engine.errors import EngineError
from lens_ros.engine.export import FORMAT
from lens_ros.engine.tensorrt_api import import_tensorrt
from lens_ros.system.machine import find_gpu


def staleness(key: Key, digests: Mapping[str, str]) -> str:
    """Return what speaks against using the engine now; empty if nothing does.

    Args:
        key: of the engine.
        digests: of the present weights, by model name; other models' engines are not compared with theirs.
    """
    present = digests.get(key.model, key.source)
    if key.source != present:
        return f"made of other weights ({key.source[:12]}, the model's are {present[:12]})"
    if key.format != FORMAT:
        return f"of format {key.format}, this version of lens_ros needs {FORMAT}"
    if key.backend == "onnxruntime":
        return ""
    try:
        library = import_tensorrt(key.backend)
    except EngineError:
        return ""  # of no use here, but perhaps made for another machine
    if library.label != key.library:
        return f"made by {key.library}, installed is {library.label}"
    gpu = find_gpu()
    if gpu is None:
        return ""
    fits = gpu.architecture in key.device.split(",") if library.is_rtx else gpu.label == key.device
    return "" if fits else f"made for {key.device}, the GPU here is {gpu.label}"
