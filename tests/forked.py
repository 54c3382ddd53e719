"""Run `python -m MODULE` as a fork of a process that has already imported torch, transformers and rclpy.

A start takes tens of milliseconds instead of seconds of imports. The template is the forkserver of
multiprocessing: it runs nothing but imports, so it has no threads and no ROS context that a fork would break.
A fork differs from a real start only in its imports. Tests that need a real start (launch file, demo, command
line, first signal) use one.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path

# What the processes of the tests import, in large part. The programs themselves are run, not imported.
PRELOADED = (
    "forked",
    "lens_ros.lens",
    "lens_ros.nodes.camera.node",
    "lens_ros.nodes.perception.node",
    "training.reinforce",
    "training.supervise",
)

# Of the site-packages and the standard library: everything that does not come from the caller's own path.
_INSTALLED = (sys.prefix, sys.base_prefix)
_running: weakref.WeakSet[ForkedProcess] = weakref.WeakSet()


@atexit.register
def _kill_all() -> None:
    """Kill processes that tests left running; multiprocessing would wait for them."""
    for process in list(_running):
        process.kill()


class ForkedProcess:
    """A program running in a fork of the template, with the part of `subprocess.Popen` that the tests use.

    It leads a separate session. Its output and its errors go to `output`, or nowhere.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        output: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        start_template()
        self.args = [module, *arguments]
        if output is not None:
            output.write_bytes(b"")  # now: a reader may be quicker than the fork
        values = dict(os.environ if environment is None else environment)
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run,
            args=(module, list(arguments), str(output or os.devnull), values, os.getcwd()),
        )
        self._process.start()
        _running.add(self)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise `subprocess.TimeoutExpired` after `timeout` seconds."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal; a no-op once the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_module(module: str, *arguments: str | Path, timeout: float) -> None:
    """Run a program to its end.

    Raises:
        AssertionError: It ended with a status other than 0, or not within `timeout` seconds; the message
            contains its output.
    """
    with tempfile.NamedTemporaryFile() as output:
        process = ForkedProcess(module, [str(argument) for argument in arguments], output=Path(output.name))
        try:
            status: object = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = f"nothing after {timeout:g} s"
            process.kill()
        said = Path(output.name).read_text(errors="replace")
    assert status == 0, f"{' '.join(process.args)} ended with {status}:\n{said}"


def start_template() -> None:
    """Start the template now, so that it does its imports while the first tests run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


def _run(module: str, arguments: list[str], output: str, environment: dict[str, str], folder: str) -> None:
    """Become what `python -u -m MODULE ARGUMENTS` would be, in a separate session."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(output, "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout = open(1, "w", buffering=1, closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    if environment.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    os.chdir(folder)
    added = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [folder, *added, *(path for path in sys.path if path.startswith(_INSTALLED))]
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # `python -m` has it as __main__ alone
    status = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            status = error.code or 0
        else:
            print(error.code, file=sys.stderr)
    except ImportError as error:
        if error.name == module:  # as `python -m` says it
            print(f"No module named {module}", file=sys.stderr)
        else:
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    _end(status)


def _end(status: int) -> None:
    """End this process, after the cleanup that an interpreter does and a multiprocessing process skips.

    Otherwise nothing would run the exit handlers or free the ROS context; other processes see a context that
    was not freed for 20 s. A complete finalisation from here (Py_Exit) crashes in Kilted.
    """
    atexit._run_exitfuncs()
    utilities = sys.modules.get("rclpy.utilities")
    if utilities is not None:
        utilities.g_default_context = None  # type: ignore[attr-defined]
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
