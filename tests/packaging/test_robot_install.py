"""What pip would install on a robot, with the constraints of docs/guides/robot_installation.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
PIP = "pip==25.3"  # resolves from metadata, without downloading torch

# Python, NumPy and C library of Ubuntu 22.04 (Humble, JetPack 6) and 24.04 (Jazzy, Kilted, JetPack 7).
SYSTEMS = {"3.10": ("1.21.5", 35), "3.12": ("1.26.4", 39)}
MACHINES = ("x86_64", "aarch64")
# Training, tests and simulator; and what would hide the system's OpenCV.
UNWANTED = {
    "accelerate",
    "matplotlib",
    "mujoco",
    "mypy",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
    "peft",
    "pytest",
    "scipy",
    "tensorboard",
    "trl",
}

# pip evaluates environment markers for the Python that runs it, whatever --python-version says.
RESOLVE = """
import json, sys
from pip._vendor.packaging import markers
environment = {**markers.default_environment(), **json.loads(sys.argv.pop(1))}
markers.default_environment = lambda: dict(environment)
from pip._internal.cli.main import main
sys.exit(main())
"""


def lines(*names: str) -> list[str]:
    """Return the lines of files of requirements/."""
    return [line for name in names for line in (REQUIREMENTS / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the pip of this test."""
    folder = tmp_path_factory.mktemp("pip")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), PIP]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"no package index can be reached: {result.stderr.strip()[-300:]}")
    return folder


def resolve(
    pip: Path, folder: Path, python: str, machine: str, wanted: list[str], *pins: str
) -> dict[str, str]:
    """Return the version of each package that pip would install, by normalized name.

    Args:
        pip: Folder that holds pip.
        folder: An empty folder.
        python: Version of Python.
        machine: Machine architecture.
        wanted: Requirements.
        pins: Constraints in addition to requirements/system.txt.
    """
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.12",
        "implementation_version": f"{python}.12",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
    }
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(SYSTEMS[python][1], 4, -1)]
    tags += [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    report, requirements, pinned = (folder / name for name in ("report.json", "wanted.txt", "pins.txt"))
    requirements.write_text("\n".join(wanted) + "\n")
    pinned.write_text("\n".join(pins) + "\n")
    command = [sys.executable, "-c", RESOLVE, json.dumps(environment)]
    command += ["install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
    command += ["--only-binary", ":all:", "--target", str(folder / "target"), "--python-version", python]
    command += [argument for tag in tags for argument in ("--platform", tag)]
    command += ["--constraint", str(REQUIREMENTS / "system.txt"), "--constraint", str(pinned)]
    command += ["--requirement", str(requirements)]
    variables = {**os.environ, "PYTHONPATH": str(pip), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = {}
    for item in json.loads(report.read_text())["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        found[name] = item["metadata"]["version"]
        wheel = urllib.parse.unquote(item["download_info"]["url"].rsplit("/", 1)[-1])
        assert wheel.endswith(("-any.whl", f"_{machine}.whl")), wheel
    return found


def assert_fits(found: dict[str, str], python: str, *also: str) -> None:
    """Assert that nothing hides the system's NumPy and OpenCV, and no unneeded package is installed."""
    assert found["numpy"].startswith(SYSTEMS[python][0].rpartition(".")[0] + "."), found["numpy"]
    assert UNWANTED & found.keys() == set()
    assert int(found["setuptools"].split(".")[0]) < 80
    assert {"torch", "transformers", "rosbags", *also} <= found.keys()


@pytest.mark.long
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", SYSTEMS)
def test_robot_keeps_the_systems_numpy(pip: Path, tmp_path: Path, python: str, machine: str) -> None:
    """The exact version of the distribution suffices for robot.txt."""
    numpy = SYSTEMS[python][0]
    found = resolve(pip, tmp_path, python, machine, lines("robot.txt"), f"numpy=={numpy}")
    assert_fits(found, python)
    assert found["numpy"] == numpy


@pytest.mark.long
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", SYSTEMS)
def test_engines_keep_the_series_of_numpy(pip: Path, tmp_path: Path, python: str, machine: str) -> None:
    """ONNX Runtime requires 1.21.6 on Humble, which belongs to the same series as the system's 1.21.5."""
    # A source distribution, which pip does not build for another machine. It brings its own libraries alone.
    wanted = [line for line in lines("robot.txt", "engines.txt") if not line.startswith("tensorrt-rtx")]
    found = resolve(pip, tmp_path, python, machine, wanted)
    assert_fits(found, python, "onnx", "onnxruntime", "torchao")
