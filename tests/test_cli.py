"""The `lens` command as a person types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lens_ros.cli import COMMANDS, main


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Write a picture of a gray table with a red ball on it."""
    image = np.full((240, 320, 3), 150, np.uint8)
    cv2.circle(image, (200, 140), 28, (30, 30, 190), cv2.FILLED, cv2.LINE_AA)
    path = tmp_path / "table.png"
    cv2.imwrite(str(path), image)
    return path


def test_segment_prints_the_reasoning_and_writes_two_pictures(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = subprocess.run(
        [sys.executable, "-m", "lens_ros.cli", "segment", str(picture), "the red ball", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode in (0, 1), result.stderr  # found, or honestly not
    assert "looking for" in result.stdout
    mask = cv2.imread(str(out / "table_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (240, 320)
    assert set(np.unique(mask)) <= {0, 255}
    assert (mask.any()) == (result.returncode == 0)
    assert cv2.imread(str(out / "table_overlay.png")).shape == (240, 320, 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": "absent.png"}, "no such file"),
        ({"text": "  "}, "the instruction is empty"),
        ({"model": "no-such-model"}, "no model 'no-such-model'"),
        ({"score_threshold": "1.5"}, "--score-threshold is 1.5; expected 0 to 1"),
        ({"score_threshold": "nan"}, "--score-threshold is nan; expected 0 to 1"),
    ],
)
def test_bad_input_is_named(
    picture: Path, tmp_path: Path, change: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"image": str(picture), "text": "the red ball", "model": "lens-nano", **change}
    arguments = ["segment", given["image"], given["text"], "--model", given["model"]]
    if "score_threshold" in given:
        arguments += ["--score-threshold", given["score_threshold"]]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_folder_that_cannot_be_written(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = picture.parent / "taken"
    taken.write_text("a file, not a folder")
    assert main(["segment", str(picture), "the red ball", "--out", str(taken)]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_every_command_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"usage: lens {name}" in capsys.readouterr().out
