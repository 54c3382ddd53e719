"""Keep the C library's heaps small, return their free memory, and count it.

Where that is no glibc, nothing of it does anything.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
# Memory that is new costs a page fault for each four kilobytes: to receive an image of 1920x1080 (6 MB,
# several times over) takes 15 ms where its blocks have memory of their own or give it back when
# they are freed, 3 ms otherwise.
_LIMITS = {_M_ARENA_MAX: 2, _M_MMAP_THRESHOLD: 8 << 20, _M_TRIM_THRESHOLD: 64 << 20}
# More than there are heaps: two, and those of threads that libraries had started before there was a limit.
_VISITORS = 8
_VISITORS_BLOCK = 1 << 17  # bytes; frees of less than 64 KB trim nothing

_limited = threading.Event()


class _Mallinfo2(ctypes.Structure):
    """glibc's counters, in bytes and numbers of blocks (mallinfo2(3))."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def limit_heaps() -> None:
    """Limit the growth of this process's heaps (mallopt(3)). Call it before threads are started.

    By default glibc has eight heaps for each core. It also moves the size from which on blocks are mapped
    separately according to what was freed last; with images and tensors that happens all the time.
    """
    library = _c_library()
    if hasattr(library, "mallopt"):
        for option, value in _LIMITS.items():
            library.mallopt(option, value)
        _limited.set()


def trim_heaps() -> None:
    """Return free memory to the system.

    The heaps, each shared by several threads, otherwise keep free memory between blocks in use and behind the
    last one. With buffers that come and go in many sizes (images, masks, tensors) that is a hundred megabytes
    within minutes.
    """
    library = _c_library()
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
        if _limited.is_set():
            _trim_ends(library)


def native_bytes() -> int:
    """Return the bytes allocated from the C library and not freed (tensors, images, the middleware).

    Unlike the memory of the process this excludes what lies free in its heaps: only a leak makes it grow.
    Python's small objects are not included (`sys.getallocatedblocks`). 0 if the C library is not glibc 2.33
    or newer.
    """
    library = _c_library()
    if not hasattr(library, "mallinfo2"):
        return 0
    counted = library.mallinfo2()
    return int(counted.uordblks + counted.hblkhd)


def _trim_ends(library: Any) -> None:
    """Return free memory behind the last block of each heap; malloc_trim(3) does so in the first alone.

    A heap's end is trimmed when a larger block is freed in it and the end is above the threshold. The
    threshold keeps it for the next image and is lowered meanwhile. Threads that start are assigned to the
    heaps in turn.
    """
    visited, all_visited = threading.Semaphore(0), threading.Event()

    def visit() -> None:
        try:
            library.free(library.malloc(_VISITORS_BLOCK))
        finally:
            visited.release()  # whatever happens: somebody waits for it
        all_visited.wait()  # one that has ended would leave its heap to the next one

    library.mallopt(_M_TRIM_THRESHOLD, 0)
    try:
        for _ in range(_VISITORS):
            threading.Thread(target=visit, name="trims a heap", daemon=True).start()
            visited.acquire()
    except (RuntimeError, MemoryError):
        pass  # no thread to be had
    finally:
        all_visited.set()
        library.mallopt(_M_TRIM_THRESHOLD, _LIMITS[_M_TRIM_THRESHOLD])


@functools.cache  # each new one would leave a class of its own for the garbage collector
def _c_library() -> Any:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    if hasattr(library, "mallinfo2"):
        library.mallinfo2.restype = _Mallinfo2
    return library
