"""Examine the machine: what would run a model here and why, and whether it works."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lens_ros.choices import SCHEMES, BackendChoice, Quantization
from lens_ros.deployment.forecast import BOARDS, forecast
from lens_ros.engine.backends import SHIPPED
from lens_ros.engine.cache import EngineCache
from lens_ros.engine.errors import EngineError
from lens_ros.engine.selfcheck import PICTURES
from lens_ros.engine.state import staleness
from lens_ros.engine.tensorrt_api import FLAVOURS, Flavour, import_tensorrt
from lens_ros.inputs import as_rgb
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import find_model, read_config, segmenter_digest
from lens_ros.model.quantized import quantized_file
from lens_ros.system.machine import available_memory, find_gpu, system, total_memory

_PACKAGES = (
    "torch", "transformers", "safetensors", "onnx", "onnxscript", "onnxruntime", "torchao", "numpy",
    "opencv-python-headless", "segment-anything",
)  # fmt: skip


def examine(
    model: str, *, device: str, backend: BackendChoice, quantization: Quantization, cache: EngineCache
) -> dict[str, Any]:
    """Return what a bug report should contain, as values of JSON.

    Raises:
        CheckpointError: the model cannot be loaded.
        DeviceError: there is no such device.
    """
    folder = find_model(model)
    config = read_config(folder)
    lens = Lens.from_pretrained(
        folder, device=device, backend=backend, quantization=quantization, engine_cache=cache.root
    )
    assert lens.engines is not None
    return {
        "machine": _machine(cache),
        "versions": {"lens_ros": _version("lens_ros"), **{name: _version(name) for name in _PACKAGES}},
        "tensorrt": {name: _tensorrt(name) for name in FLAVOURS},
        "onnxruntime_providers": _providers(),
        "model": {
            "name": config.name,
            "folder": str(folder),
            "quantized": [scheme for scheme in SCHEMES if quantized_file(folder, scheme).is_file()],
        },
        "backend": {
            half.part: {"runs": half.label, "reason": half.reason}
            for half in (lens.engines.encoder, lens.engines.decoder)
        },
        "memory_forecast": [_forecast(config, scheme) for scheme in ("none", *SCHEMES)],
        "engines": _engines(folder, config.name, cache),
        "self_test": _self_test(lens),
    }


def _machine(cache: EngineCache) -> dict[str, Any]:
    free, swap = available_memory()
    gpu = find_gpu()
    near = next(folder for folder in (cache.root, *cache.root.parents) if folder.exists())
    return {
        "system": system(),
        "cpu_threads": torch.get_num_threads(),
        "memory_gb": round(total_memory() / 1e9, 1),
        "memory_free_gb": round(free / 1e9, 1),
        "swap_free_gb": round(swap / 1e9, 1),
        "gpu": asdict(gpu) | {"label": gpu.label} if gpu else None,
        "driver": _driver(),
        "torch_cuda": torch.version.cuda,
        "engine_cache": str(cache.root),
        "engine_cache_free_gb": round(shutil.disk_usage(near).free / 1e9, 1),
    }


def _driver() -> str | None:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # Jetsons before JetPack 6.1 have no nvidia-smi; L4T stands with the GPU


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tensorrt(name: Flavour) -> dict[str, Any]:
    try:
        library = import_tensorrt(name)
    except EngineError as error:
        return {"version": None, "note": str(error)}
    return {"version": library.version, "note": str(library.module.__file__), "libraries": _libraries(name)}


def _libraries(name: str) -> list[str]:
    """Return every loadable copy of the library; two versions at once are a common fault."""
    stem = "libtensorrt_rtx.so" if name == "tensorrt_rtx" else "libnvinfer.so"
    found = {str(path.resolve()) for place in sys.path for path in Path(place).glob(f"tensorrt*/{stem}*")}
    try:
        known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
        found |= {str(Path(path).resolve()) for path in re.findall(rf"=> (\S*{re.escape(stem)}\S*)", known)}
    except (OSError, subprocess.SubprocessError):
        pass
    return sorted(found)


def _providers() -> list[str]:
    try:
        return importlib.import_module("onnxruntime").get_available_providers()
    except (ImportError, OSError):
        return []


def _forecast(config, quantization: str) -> dict[str, Any]:
    expected = forecast(config, quantization)
    return {
        "quantization": quantization,
        "total_gb": round(expected.total / 1e9, 3),
        "parts_gb": {name: round(size / 1e9, 3) for name, size in expected.parts.items()},
        "activations_gb": round(expected.activations / 1e9, 3),
        "fits": {f"{board} GB": expected.fits(board) for board in BOARDS},
    }


def _engines(folder: Path, name: str, cache: EngineCache) -> list[dict[str, str]]:
    digests = {name: segmenter_digest(folder)}
    rows = []
    for place in (cache, EngineCache(folder / SHIPPED)):
        for entry in place.entries(name):
            state = f"damaged: {entry.fault}"
            if entry.manifest is not None and not entry.fault:
                stale = staleness(entry.manifest.key, digests)
                state = f"stale: {stale}" if stale else f"ready, {entry.manifest.check_note}"
            rows.append({"folder": str(entry.folder), "state": state})
    return rows


def _self_test(lens: Lens) -> dict[str, Any]:
    """Ask about one bundled picture.

    The right answer is known for models of tabletops only; other models must answer in the right form.
    """
    asked = json.loads((PICTURES / "boxes.json").read_text(encoding="utf-8"))["asked"]
    try:
        answer = lens.segment(as_rgb(PICTURES / asked["picture"]), asked["text"])
    except Exception as error:  # a doctor reports what it finds
        return {"passed": False, "note": f"{type(error).__name__}: {error}"}
    x1, y1, x2, y2 = asked["box"]
    inside = float(answer.mask[y1:y2, x1:x2].sum()) / max(1, int(answer.mask.sum()))
    known = lens.model.config.wording == "tabletop"
    passed = answer.well_formed and (not known or (inside > 0.9 and not answer.reason))
    return {
        "passed": bool(passed),
        "picture": asked["picture"],
        "instruction": asked["text"],
        "answer": answer.answer,
        "share_of_mask_on_the_object": round(inside, 3) if known else None,
        "first_answer_ms": round(answer.preprocess_ms + answer.reason_ms + answer.decode_ms),
        "note": "found" if passed else (answer.reason or "the answer is not what it should be"),
    }
