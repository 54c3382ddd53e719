"""What `colcon build` installed: executables, bytecode, models. `colcon test` runs this too."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLES = ("camera_node", "lens", "perception_node")


@pytest.fixture(scope="module")
def prefix() -> Path:
    """Return the folder that `colcon build` installed lens_ros to: the one that this shell has sourced."""
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        return Path(packages.get_package_prefix("lens_ros"))
    except packages.PackageNotFoundError:
        pytest.skip("no overlay with lens_ros is sourced")


@pytest.fixture(scope="module")
def package(prefix: Path) -> Path:
    """Return the installed Python package."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = [*prefix.glob(f"lib/{python}/site-packages/lens_ros/lens.py")]
    found += prefix.glob(f"local/lib/{python}/dist-packages/lens_ros/lens.py")  # Debian's scheme
    assert len(found) == 1
    return found[0].parent


@pytest.mark.parametrize("name", EXECUTABLES)
def test_executables_start_the_python_of_the_build(prefix: Path, name: str) -> None:
    """It must not be the first python on the PATH, which lacks torch outside the virtual environment."""
    program = prefix / "lib" / "lens_ros" / name
    assert os.access(program, os.X_OK)
    interpreter = program.read_text().splitlines()[0].removeprefix("#!")
    if " " in interpreter:  # only so where the path of the Python has one
        assert interpreter == "/usr/bin/env python3"
        return
    print_prefix = [interpreter, "-c", "import sys; print(sys.prefix)"]
    assert subprocess.run(print_prefix, capture_output=True, text=True).stdout.strip() == sys.prefix


def test_installed_modules_have_bytecode(package: Path) -> None:
    """This covers handwritten and generated modules."""
    sources = list(package.rglob("*.py"))
    assert {package / "nodes" / "perception" / "node.py", package / "msg" / "__init__.py"} <= set(sources)
    missing = [s for s in sources if not Path(importlib.util.cache_from_source(str(s))).is_file()]
    assert missing == [], "run `make setup` or `colcon build`"


def test_lens_runs_from_the_installed_package(prefix: Path, tmp_path: Path) -> None:
    """It runs as `ros2 run lens_ros lens` does, in a shell without virtual environment and checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV" and not k.startswith("LENS_")}
    folders = environment.get("PYTHONPATH", "").split(os.pathsep)
    environment["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder != str(ROOT))
    environment["PATH"] = "/usr/bin:/bin"
    picture = ROOT / "docs" / "images" / "contact_sheet.jpg"
    command = [prefix / "lib" / "lens_ros" / "lens", "segment", picture, "the mug", "--out", tmp_path / "out"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode in (0, 1), result.stderr  # 1: nothing found; a traceback ends with it as well
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "out").iterdir())
