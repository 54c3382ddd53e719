"""Compare the segmenter on every available backend with torch: masks, milliseconds, CUDA graphs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.backends import Stage, random_folder
from benchmarks.gpu.forecast import Kind, best_of, count
from benchmarks.gpu.runner import Report
from benchmarks.gpu.sizes import model_config
from lens_ros.choices import BACKENDS
from lens_ros.engine.backends import compiled, open_engines
from lens_ros.engine.build import build
from lens_ros.engine.cache import Backend, EngineCache
from lens_ros.engine.errors import EngineError
from lens_ros.engine.export import import_onnxruntime
from lens_ros.engine.selfcheck import LEAST_IOU
from lens_ros.engine.sessions import TensorRTSession
from lens_ros.engine.tensorrt_api import import_tensorrt
from lens_ros.model.checkpoint import find_model, load_segmenter
from lens_ros.model.images import segmenter_inputs, segmenter_picture
from lens_ros.system.machine import find_gpu

# Number of kernels launched by an engine's host code, expressed in torch operations: C++ launches kernels
# several times faster than Python does, and fusion leaves fewer of them.
_ENGINE_OPERATIONS = 50
_OBJECTS = 8


@torch.inference_mode()
def shipped_engines(report: Report, *, folder: Path | None) -> None:
    """Compare lens-nano's backends. Engines are kept in ``folder``; None for a temporary one."""
    with tempfile.TemporaryDirectory() as scratch:
        _compare(find_model("lens-nano"), EngineCache(folder or Path(scratch)), BACKENDS, report)


@torch.inference_mode()
def large_engines(report: Report, *, tiny: bool, folder: Path | None) -> None:
    """Compare the backends of SAM 2-L with random weights; ``folder`` as for :func:`shipped_engines`."""
    with tempfile.TemporaryDirectory() as scratch:
        weights = random_folder(Path(scratch), replace(model_config(tiny), name="sam2-large"))
        backends = BACKENDS
        if tiny:
            backends = tuple(name for name in BACKENDS if name != "onnxruntime")
            report.note("onnxruntime: left out in the tiny run, whose export would take longer than the rest")
        _compare(weights, EngineCache(folder or Path(scratch) / "engines"), backends, report)


def _compare(folder: Path, cache: EngineCache, backends: Sequence[Backend], report: Report) -> None:
    device = report.device
    config, truth, _ = load_segmenter(folder)
    truth = truth.to(device)
    stage = Stage(truth, truth, config.image, device)
    expected = stage.decode(_OBJECTS) > 0
    torch_work = _Works(stage)
    _times("torch fp32", stage, torch_work, report)
    if device == "cuda":
        _graphed_torch(stage, torch_work, report)
    for backend in backends:
        if why := _impossible(backend, device):
            report.note(f"{backend}: not possible here: {why}")
            continue
        try:
            started = time.perf_counter()
            build(folder, backend, cache, _Said(report))
            report.say(f"{backend}: ready after {time.perf_counter() - started:.1f} s")
            opened = open_engines(folder, config, backend=backend, device=device, cache=cache)
            if not opened.are(backend):
                raise EngineError(str(opened))
            segmenter = compiled(load_segmenter(folder)[1], opened).to(device)
            engine = Stage(segmenter, truth, config.image, device)
            found = engine.decode(_OBJECTS) > 0
        except Exception as error:  # libraries and CUDA raise all kinds; the other backends may work
            report.failure(f"{backend}: {type(error).__name__}: {error}")
            continue
        name = opened.labels
        union = (found | expected).sum().clamp_min(1)
        iou = float((found & expected).sum() / union)
        why = f"engines below {LEAST_IOU} are refused; fp16 on a CPU agreed in 99.96 % of the pixels"
        report.number(f"{name}, mask IoU to torch", iou, "", 1.0, why)
        if iou < LEAST_IOU:
            report.failure(f"{name}: mask IoU {iou:.3f} to torch, at least {LEAST_IOU} is expected")
        half = "fp32" not in opened.encoder.label
        _times(name, engine, torch_work.compiled(half), report)
        _ungraphed(name, engine, torch_work, half, report)


def _impossible(backend: Backend, device: str) -> str:
    """Return why a backend cannot run here, for reasons that are not errors; "" if it can."""
    if backend != "onnxruntime" and device == "cpu":
        return "its engines need a GPU"
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:  # export needs the first two, the check of the exported model the third
        return f"not installed: {', '.join(missing)}"
    try:
        if backend == "onnxruntime":
            has = device == "cpu" or "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
            return "" if has else "this build of ONNX Runtime has no CUDA (onnxruntime-gpu has)"
        library = import_tensorrt(backend)
    except EngineError as error:
        return str(error)
    gpu = find_gpu()
    assert gpu is not None
    if library.is_rtx and not hasattr(library.module.ComputeCapability, gpu.architecture):
        return f"{library.label} compiles no engines for {gpu.architecture}"
    return ""


class _Works:
    """Work of a stage's calls in torch."""

    def __init__(self, stage: Stage) -> None:
        weights = {"encode": 0.0, "decode": 0.0}
        for name, parameter in stage.segmenter.named_parameters():
            weights["encode" if "vision_encoder" in name else "decode"] += parameter.nbytes
        started = time.perf_counter()
        segmenter_picture(stage.rgb, stage.image)
        host = time.perf_counter() - started
        self.encode = replace(count(stage.encode, "single", weights["encode"]), host=host)
        self.decode1 = count(lambda: stage.decode(1), "single", weights["decode"])
        self.decode8 = count(lambda: stage.decode(8), "single", weights["decode"])
        self.frame = replace(
            count(stage.frame, "single", weights["encode"] + weights["decode"]),
            host=host,
        )

    def compiled(self, half: bool) -> _Works:
        """Return the same work for an engine."""
        other = object.__new__(_Works)
        kind: Kind = "half" if half else "single"
        for name, work in vars(self).items():
            size = 0.5 if half else 1.0
            changed = replace(work, kind=kind, read=size * work.read, operations=_ENGINE_OPERATIONS)
            setattr(other, name, changed)
        return other


def _times(name: str, stage: Stage, works: _Works, report: Report) -> None:
    device = report.device
    report.seconds(f"{name}, encoder", best_of(stage.encode, device), works.encode)
    report.seconds(f"{name}, decoder, 1 object", best_of(lambda: stage.decode(1), device), works.decode1)
    report.seconds(f"{name}, decoder, 8 objects", best_of(lambda: stage.decode(8), device), works.decode8)
    report.seconds(f"{name}, frame to mask", best_of(stage.frame, device), works.frame)


def _pixels(stage: Stage) -> torch.Tensor:
    picture = torch.from_numpy(np.array(segmenter_picture(stage.rgb, stage.image)))[None].to(stage.device)
    return segmenter_inputs(picture, stage.image)


def _graphed_torch(stage: Stage, works: _Works, report: Report) -> None:
    """Time the torch encoder replayed as a CUDA graph, to see the cost of launches."""
    pixels = _pixels(stage)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            stage.segmenter.encode(pixels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            stage.segmenter.encode(pixels)
    except RuntimeError as error:
        report.failure(f"torch fp32, encoder, CUDA graph: {error}")
        return
    work = replace(works.encode, operations=1, host=0.0)
    report.seconds("torch fp32, encoder, CUDA graph", best_of(graph.replay, report.device), work)


def _ungraphed(name: str, stage: Stage, works: _Works, half: bool, report: Report) -> None:
    """Time the TensorRT encoder without its CUDA graph; the times before include it."""
    session: Any = stage.segmenter.encoder
    if not isinstance(session, TensorRTSession) or not session._captures:
        return
    if session._graph is None:
        report.failure(f"{name}: its encoder has not been captured as a CUDA graph")
    session._captures = False
    work = works.compiled(half).encode
    report.seconds(f"{name}, encoder, no CUDA graph", best_of(stage.encode, report.device), work)
    session._captures = True


class _Said:
    """Report the progress of a build as the progress of a part."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = 0.0

    def say(self, text: str) -> None:
        self._report.say(text)

    def step(self, phase: str, done: int, of: int) -> None:
        with suppress(ZeroDivisionError):
            if time.monotonic() - self._last > 5:
                self._last = time.monotonic()
                self._report.say(f"{phase} {100 * done // of} %")
