"""What a process imports at its start, and what it imports only when needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Packages for engines, recordings, training and the simulator: no model that answers needs them.
ASIDE = (
    "lens_ros.commands", "lens_ros.evaluation", "lens_ros.simulation", "training",
    "matplotlib", "mujoco", "onnx", "onnxruntime", "onnxscript", "peft", "rosbags", "segment_anything",
    "tensorboard", "tensorrt", "tensorrt_rtx",
)  # fmt: skip

HELPS = """
import contextlib, io, os, sys
from lens_ros.cli import COMMANDS, main

def loaded(*names):
    return sorted(set(names) & set(sys.modules))

def helps(arguments):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        with contextlib.suppress(SystemExit):
            main(arguments)
    assert "usage: lens" in printed.getvalue(), arguments

helps(["--help"])
assert not loaded("numpy", "PIL", "cv2", "torch", "transformers"), loaded("numpy", "PIL", "cv2", "torch")
for name in COMMANDS:
    helps([name, "--help"])
    assert not loaded("torch", "transformers", "cv2"), (name, loaded("torch", "transformers", "cv2"))
for picture, text in (("absent.png", "the red mug"), (sys.argv[1], " ")):
    assert main(["segment", picture, text]) == 2
    assert not loaded("torch", "transformers"), "input is refused before a model is loaded"
# OpenMP reads it when torch is imported.
assert os.environ["OMP_WAIT_POLICY"] == "passive"
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a new interpreter."""
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)


def test_no_help_and_no_refusal_waits_for_torch() -> None:
    ran = run(HELPS, str(ROOT / "lens_ros" / "engine" / "pictures" / "tabletop0.jpg"))
    assert ran.returncode == 0, ran.stderr
    assert "no such file: absent.png" in ran.stderr and "the instruction is empty" in ran.stderr


def test_the_api_imports_what_an_answer_needs() -> None:
    ran = run(f"import sys, lens_ros.lens; print(*sorted({set(ASIDE)!r} & set(sys.modules)))")
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr
