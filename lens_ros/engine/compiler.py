"""Running the compiler in a process of its own: progress, memory, and what a killed one means."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from lens_ros.engine.errors import EngineError
from lens_ros.engine.machine import available_memory
from lens_ros.engine.tensorrt_api import Flavour

# Host memory of the compiler, measured with TensorRT-RTX 1.7: 0.35 GB and 3.7 times the ONNX file.
_BASE_MEMORY, _MEMORY_FACTOR = 350e6, 3.7


class Progress(Protocol):
    """Who is told how a build goes on."""

    def say(self, text: str) -> None: ...

    def step(self, phase: str, done: int, of: int) -> None: ...


def run_compiler(
    flavour: Flavour,
    onnx: Path,
    plan: Path,
    profile: dict[str, Any],
    capabilities: tuple[str, ...],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Runs :mod:`lens_ros.engine.compile` and reports its progress; returns the engine's tensors.

    Raises:
        EngineError: it failed, or was killed; then the message says how much memory it takes and what to do.
    """
    job = plan.with_suffix(".json")
    wanted = {"flavour": flavour, "onnx": str(onnx), "plan": str(plan)}
    job.write_text(json.dumps({**wanted, "profile": profile, "capabilities": capabilities}))
    command = [sys.executable, "-m", "lens_ros.engine.compile", str(job)]
    last: dict[str, Any] = {}
    said: list[str] = []
    with subprocess.Popen(
        command, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                try:
                    last = json.loads(line)
                except ValueError:
                    said.append(line.strip())
                    continue
                if "phase" in last:
                    progress.step(last["phase"], last["done"], last["of"])
        except BaseException:  # we are to end: not after it, which may take minutes
            process.kill()
            raise
    job.unlink()
    if "tensors" in last and process.returncode == 0:
        return last["tensors"]
    if process.returncode < 0 and "error" not in last:
        raise EngineError(_killed(-process.returncode, onnx))
    told = last.get("error") or "; ".join(said[-3:]) or f"exit status {process.returncode}"
    raise EngineError(f"compiling {onnx.name} failed: {told}")


def child_environment() -> dict[str, str]:
    """In which a child process finds this very package."""
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def _killed(number: int, onnx: Path) -> str:
    name = signal.Signals(number).name
    if number != signal.SIGKILL:
        return (
            f"the compiler was ended by {name} while it compiled {onnx.name}; nothing was kept, build again"
        )
    need, (free, swap) = _memory(onnx.stat().st_size), available_memory()
    return (
        f"the compiler was killed (SIGKILL) while it compiled {onnx.name}: usually the system was out of "
        f"memory. It takes about {need / 1e9:.1f} GB; {free / 1e9:.1f} GB and {swap / 1e9:.1f} GB of swap "
        "are free now. Stop the node and the desktop (sudo systemctl isolate multi-user.target), add swap "
        "or zram, then build again; nothing was damaged."
    )


def _memory(onnx_size: int) -> float:
    return _BASE_MEMORY + _MEMORY_FACTOR * onnx_size


def need_memory(onnx_size: int, part: str) -> None:
    """Checks that an ONNX file of ``onnx_size`` bytes can be compiled now.

    Raises:
        EngineError: not enough memory and swap are free.
    """
    need, (free, swap) = _memory(onnx_size), available_memory()
    if free + swap < need:
        raise EngineError(
            f"compiling the {part} takes about {need / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB and "
            f"{swap / 1e9:.1f} GB of swap are free. Stop other programs, add swap or zram, then build again."
        )
