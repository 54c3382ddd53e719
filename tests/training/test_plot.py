"""Plot of the curves; a broken file is reported by name."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.tools.plot import main, read_metrics

LINES = [
    {"step": 50, "seconds": 60, "boxes/iou": 0.1},
    {"step": 100, "seconds": 120, "boxes/iou": 0.4, "context/iou": 0.2},
    {"step": 100, "seconds": 130, "evaluation": {"right_object": 40.0, "box_acc50": 30.0, "ciou": 25.0}},
]


def write(folder: Path, *texts: str) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("\n".join(texts) + "\n")
    return path


def drawn(folder: Path, lines: list[dict]) -> np.ndarray:
    metrics = write(folder, *map(json.dumps, lines))
    assert main([str(metrics), str(folder / "a" / "curves.png")]) == 0
    return cv2.imread(str(folder / "a" / "curves.png"))


def test_draws(tmp_path: Path) -> None:
    picture = drawn(tmp_path, LINES)
    assert len({tuple(color) for color in picture[::7, ::7].reshape(-1, 3).tolist()}) > 4


def test_there_is_a_panel_for_each_thing_that_was_measured(tmp_path: Path) -> None:
    panel = drawn(tmp_path, LINES[2:]).shape[1]
    assert drawn(tmp_path, LINES).shape[1] == 2 * panel
    rewards = {"step": 100, "seconds": 120, "iou": 0.5, "rewards/box/mean": 0.7, "kl": 0.01}
    assert drawn(tmp_path, [*LINES[2:], rewards]).shape[1] == 3 * panel


def test_a_resumed_run_counts_each_step_once(tmp_path: Path) -> None:
    again = {**LINES[1], "boxes/iou": 0.5}
    metrics = read_metrics(write(tmp_path, *map(json.dumps, [*LINES, again])))
    assert [(m["step"], m.get("boxes/iou")) for m in metrics] == [(50, 0.1), (100, 0.5), (100, None)]


def test_a_broken_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = write(tmp_path, json.dumps(LINES[0]), "{")
    assert main([str(metrics), str(tmp_path / "curves.png")]) == 2
    assert "line 2" in capsys.readouterr().err
