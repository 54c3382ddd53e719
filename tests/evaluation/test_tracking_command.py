"""`python -m training.evaluate_tracking` on one rendered sequence."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from training import evaluate_tracking


def test_the_command_compares_methods_and_writes_numbers_and_a_picture(opengl: None, tmp_path: Path) -> None:
    numbers, sheet = tmp_path / "tracking.json", tmp_path / "tracking.jpg"
    options = ["--seed", "9601", "--sequences", "1", "--frames", "30", "--every", "5"]
    methods = ["--methods", "hold", "default"]
    assert evaluate_tracking.main([*options, *methods, "--json", str(numbers), "--sheet", str(sheet)]) == 0
    assert set(methods[1:]) <= set(json.dumps(json.loads(numbers.read_text())).split('"'))
    assert cv2.imread(str(sheet)) is not None
