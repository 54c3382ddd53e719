"""Predict how long work takes on a device, so that a measurement can be judged.

A forecast is the time of a roofline model with the inefficiencies that are usual for such models::

    host + max(2.25 * flop / peak + 1.4 * bytes / bandwidth, operations * 5 us)

- ``flop`` is counted by torch's FlopCounterMode while the work runs once. ``bytes`` are the weights that the
  work must read (for one generated token: the language model's layers and its head).
- ``peak`` and ``bandwidth`` of known GPUs are taken from the vendor's data sheet (dense, without sparsity).
  For any other device they are measured first.
- 2.25 and 1.4 are the usual factors by which matrix products (2 to 2.5) and memory reads of such models miss
  the bound. They are experience, not measurements on this device.
- An operation that torch dispatches from Python costs the host about 5 us, whatever it computes. Small models
  and eager decoding are bound by this. A replayed CUDA graph has no such cost.
- ``host`` is work on the CPU before the device can begin; it is measured.

The table names the largest term. At the real sizes on an H200 the 3B reads 6.17 GB (bf16) or 3.40 GB (int8,
compiled) for a token: 1.8 ms or 1.0 ms from a CUDA graph, 10 ms from Python (2,025 operations). SAM 2-L's
encoder (1.825 TFLOP) takes 61 ms in torch's float32 and 4.2 ms as an fp16 engine.

A measurement far above its forecast shows where to look. A measurement below its forecast shows that a bound
was too high.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

Kind = Literal["half", "single"]

PRODUCTS, READS, OPERATION = 2.25, 1.4, 5e-6
_WARM_UPS = 4  # TensorRT's encoder is captured as a CUDA graph in its fourth run
# Dense peak in 16 bits and in float32 (FLOP/s), memory bandwidth (bytes/s).
DATA_SHEETS = {
    "H200": (989e12, 67e12, 4.8e12),
    "H100": (989e12, 67e12, 3.35e12),
    "A100": (312e12, 19.5e12, 2.04e12),
}


@dataclass(frozen=True)
class Work:
    """Cost of a piece of work.

    Attributes:
        flop: Floating-point operations.
        read: Bytes that must be read from the device's memory.
        operations: Operations dispatched by torch, one after another.
        kind: Number format of the matrix products.
        host: Seconds on the CPU before the device can begin.
    """

    flop: float = 0.0
    read: float = 0.0
    operations: float = 0.0
    kind: Kind = "single"
    host: float = 0.0

    def times(self, factor: float) -> Work:
        """Return ``factor`` times the work."""
        return replace(
            self,
            flop=self.flop * factor,
            read=self.read * factor,
            operations=self.operations * factor,
            host=self.host * factor,
        )

    def less(self, other: Work) -> Work:
        """Return the work that remains after ``other``."""
        return replace(
            self,
            flop=self.flop - other.flop,
            read=self.read - other.read,
            operations=self.operations - other.operations,
        )


@dataclass(frozen=True)
class Ceilings:
    """Peaks of a device in FLOP/s and bytes/s, and their source."""

    half: float
    single: float
    bandwidth: float
    source: str

    def seconds(self, work: Work) -> float:
        """Return the forecast."""
        return work.host + max(self._device(work), OPERATION * work.operations)

    def reason(self, work: Work) -> str:
        """Name the largest term of the forecast, with its numbers."""
        host = f" + {1e3 * work.host:.1f} ms host" if work.host else ""
        if OPERATION * work.operations >= self._device(work):
            return f"{work.operations:.0f} operations x 5 us{host}"
        products, reads = PRODUCTS * work.flop / self._peak(work), READS * work.read / self.bandwidth
        if products > reads:
            return f"{work.flop / 1e12:.3g} TFLOP x 2.25 / {self._peak(work) / 1e12:.3g} TFLOP/s{host}"
        return f"{work.read / 1e9:.3g} GB x 1.4 / {self.bandwidth / 1e9:.4g} GB/s{host}"

    def _peak(self, work: Work) -> float:
        return self.half if work.kind == "half" else self.single

    def _device(self, work: Work) -> float:
        return PRODUCTS * work.flop / self._peak(work) + READS * work.read / self.bandwidth


def ceilings_of(device: str) -> Ceilings:
    """Return a device's peaks: from the data sheet of a known GPU, else measured, which takes a second."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    for known, peaks in DATA_SHEETS.items():
        if known in name:
            return Ceilings(*peaks, source=f"data sheet of the {known}")
    return Ceilings(
        half=product_rate(device, torch.bfloat16),
        single=product_rate(device, torch.float32),
        bandwidth=copy_rate(device),
        source=f"measured on this {name}",
    )


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Measure FLOP/s of a large square matrix product."""
    side = 8192 if device == "cuda" else 512
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2.0 * side**3 / best_of(lambda: left @ right, device)


def copy_rate(device: str) -> float:
    """Measure bytes/s, read and written, of a copy that is larger than the caches."""
    source = torch.ones(2**31 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / best_of(lambda: target.copy_(source), device)


def best_of(run: Callable[[], Any], device: str, times: int = 10) -> float:
    """Return the least seconds of up to ``times`` runs after warm-up runs; fewer if they take long."""
    spent: list[float] = []
    for turn in range(times + _WARM_UPS):
        wait(device)
        started = time.perf_counter()
        run()
        wait(device)
        elapsed = time.perf_counter() - started
        if turn >= _WARM_UPS:
            spent.append(elapsed)
        if sum(spent) > 0.5:
            break
    return min(spent)


def wait(device: str) -> None:
    """Wait until the device has finished all submitted work."""
    if device == "cuda":
        torch.cuda.synchronize()


class Counting:
    """Count the work of a block: ``with Counting() as counted: ...``, then ``counted.work(...)``."""

    def __init__(self) -> None:
        self._flop = FlopCounterMode(display=False)
        self._operations = _Operations()

    def __enter__(self) -> Counting:
        self._flop.__enter__()
        self._operations.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._operations.__exit__(*error)
        self._flop.__exit__(*error)

    def work(self, kind: Kind, read: float = 0.0, host: float = 0.0) -> Work:
        """Return the counted work; ``read`` and ``host`` as in :class:`Work`."""
        return Work(self._flop.get_total_flops(), read, self._operations.count, kind, host)


def count(run: Callable[[], Any], kind: Kind, read: float = 0.0) -> Work:
    """Run once and return the work."""
    with Counting() as counted:
        run()
    return counted.work(kind, read)


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))
