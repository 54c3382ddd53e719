"""``make train-smoke`` runs the three training programs one after another on scenes rendered for it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from forked import run_module

from lens_ros.model.checkpoint import load_model
from training.tools.plot import read_metrics
from training.tools.smoke import commands

RUNS = ("supervise", "align", "reinforce")


@pytest.mark.slow
def test_the_programs_work_together(opengl: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for command in commands(out):
        module, *arguments = shlex.split(command)
        run_module(module, *arguments, timeout=900)
    check(out)


@pytest.mark.long
def test_they_are_started_by_one_command(opengl: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-m", "training.tools.smoke", str(out)], check=True, timeout=900)
    check(out)


def check(out: Path) -> None:
    """Assert that every program has written its files and recorded what it started from."""
    for name in RUNS:
        run = out / name
        load_model(run / "best")
        model, _ = load_model(run / "model")
        assert all(p.isfinite().all() for p in model.parameters())
        lines = read_metrics(run / "metrics.jsonl")
        assert [line["step"] for line in lines if "evaluation" not in line] == [1, 2, 3, 4]
        assert [line["evaluation"]["n"] for line in lines if "evaluation" in line] == [4]
        assert cv2.imread(str(run / "pictures" / "step-000004.jpg")) is not None
        assert list((run / "tensorboard").glob("events*"))
    record = json.loads((out / "reinforce" / "model" / "training.json").read_text())
    assert record["program"] == "training.reinforce"
    assert record["started_from"]["program"] == "training.align"
    assert record["started_from"]["started_from"]["program"] == "training.supervise"
    assert {11, 12} <= set(record["rendered_seeds"])
    assert {"reward", "rewards/box/mean", "kl", "entropy", "step_time", "learning_rate"} <= read_metrics(
        out / "reinforce" / "metrics.jsonl"
    )[0].keys()
    assert cv2.imread(str(out / "training.png")) is not None
