"""The benchmarks run, and the compared flows give the same results; their times are not tested."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_module

from lens_ros.engine.cache import EngineCache

ROOT = Path(__file__).resolve().parents[1]


def test_first_mask_compares_like_with_like(tmp_path: Path) -> None:
    options = ["--models", "lens-nano", "--tokens", "6", "--repeats", "1"]
    run_module("benchmarks.first_mask", *options, "--json", tmp_path / "numbers.json", timeout=900)
    rows = json.loads((tmp_path / "numbers.json").read_text())
    assert [row["instructions"] for row in rows] == [1, 3, 8]
    for row in rows:
        assert row["relative_difference"] < 1e-3
        assert row["ours_tflop"] < row["reference_tflop"]
        assert row["ours_s"] > 0 and row["reference_s"] > 0


def test_startup_measures_processes_and_their_imports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.startup", "--only", "help", "--runs", "1", "--imports"]
    run = subprocess.run(
        [*command, "--json", tmp_path / "numbers.json"], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stdout + run.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["seconds"]["help"]["cpu_s"] > 0 and numbers["seconds"]["help"]["wall_s"] > 0
    imports = numbers["imports"]["help"]
    assert len(imports) == 20 and all(0 < each["own_us"] <= each["total_us"] for each in imports)
    assert "argparse" in {each["module"] for each in imports}


@pytest.mark.long
def test_grpo_step_compares_like_with_like(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "grpo_step.py", "--models", "lens-nano"]
    options = ["--group", "3", "--tokens", "6", "--repeats", "1", "--json", tmp_path / "numbers.json"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    [row] = json.loads((tmp_path / "numbers.json").read_text())
    assert row["missing_gradients"] == []
    assert row["loss_difference"] < 1e-4 and row["gradient_difference"] < 1e-4
    assert row["ours_tflop"] < row["reference_tflop"] / 1.5
    assert 0 < row["ours_peak_bytes"] < row["reference_peak_bytes"]
    assert row["ours_s"] > 0 and row["reference_s"] > 0


def test_decode_compares_like_with_like(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    options = ["--models", "lens-nano", "--decodings", "dynamic", "static", "lookup", "--tokens", "30"]
    numbers = ["--repeats", "1", "--json", tmp_path / "numbers.json"]
    run_module("benchmarks.decode", *options, *numbers, timeout=900)
    rows = json.loads((tmp_path / "numbers.json").read_text())
    assert [row["numbers"] for row in rows] == [n for n in ("fp32", "bf16", "int8", "int4") for _ in range(3)]
    for row in rows:
        assert row["numbers"] != "fp32" or row["same"] == 1
        assert row["ms_per_token"] > 0
        assert (row["passes"] < 0.95) == (row["decoding"] == "lookup")
    sizes = [row["layers_mb"] for row in rows[::3]]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 6


@pytest.mark.long
def test_backends_give_the_same_masks_or_say_why_not(nano_cache: EngineCache, tmp_path: Path) -> None:
    engines = shutil.copytree(nano_cache.root, tmp_path / "engines")
    command = [sys.executable, ROOT / "benchmarks" / "backends.py", "--repeats", "1"]
    options = ["--engines", engines, "--json", tmp_path / "numbers.json"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = {row["backend"]: row for row in json.loads((tmp_path / "numbers.json").read_text())}
    for backend in ("torch", "onnxruntime"):
        assert rows[backend]["iou"] > 0.999 and min(rows[backend]["frame_ms"], rows[backend]["encode_ms"]) > 0
    for backend in ("tensorrt", "tensorrt_rtx"):
        note = rows[backend]["note"]
        assert "frame_ms" in rows[backend] or "needs a GPU" in note or "does not import" in note
