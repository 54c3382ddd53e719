"""Build engines in a low-priority subprocess while another backend serves requests.

The subprocess is this module run as a program: ``python -m lens_ros.engine.background_build JOB``. ``JOB`` is
JSON: ``folder``, ``backend``, ``precision`` (null: the first that passes the self-check), ``cache``, and
``for``, the process id of the parent. Standard output carries JSON lines: ``{"say"}`` and ``{"phase",
"percent"}``, at the end ``{"made"}`` or ``{"error"}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lens_ros.choices import Backend, Precision
from lens_ros.engine import child
from lens_ros.engine.build import build
from lens_ros.engine.cache import EngineCache
from lens_ros.engine.errors import EngineError
from lens_ros.model.errors import CheckpointError
from lens_ros.system.machine import available_memory

GRACE_S = 2.0  # for the process to end by itself when it is asked to
STEPS_LOGGED_S = 15.0  # between two lines of the log about one phase
_ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Wanted:
    """Engines to build. ``model`` is the name in its configuration, ``folder`` that of the model."""

    folder: Path
    model: str
    backend: Backend
    precision: Precision | None
    cache: EngineCache
    device: str = "cpu"


class Warming:
    """A build in the background. No callback is called after :meth:`cancel` has returned."""

    def __init__(self, wanted: Wanted, *, told: Callable[[str], None], ended: Callable[[str], None]) -> None:
        """Take callbacks, which a thread calls.

        ``told`` receives lines for a log; ``ended`` is called once, with the empty string when the engines
        are ready, else with what went wrong.
        """
        self._wanted = wanted
        self._told = told
        self._ended = ended
        self._lock = threading.Lock()
        self._cancelled = False
        self._process: subprocess.Popen[str] | None = None
        self._progress = f"building {wanted.backend}"
        self._said_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="warming", daemon=True)

    @property
    def progress(self) -> str:
        """Progress in words: ``building onnxruntime decoder fp32: exporting, 33 %``."""
        return self._progress

    def start(self) -> None:
        """Start the thread; return at once."""
        self._thread.start()

    def cancel(self) -> None:
        """End the subprocess and wait for that; no partial build stays in the cache."""
        with self._lock:
            self._cancelled = True
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self._wanted.cache.sweep()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            failure = self._made()
        except Exception as error:  # such as no memory to start a process with
            failure = f"{type(error).__name__}: {error}"
        if not self._cancelled:
            self._ended(failure)

    def _made(self) -> str:
        wanted = self._wanted
        job = {
            "folder": str(wanted.folder),
            "backend": wanted.backend,
            "precision": wanted.precision,
            "cache": str(wanted.cache.root),
            "for": os.getpid(),
        }
        with self._lock:
            if self._cancelled:
                return "cancelled"
            # The process ends with the thread that starts it, which therefore has to be this one.
            self._process = process = child.start(
                "lens_ros.engine.background_build", json.dumps(job), _visible_gpu(wanted.device)
            )
            _yield_to_everything(process.pid)
        outcome = child.follow(process, self._pass_on)
        if "made" in outcome.last and outcome.status == 0:
            return ""
        if outcome.status < 0:
            wanted.cache.sweep()
            return _killed(signal.Signals(-outcome.status))
        return outcome.failure

    def _pass_on(self, message: dict[str, Any]) -> None:
        if self._cancelled:
            return
        if "say" in message:
            self._said_at = time.monotonic()
            self._told(message["say"])
        elif "phase" in message:
            self._progress = f"building {self._wanted.backend} {message['phase']}, {message['percent']} %"
            if time.monotonic() > self._said_at + STEPS_LOGGED_S:
                self._said_at = time.monotonic()
                self._told(self._progress)


def _yield_to_everything(pid: int) -> None:
    """Lower the priority of this process before its imports, which take seconds of a core.

    Threads that it starts inherit that.
    """
    with contextlib.suppress(OSError):  # it has ended already
        os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))
        # Where memory ends, it is this process that ends, not the node.
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _visible_gpu(device: str) -> dict[str, str]:
    """Return the variable that shows a child this device alone: a compiler takes the first GPU it sees."""
    index = torch.device(device).index or 0
    if not index:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": visible[index] if index < len(visible) else str(index)}


def _killed(number: signal.Signals) -> str:
    if number != signal.SIGKILL:
        return f"the process that made them was ended by {number.name}; nothing was damaged"
    free, swap = available_memory()
    return (
        "the process that made them was killed (SIGKILL): usually the system was out of memory; "
        f"{free / 1e9:.1f} GB and {swap / 1e9:.1f} GB of swap are free now; nothing was damaged"
    )


class _Lines:
    """A build's progress as JSON lines, one per percent."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def say(self, text: str) -> None:
        child.report({"say": text})

    def step(self, phase: str, done: int, of: int) -> None:
        percent = 100 * done // max(1, of)
        if (phase, percent) != self._last:
            self._last = phase, percent
            child.report({"phase": phase, "percent": percent})


def main(job: str) -> int:
    """Build the engines of a job, in the subprocess; return its exit status."""
    for number in _ENDING:
        signal.signal(number, _end)  # so that partial files are removed
    child.end_with_parent(signal.SIGTERM)
    wanted = json.loads(job)
    cache = EngineCache(Path(wanted["cache"]))
    if os.getppid() != wanted["for"]:
        return 1  # it has ended meanwhile
    try:
        build(
            Path(wanted["folder"]),
            wanted["backend"],
            cache,
            _Lines(),
            precision=wanted["precision"],
        )
    except (CheckpointError, EngineError) as error:
        child.report({"error": str(error)})
        return 1
    except MemoryError:
        child.report({"error": "out of memory"})
        return 1
    finally:
        cache.sweep()  # where the signal came between two steps of the folder's own end
    child.report({"made": True})
    return 0


def _end(number: int, frame: Any) -> None:
    # The kernel sends the signal again for each ending thread of the parent. A second exception would
    # interrupt the clean-up of the first.
    for ending in _ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
