"""Run parts one after another, each in a process with a time limit, and collect their reports.

A part that raises, hangs, runs out of memory or is killed does not affect the others, and what it reported
before counts. All processes that a part starts end with it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from benchmarks.gpu.forecast import Ceilings, Work

ROOT = Path(__file__).resolve().parents[2]
_HEARTBEAT = 15.0  # seconds of silence after which the elapsed time is printed
_GRACE = 10.0  # seconds that a finished process has to exit

Status = Literal["reported", "failed", "timed out", "killed"]


@dataclass(frozen=True)
class Number:
    """A measurement and its forecast; ``why`` says where the forecast comes from."""

    what: str
    value: float
    unit: str
    forecast: float
    why: str


@dataclass
class Result:
    """Result of a part.

    Attributes:
        part: Name of the part.
        limit_s: Its time limit.
        status: How it ended.
        seconds: Duration of the part.
        cpu_seconds: CPU time of its processes that have ended.
        numbers: Its measurements.
        notes: Things that could not be measured here, and facts without a number.
        error: Empty if the status is "reported".
    """

    part: str
    limit_s: float
    status: Status = "reported"
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    numbers: list[Number] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""


class Report:
    """Interface through which a part reports, in the part's process."""

    def __init__(self, connection: Connection, device: str) -> None:
        self._connection = connection
        self.device = device
        self.failures: list[str] = []

    @cached_property
    def ceilings(self) -> Ceilings:
        """Peaks of the part's device."""
        from benchmarks.gpu.forecast import ceilings_of  # imports torch, which the parent does not need

        return ceilings_of(self.device)

    def say(self, text: str) -> None:
        """Print on the terminal what the part is doing."""
        self._connection.send(("say", text))

    def number(self, what: str, value: float, unit: str, forecast: float, why: str) -> None:
        """Report a measurement with a forecast that is not a time."""
        self._connection.send(("number", Number(what, float(value), unit, float(forecast), why)))

    def seconds(self, what: str, value: float, work: Work) -> None:
        """Report a time of one piece of ``work``, in milliseconds."""
        forecast = self.ceilings.seconds(work)
        self.number(what, 1e3 * value, "ms", 1e3 * forecast, self.ceilings.reason(work))

    def rate(self, what: str, value: float, unit: str, work: Work) -> None:
        """Report how often per second ``work`` is done."""
        self.number(what, value, unit, 1 / self.ceilings.seconds(work), self.ceilings.reason(work))

    def note(self, text: str) -> None:
        """Report something that could not be measured here, or a fact without a number."""
        self._connection.send(("note", text))

    def failure(self, text: str) -> None:
        """Report that something is wrong; the part continues, and counts as failed."""
        self.failures.append(text)
        self.note(f"FAILED: {text}")


@dataclass(frozen=True)
class Part:
    """A function and how to run it.

    Attributes:
        name: Name of the part.
        function: "module:name", imported only in the part's process; called with a :class:`Report` and
            ``arguments``.
        limit_s: Time after which the part is killed.
        device: "cpu" or "cuda". A part for the CPU sees no GPU and computes in one thread: so results can be
            compared between machines, and depend less on other programs.
        arguments: Keyword arguments of the function.
    """

    name: str
    function: str
    limit_s: float
    device: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def run_parts(
    parts: Iterable[Part], log: Path, finished: Callable[[list[Result]], None], preload: Iterable[str] = ()
) -> list[Result]:
    """Run the parts in order; progress goes to standard error.

    Args:
        parts: The parts.
        log: File that gets the output of the parts.
        finished: Called after each part with the results so far.
        preload: Modules to import once for all parts. On a CPU they are imported by a server process that the
            parts are forked from. With a GPU every part starts as a new process: a fork of a process whose
            imports have touched CUDA cannot use it.
    """
    parts = list(parts)
    # Servers and compilers that are started from here must find this checkout.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    server = not any(part.device == "cuda" for part in parts)
    context: Any = multiprocessing.get_context("forkserver" if server else "spawn")
    if server:
        context.set_forkserver_preload(list(preload))
    results: list[Result] = []
    for index, part in enumerate(parts):
        _say(f"[{index + 1}/{len(parts)}] {part.name} (at most {part.limit_s:.0f} s)")
        results.append(_run(part, context, log))
        _say(f"    {results[-1].status} after {results[-1].seconds:.1f} s")
        finished(results)
    return results


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(part: Part, context: Any, log: Path) -> Result:
    result = Result(part.name, part.limit_s)
    begin = log.stat().st_size if log.exists() else 0
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(part, theirs, str(log)))
    started = time.monotonic()
    process.start()
    theirs.close()
    try:
        outcome = _listen(process, ours, started, result)
    finally:
        _end(process)
    result.seconds = round(time.monotonic() - started, 2)
    if outcome is None and time.monotonic() - started >= part.limit_s:
        result.status, result.error = "timed out", f"not finished after {part.limit_s:.0f} s"
    elif outcome is None:
        result.status, result.error = "killed", _ended(process.exitcode)
    elif outcome:
        result.status, result.error = "failed", outcome
    if result.status in ("timed out", "killed") and (printed := _tail(log, begin)):
        result.error += f"; it printed last: {printed}"
    return result


def _listen(process: Any, connection: Connection, started: float, result: Result) -> str | None:
    """Collect what a part reports. Return its error ("" for none), or None if it did not finish."""
    while (left := started + result.limit_s - time.monotonic()) > 0:
        wait([connection, process.sentinel], min(left, _HEARTBEAT))
        if not connection.poll():
            if not process.is_alive():
                return None
            if left > _HEARTBEAT:
                _say(f"    ... {time.monotonic() - started:.0f} s")
            continue
        try:
            kind, content = connection.recv()
        except (EOFError, OSError):
            process.join(_GRACE)
            return None
        if kind == "end":
            process.join(_GRACE)
            return content
        if kind == "number":
            result.numbers.append(content)
            _say(f"    {line(content)}")
        elif kind == "note":
            result.notes.append(content)
            _say(f"    {content}")
        elif kind == "cpu":
            result.cpu_seconds = content
        else:
            _say(f"    {content}")
    return None


def line(number: Number) -> str:
    """Format a measurement in one line."""
    return f"{number.what}: {number.value:.4g} {number.unit} (forecast {number.forecast:.4g}: {number.why})"


def _end(process: Any) -> None:
    """Kill what is left of a part, which leads a process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():  # killed before it became a group leader
        process.kill()
    process.join()


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ": usually the system was out of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process exited with status {code} without a report"


def _tail(log: Path, begin: int) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return " | ".join(lines[-3:])[-600:]


def _work(part: Part, connection: Connection, log: str) -> None:
    """Run a part in its process."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if part.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    print(f"==== {part.name}", flush=True)
    report = Report(connection, part.device)
    try:
        module, _, name = part.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        if part.device == "cpu" and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        function(report, **part.arguments)
        error = "; ".join(report.failures)
    except BaseException as raised:  # the parent reports any error
        traceback.print_exc()
        error = f"{type(raised).__name__}: {raised}"[:1000]
    sys.stdout.flush()
    sys.stderr.flush()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    connection.send(("cpu", round(sum(each.ru_utime + each.ru_stime for each in used), 2)))
    connection.send(("end", error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)
