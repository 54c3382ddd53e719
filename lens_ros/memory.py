"""When memory ends: recognising it, giving back what can be given back, saying what to do."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import sys
import traceback
from collections.abc import Iterator
from typing import Any

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

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
# Memory that is new costs a page fault for each four kilobytes: to receive an image of 1920x1080 (6 MB,
# several times over) takes 15 ms where its blocks have memory of their own or give it back when
# they are freed, 3 ms otherwise.
_HEAP_LIMITS = {_M_ARENA_MAX: 2, _M_MMAP_THRESHOLD: 8 << 20, _M_TRIM_THRESHOLD: 64 << 20}


class _Mallinfo2(ctypes.Structure):
    """What glibc counts, in bytes and numbers of blocks (mallinfo2(3))."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


class OutOfMemory(MemoryError):
    """The message says what needed memory, how much is free, and what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator failed, or what raised this was raised because of that."""
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
    """Turns a failing allocator into :class:`OutOfMemory`, when what can be freed is free again.

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


def give_back() -> None:
    """Collects what is referenced no more, and returns the GPU memory that torch keeps for later."""
    collect_garbage()
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)  # nobody has used it who has not imported it
    if getattr(cuda, "is_initialized", bool)():
        cuda.empty_cache()


def collect_garbage() -> None:
    """Once, thoroughly; then exempts what is left from later collections.

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
    trim_heap()


def limit_heaps() -> None:
    """Keeps the heaps of this process from growing by what lies free between blocks in use, where the C
    library is glibc (mallopt(3)). Call it before threads are started.

    By default glibc has eight heaps for each core, and moves the size from which on blocks get memory of
    their own according to what was freed last, which with images and tensors is all the time.
    """
    mallopt = getattr(_c_library(), "mallopt", None)
    if mallopt is not None:
        for option, value in _HEAP_LIMITS.items():
            mallopt(option, value)


def trim_heap() -> None:
    """Gives free memory back to the system, where the C library is glibc.

    Its heaps, one for several threads each, otherwise keep what lies between blocks in use. Of buffers that
    come and go in many sizes (images, masks, tensors) that is a hundred megabytes within minutes.
    """
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def native_bytes() -> int:
    """What is allocated from the C library and not freed (tensors, images, the middleware), in bytes.

    Other than the process' memory this has no share of what lies free in its heaps: what leaks, grows.
    Python's small objects are not among it (`sys.getallocatedblocks`). 0 where the C library is no glibc from
    2.33 on.
    """
    mallinfo2 = getattr(_c_library(), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _Mallinfo2
    counted = mallinfo2()
    return int(counted.uordblks + counted.hblkhd)


@functools.cache  # each new one would leave a class of its own for the garbage collector
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _free() -> str:
    from lens_ros.engine.machine import available_memory

    free, swap = available_memory()
    told = [f"{free / 1e9:.1f} GB of memory and {swap / 1e9:.1f} GB of swap"]
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    if getattr(cuda, "is_initialized", bool)():
        with contextlib.suppress(RuntimeError):
            left, total = cuda.mem_get_info()
            told.append(f"{left / 1e9:.1f} of {total / 1e9:.1f} GB of the GPU's")
    return " and ".join(told) + " are free"
