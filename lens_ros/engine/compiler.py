"""Run TensorRT's compiler in a child process: progress, memory, and the reason of its end."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Protocol

from lens_ros.engine import child
from lens_ros.engine.errors import EngineError
from lens_ros.engine.tensorrt_api import Flavour
from lens_ros.system.machine import available_memory

# Host memory of the compiler, measured with TensorRT-RTX 1.7: 0.35 GB and 3.7 times the ONNX file.
_BASE_MEMORY, _MEMORY_FACTOR = 350e6, 3.7


class Progress(Protocol):
    """Receiver of a build's progress."""

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
    """Run :mod:`lens_ros.engine.compiler_process`, report its progress, return the engine's tensors.

    Raises:
        EngineError: it failed, or was killed; then the message says how much memory it takes and what to do.
    """
    job = plan.with_suffix(".json")
    wanted = {"flavour": flavour, "onnx": str(onnx), "plan": str(plan)}
    job.write_text(json.dumps({**wanted, "profile": profile, "capabilities": capabilities}))

    def received(message: child.Message) -> None:
        if "phase" in message:
            progress.step(message["phase"], message["done"], message["of"])

    outcome = child.follow(child.start("lens_ros.engine.compiler_process", str(job)), received)
    job.unlink()
    if "tensors" in outcome.last and outcome.status == 0:
        return outcome.last["tensors"]
    if outcome.killed_by is not None:
        raise EngineError(_killed(outcome.killed_by, onnx))
    raise EngineError(f"compiling {onnx.name} failed: {outcome.failure}")


def _killed(number: signal.Signals, onnx: Path) -> str:
    if number != signal.SIGKILL:
        return (
            f"the compiler was ended by {number.name} while it compiled {onnx.name}; nothing was kept, "
            "build again"
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
    """Check that an ONNX file of ``onnx_size`` bytes can be compiled now.

    Raises:
        EngineError: not enough memory and swap are free.
    """
    need, (free, swap) = _memory(onnx_size), available_memory()
    if free + swap < need:
        raise EngineError(
            f"compiling the {part} takes about {need / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB and "
            f"{swap / 1e9:.1f} GB of swap are free. Stop other programs, add swap or zram, then build again."
        )
