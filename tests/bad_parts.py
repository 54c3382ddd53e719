"""Parts for benchmarks/gpu/runner.py that misbehave, and one that does not. Cheap to import."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.gpu.runner import Report


def healthy(report: Report) -> None:
    report.number("answer", 42, "", 42, "known")


def raises(report: Report) -> None:
    report.number("before", 1, "", 1, "known")
    raise MemoryError("CUDA out of memory")


def hangs(report: Report, folder: Path) -> None:
    """Start a process, write both ids to ``folder/pids`` and sleep."""
    child = subprocess.Popen(["sleep", "600"])
    (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
    report.number("before", 1, "", 1, "known")
    time.sleep(600)


def dies(report: Report) -> None:
    print("last words", flush=True)
    report.number("before", 1, "", 1, "known")
    os.kill(os.getpid(), signal.SIGKILL)


def exits(report: Report) -> None:
    os._exit(3)


def is_wrong(report: Report) -> None:
    report.failure("the masks differ")
    report.number("after", 1, "", 1, "known")
