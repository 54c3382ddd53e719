"""Write files and folders so that they appear complete; an interrupted write changes nothing."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a hidden neighbour that becomes `path` when the block ends without an error.

    Raises:
        OSError: The file cannot be written or put in place.
    """
    partial = _partial(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with suppress(OSError):  # the error of the block is the one to report
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty hidden neighbour that becomes the folder `path` when the block ends without an error.

    A folder that was there before is replaced, in one step where the file system can do that.

    Raises:
        OSError: The folder cannot be written or put in place.
    """
    _remove_abandoned(path)
    partial = _partial(path)
    try:
        partial.mkdir(parents=True)
        yield partial
        put_in_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(made: Path, out: Path) -> None:
    """Make the folder `made` the folder `out`, instead of an older one.

    Where the file system cannot exchange two folders in one step, the older one is first moved to
    ``.NAME.replaced``; it comes back if the second step fails.

    Raises:
        OSError: The folder cannot be moved.
    """
    aside = out.with_name(f".{out.name}.replaced")
    if not out.exists():
        made.rename(out)
    elif not _exchange(made, out):
        shutil.rmtree(aside, ignore_errors=True)
        out.rename(aside)
        try:
            made.rename(out)
        except OSError:
            aside.rename(out)
            raise
    for older in (made, aside):
        shutil.rmtree(older, ignore_errors=True)


def _partial(path: Path) -> Path:
    """Return a name that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed left of this folder."""
    for left in path.parent.glob(f".{path.name}.*.partial"):
        number = left.name.removesuffix(".partial").rpartition(".")[2]
        if number.isdigit() and (int(number) == os.getpid() or not Path(f"/proc/{number}").exists()):
            shutil.rmtree(left, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the file system cannot do that.

    See https://man7.org/linux/man-pages/man2/rename.2.html (glibc 2.28).
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
