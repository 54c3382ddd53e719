"""The commit that moved modules changed no behaviour: golden outputs, answers, messages, training steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOVES = "04c03aa"


@pytest.mark.long
def test_the_moves_changed_no_behaviour() -> None:
    known = subprocess.run(["git", "-C", ROOT, "cat-file", "-e", f"{MOVES}^"], capture_output=True)
    if known.returncode:
        pytest.skip("not a clone with the history")
    command = [sys.executable, "tools/same_behaviour.py", f"{MOVES}^", MOVES]
    compared = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert compared.returncode == 0, compared.stdout + compared.stderr
