"""Run `perception` with a model that fails on request: `python -m faults.faulty_perception`.

The model is the real one. An instruction such as "crash: the blue mug" triggers the fault in the middle of
the network, in the forward pass of one of its modules. The text after the colon is still asked.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lens_ros.nodes.perception import diagnostics, model_loading, node
from lens_ros.nodes.perception.parameters import PerceptionParameters

FAILING_PASS = 40  # of a module, counted from the beginning of the question: the image is encoded by then
SECONDS_A_TOKEN = 0.1  # of what is "slow"
SLOW = "slow"  # a file of this name in the folder engine_cache_dir makes loading wait until it is gone
PATIENCE_S = 1.0  # with what hangs, instead of half a minute


def _out_of_gpu_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


ERRORS: dict[str, Callable[[], Exception]] = {
    "crash": lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    "memory": MemoryError,
    "gpu memory": _out_of_gpu_memory,
}


class FaultyLens:
    """Wrap a `Lens` and trigger the fault that the beginning of an instruction names."""

    def __init__(self, lens: Any) -> None:
        self._lens = lens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lens, name)

    def segment_all(
        self,
        image: Any,
        instructions: Sequence[str],
        *,
        on_text: Callable[[int, str], None],
        cancelled: Callable[[], bool],
        **options: Any,
    ) -> Any:
        from torch.nn.modules.module import register_module_forward_pre_hook

        faults = [instruction.partition(": ")[0] for instruction in instructions]
        passes = 0

        def fail(*_: Any) -> None:
            nonlocal passes
            passes += 1
            for fault in faults:
                if passes == FAILING_PASS and fault == "hang":
                    threading.Event().wait()
                if passes == FAILING_PASS and fault == "freeze":
                    ctypes.PyDLL(None).sleep(3600)  # keeps the interpreter's lock
                if passes == FAILING_PASS and fault in ERRORS:
                    raise ERRORS[fault]()

        def slowly(row: int, text: str) -> None:
            on_text(row, text)
            if "slow" in faults:
                time.sleep(SECONDS_A_TOKEN)

        hook = register_module_forward_pre_hook(fail)
        try:
            return self._lens.segment_all(
                image,
                [asked.removeprefix(f"{fault}: ") for asked, fault in zip(instructions, faults, strict=True)],
                on_text=slowly,
                cancelled=cancelled,
                **options,
            )
        finally:
            hook.remove()


def _faulty(load: Callable[[PerceptionParameters], Any]) -> Callable[[PerceptionParameters], Any]:
    def loaded(settings: PerceptionParameters) -> FaultyLens:
        while settings.engine_cache_dir and Path(settings.engine_cache_dir, SLOW).exists():
            time.sleep(0.01)
        return FaultyLens(load(settings))

    return loaded


if __name__ == "__main__":
    model_loading.load_lens = _faulty(model_loading.load_lens)
    diagnostics.SILENCE_S = node.LETTING_GO_S = PATIENCE_S
    raise SystemExit(node.main())
