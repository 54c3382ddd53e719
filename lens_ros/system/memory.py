"""Recognise that memory ran out, release what can be released, and say what to do."""

from __future__ import annotations

import contextlib
import errno
import gc
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from lens_ros.system.allocator import trim_heaps

# What allocators say: torch (CPU, CUDA), ONNX Runtime, cuBLAS, cuDNN, C++, OpenCV; and oneDNN, where there is
# no memory for the code that it generates.
_SAID = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "bad_alloc",
    "insufficient memory",
    "could not create a primitive",
)


class OutOfMemory(MemoryError):
    """Memory ran out; the message says what needed it, how much is free, and what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator failed, or an error was raised because of that."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return True
        text = str(seen).lower()
        if any(said in text for said in _SAID):  # torch.OutOfMemoryError, RuntimeError, and many others
            return True
        seen = seen.__cause__
    return False


@contextlib.contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Turn a failing allocation into :class:`OutOfMemory`, after freeing what can be freed.

    Args:
        what: needs the memory, such as ``loading the model``.
        advice: what to do about it.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        told = told.rstrip(": ")  # Python's own error says nothing
        # The frames that were left hold what was computed in them.
        seen: BaseException | None = error
        while seen is not None:
            traceback.clear_frames(seen.__traceback__)
            seen = seen.__cause__ or seen.__context__
        give_back()
        raise OutOfMemory(f"not enough memory for {what} ({told}); {_free()} now. {advice}") from None


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Pause the garbage collector while large packages are imported, then exempt what they made from it.

    torch and transformers make half a million objects that last as long as the process. Looking through them
    again and again would be a seventh of the time that their import takes.
    """
    enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        # Only what is new: garbage of an earlier attempt to load a model must not be exempt for good. And not
        # what an import leaves that was interrupted: a node that ends then would never be collected, and its
        # endpoints would outlive it.
        if len(sys.modules) > modules:
            gc.freeze()
    finally:
        if enabled:
            gc.enable()


def give_back() -> None:
    """Collect garbage, and return the GPU memory that torch caches."""
    collect_garbage()
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)  # nobody has used it who has not imported it
    if getattr(cuda, "is_initialized", bool)():
        cuda.empty_cache()


def collect_garbage() -> None:
    """Collect garbage once, then exempt what is left from later collections.

    These are half a million objects, most of them torch's. To look through them takes a quarter of a second,
    in which no thread of the process gets on; Python would do it now and then, in the middle of the work.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    # Python looks through everything again when a quarter as much is new as was left the last time: which
    # from now on is next to nothing.
    gc.collect()
    gc.collect()  # takes no time, and lets Python know how little there is to look through from now on
    trim_heaps()


def _free() -> str:
    from lens_ros.system.machine import available_memory

    free, swap = available_memory()
    told = [f"{free / 1e9:.1f} GB of memory and {swap / 1e9:.1f} GB of swap"]
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    if getattr(cuda, "is_initialized", bool)():
        with contextlib.suppress(RuntimeError):
            left, total = cuda.mem_get_info()
            told.append(f"{left / 1e9:.1f} of {total / 1e9:.1f} GB of the GPU's")
    return " and ".join(told) + " are free"
