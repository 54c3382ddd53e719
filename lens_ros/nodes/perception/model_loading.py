"""Load a node's model, explain why it does not load, and release its memory."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lens_ros.inputs import PathError, writable_folder
from lens_ros.nodes.perception.follower import TargetFollower
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.ros.reporting import described
from lens_ros.system.memory import OutOfMemory, collect_garbage, enough_memory, importing

if TYPE_CHECKING:
    from lens_ros.lens import Lens


LOADING_ADVICE = (
    "Take a smaller model or a quantized one (parameters model, quantization; lens doctor forecasts what "
    "they need), or end other programs"
)
ANSWERING_ADVICE = (
    "Ask about fewer things at once (parameter max_targets), send smaller images, take a smaller or a "
    "quantized model (parameters model, quantization), or end other programs"
)


class Interrupted(BaseException):
    """Loading was interrupted. Not an `Exception`, so that no handler on the way swallows it."""


class Interruptible:
    """Work of another thread that can be interrupted.

    It is interrupted while it runs Python code, or as soon as it returns to it. Work that starts later is
    interrupted at its beginning.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._given_up = False

    def __enter__(self) -> None:
        with self._lock:
            if self._given_up:
                raise Interrupted
            self._thread = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._thread = None

    def interrupt(self) -> None:
        """Raise `Interrupted` in the thread at work, and in any that starts later."""
        with self._lock:
            self._given_up = True
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(Interrupted)
                )


def load_lens(settings: PerceptionParameters) -> Lens:
    """Load the model that the parameters name. Takes seconds or more; raises whatever prevents it."""
    # Texts come one by one; and where memory is short, the tokenizer's thread pool fails once and for all.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Imported here and not above: torch takes seconds, and a machine without it should hear so from the log,
    # not from a traceback at start.
    with importing():
        import torch

        from lens_ros.lens import Lens

    # A core that the model leaves alone keeps the services quick, and where there are two of them it is even
    # the faster way: the model's threads wait for each other (benchmarks/service_latency.py).
    torch.set_num_threads(settings.threads or max(1, len(os.sched_getaffinity(0)) - 1))
    with enough_memory(f"model '{settings.model}' on {settings.device}", LOADING_ADVICE):
        lens = Lens.from_pretrained(
            settings.model,
            device=settings.device,
            backend=settings.backend,  # type: ignore[arg-type]  # one of the choices, says the parameter
            precision=None if settings.precision == "auto" else settings.precision,  # type: ignore[arg-type]
            quantization=settings.quantization,  # type: ignore[arg-type]
            decoding=settings.decoding,  # type: ignore[arg-type]
            engine_cache=engine_folder(settings),
        )
    collect_garbage()
    return lens


def engine_folder(settings: PerceptionParameters) -> Path | None:
    """Return the folder of the parameter engine_cache_dir; None for the user's. Raises `PathError`."""
    if not settings.engine_cache_dir:
        return None
    return writable_folder(settings.engine_cache_dir, "parameter engine_cache_dir")


def load_failure(error: Exception, settings: PerceptionParameters) -> str:
    """Return why `load_lens` raised `error`, what was expected and what to do."""
    if isinstance(error, OutOfMemory | PathError):
        return f"{error}; then configure the node again"
    if type(error).__name__ == "CheckpointError":
        return f"{error} (parameter model: '{settings.model}'); then configure the node again"
    if type(error).__name__ == "DeviceError":
        return f"{error} (parameter device: '{settings.device}'); then configure the node again"
    if isinstance(error, ImportError):
        return (
            f"{error}; expected the packages of requirements/robot.txt in {sys.executable}: install them "
            'there, or build lens_ros with the Python that has them (README, "On a ROS 2 machine")'
        )
    return (
        f"model '{settings.model}' does not load on device '{settings.device}': {described(error)}; "
        "correct the parameters model and device, then configure the node again"
    )


def follower_of(lens: Lens, settings: PerceptionParameters) -> TargetFollower | None:
    """Return the tracker of targets between reasoning passes; None if the parameter tracking is false."""
    if not settings.tracking:
        return None
    from lens_ros.tracking.tracker import Tracker

    return TargetFollower(Tracker(lens))


def shortfall(lens: Lens | None, settings: PerceptionParameters) -> str:
    """Return which engines should serve and cannot, and why, or the empty string."""
    engines = getattr(lens, "engines", None)
    if engines is None:
        return ""
    from lens_ros.engine.backends import shortfall_of

    return shortfall_of(engines, settings.backend)  # type: ignore[arg-type]  # one of the choices


def backend_of(lens: Lens) -> str:
    """Return what runs the model, and why."""
    engines = getattr(lens, "engines", None)
    return str(engines) if engines is not None else "torch"
