"""Minutes of a robot's day in fast motion (benchmarks/soak.py): nothing grows. `make soak` takes hours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lens_ros.ros.middleware import PROFILE_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 3.0
# Percent, of 380 MB: two single rounds in these minutes, of which one may have pictures in hand (up to 12 MB,
# docs/results/soak.md). To leak an image and the tensors of its answer with each goal would be more.
GROWTH = 10.0


@pytest.mark.long
def test_three_minutes_leave_memory_handles_and_threads_as_they_were(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", str(MINUTES), "--no-latency"]
    run = subprocess.run(
        [*command, "--growth", str(GROWTH), "--out", tmp_path],
        capture_output=True, text=True, cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            PROFILE_VARIABLE: str(ROOT / "config" / "fastdds.xml"),
            "RMW_FASTRTPS_USE_QOS_FROM_XML": "1",
        },
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "soak.json").read_text())
    held = {each["name"] for each in report["verdicts"]}
    assert {"memory of its own, MB", "handles", "threads"} <= held
    assert len(report["samples"]) >= 3 and report["events"]["goals"] and report["events"]["cancels"]
    assert (tmp_path / "soak.png").stat().st_size > 10_000
