"""Arithmetic and picture of the comparison, on made-up scores and curves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import pytest

from lens_ros.evaluation.metrics import Score
from training.data.questions import Split
from training.tools.compare import ARMS, SPLITS, START, UNSEEN, compared, draw, main, run_folder, table

SEEDS = [0, 1]


def scores(intersection: int) -> list[Score]:
    return [Score("category", intersection, 100, 0.9, True, True, True, 0.1)] * 2


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    made = argparse.Namespace(out=tmp_path, seeds=SEEDS, start="models/begin", evaluation_seed=7)
    for arm in ARMS:
        for seed in SEEDS:
            folder = run_folder(arm, seed, made)
            (folder / "model").mkdir(parents=True)
            (folder / "model" / "training.json").write_text(json.dumps({"seconds": 60 + seed}))
            lines = [
                {"step": 1, "seconds": 5.0, "rewards/box/mean": 0.3, "rewards/segment/mean": 0.4},
                {"step": 1, "seconds": 6.0, "evaluation": {"ciou": 70.0}},
                {"step": 2, "seconds": 9.0, "rewards/box/mean": 0.5, "rewards/segment/mean": 0.6},
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def test_differences_are_paired_by_seed_and_unseen_splits_are_pooled(options: argparse.Namespace) -> None:
    found: dict[str, dict[Split, list[Score]]] = {START: {split: scores(50) for split in SPLITS}}
    for seed in SEEDS:
        found[f"supervise-{seed}"] = {split: scores(60) for split in SPLITS}
        found[f"reinforce-{seed}"] = {
            split: scores(70 + seed if split == "crowded" else 62) for split in SPLITS
        }
    folders = {f"{arm}-{seed}": run_folder(arm, seed, options) for arm in ARMS for seed in SEEDS}
    result = compared(found, options, folders)
    assert result["models"]["reinforce-1"]["unseen"]["ciou"] == pytest.approx((3 * 62 + 71) / 4, abs=0.01)
    assert result["models"]["reinforce-1"]["unseen"]["n"] == 2 * len(UNSEEN)
    assert result["training_seconds"] == {
        "supervise-0": 60, "supervise-1": 61, "reinforce-0": 60, "reinforce-1": 61
    }  # fmt: skip
    rows = {row.split("|")[1].strip(): row for row in table(result).splitlines()}
    cells = [cell.strip() for cell in rows["crowded"].strip("|").split("|")]
    assert cells[1:] == ["50.0 (100.0)", "60.0 (100.0)", "70.5 (100.0)", "**+10.5** (+10.0, +11.0)"]
    assert "**+2.0**" in rows["in distribution"]
    draw(result, options)
    picture = cv2.imread(str(options.out / "compare.png"))
    assert picture is not None and picture.std() > 5


@pytest.mark.parametrize(
    ("start", "told"), [("lens-nano", "seed 1 was rendered"), ("/nowhere/at-all", "/nowhere/at-all")]
)
def test_nothing_is_trained_for_numbers_that_would_mean_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], start: str, told: str
) -> None:
    out = tmp_path / "out"
    asked = ["--start", start, "--data", str(tmp_path), "--out", str(out), "--evaluation-seed", "1"]
    assert main(asked) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()
