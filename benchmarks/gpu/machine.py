"""Describe the device and measure its simplest operations, which calibrate all other forecasts."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from benchmarks.gpu.forecast import OPERATION, Work, best_of, copy_rate, product_rate
from benchmarks.gpu.runner import Report
from lens_ros.system.machine import find_gpu

_PACKAGES = "torch transformers accelerate torchao onnx onnxruntime tensorrt tensorrt_rtx"


def machine(report: Report) -> None:
    """Report device, packages, product and copy rates, and the cost of an operation."""
    device = report.device
    gpu = find_gpu(device)
    if gpu is not None:
        report.note(f"{gpu.label}, {gpu.memory / 1e9:.0f} GB, CUDA {torch.version.cuda}")
    report.note(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    report.note(", ".join(f"{name} {_version(name)}" for name in _PACKAGES.split()))
    peaks = report.ceilings
    why = f"{peaks.source}; large products reach about 80 % of it" if gpu else peaks.source
    reached = 0.8 if gpu else 1.0
    for kind, dtype, peak in (("bf16", torch.bfloat16, peaks.half), ("fp32", torch.float32, peaks.single)):
        rate = product_rate(device, dtype)
        report.number(f"matrix product, {kind}", rate / 1e12, "TFLOP/s", reached * peak / 1e12, why)
    why = f"{peaks.source}; copies reach about 90 % of it" if gpu else peaks.source
    reached = 0.9 if gpu else 1.0
    report.number("copy", copy_rate(device) / 1e9, "GB/s", reached * peaks.bandwidth / 1e9, why)
    small = torch.zeros(8, device=device)
    count = 2000

    def add() -> None:
        for _ in range(count):
            small.add_(1)

    spent = best_of(add, device) / count
    report.number("one operation", 1e6 * spent, "us", 1e6 * OPERATION, peaks.reason(Work(operations=1)))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
