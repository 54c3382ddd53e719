"""The package as a whole: one version, pinned requirements, ROS in one place, a working environment."""

from __future__ import annotations

import ast
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import pytest

import lens_ros

ROOT = Path(__file__).resolve().parents[2]
IN_ENVIRONMENT = Path(sys.prefix) == ROOT / ".venv" and (ROOT / ".venv" / "lens_ros" / "overlay").exists()
needs_environment = pytest.mark.skipif(not IN_ENVIRONMENT, reason="not run by `make test`")
DISTRIBUTIONS = ("jazzy", "kilted")
USES = ("base", "robot", "engines", "simulation", "training", "tests", "docs")


def setup_keywords() -> dict[str, ast.expr]:
    tree = ast.parse((ROOT / "setup.py").read_text())
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setup"
    )
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def requirements(name: str) -> list[str]:
    text = (ROOT / "requirements" / name).read_text()
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def test_one_version() -> None:
    version = package_xml().findtext("version")
    assert lens_ros.__version__ == version
    assert ast.literal_eval(setup_keywords()["version"]) == version


@pytest.fixture(scope="module")
def built_wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build a wheel from a source distribution of a copy of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("lens_ros", "models", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)

    def build(kind: str, source: Path) -> Path:
        code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return folder / result.stdout.splitlines()[-1]

    source = build("sdist", folder)
    shutil.unpack_archive(source, folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    return zipfile.ZipFile(build("wheel", unpacked))


def test_wheel_holds_models_and_data(built_wheel: zipfile.ZipFile) -> None:
    names = set(built_wheel.namelist())
    expected = {f"lens_ros/{path.relative_to(ROOT)}" for path in (ROOT / "models").glob("*/*")}
    kept = (p for p in (ROOT / "lens_ros").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    expected |= {str(path.relative_to(ROOT)) for path in kept}
    assert expected - names == set()
    assert {name.split("/")[0] for name in names} == {"lens_ros", "lens_ros-0.1.0.dist-info"}


def test_wheel_requires_what_a_robot_needs(built_wheel: zipfile.ZipFile) -> None:
    """`pip install lens_ros` brings base.txt and robot.txt; the rest are extras."""
    packaging = pytest.importorskip("packaging.requirements")
    [name] = [name for name in built_wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_string(built_wheel.read(name).decode())
    required = [packaging.Requirement(line) for line in metadata.get_all("Requires-Dist", [])]

    def names(*extras: str) -> set[str]:
        applies = {r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})}
        return applies | {
            r.name for r in required for e in extras if r.marker and r.marker.evaluate({"extra": e})
        }

    def written(*files: str) -> set[str]:
        parsed = [packaging.Requirement(line) for file in files for line in requirements(f"{file}.txt")]
        return {r.name for r in parsed if r.marker is None or r.marker.evaluate()}

    assert names() == written("base", "robot")
    assert names("engine") == written("base", "robot", "engines")
    assert names("training") == written("base", "robot", "simulation", "training")
    assert names("simulation", "test") == written("base", "robot", "simulation", "tests")


@needs_environment
def test_installed_version() -> None:
    assert importlib.metadata.version("lens_ros") == lens_ros.__version__


def test_one_licence() -> None:
    assert package_xml().findtext("license") == ast.literal_eval(setup_keywords()["license"]) == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_ros_wheels_are_pinned(distribution: str) -> None:
    pinned = requirements(f"ros-{distribution}.txt")
    assert len(pinned) > 50
    assert [line for line in pinned if not re.fullmatch(r"ros-[\w-]+==\d[\d.]*", line)] == []
    names = [line.split("==")[0] for line in pinned]
    assert len(names) == len(set(names))
    others = {f"ros-{other}-" for other in DISTRIBUTIONS if other != distribution}
    assert [name for name in names if name.startswith(tuple(others))] == []


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_every_requirement_is_pinned(python: str) -> None:
    """`make setup` gets one version of each package, and the requirement admits it."""
    packaging = pytest.importorskip("packaging.requirements")
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    machine = {"platform_machine": "x86_64", "sys_platform": "linux"}

    def applying(name: str) -> dict[str, Any]:
        parsed = [packaging.Requirement(line) for line in requirements(name)]
        kept = [r for r in parsed if r.marker is None or r.marker.evaluate(environment | machine)]
        names = [re.sub(r"[-_.]+", "-", requirement.name).lower() for requirement in kept]
        assert len(names) == len(set(names)), f"{name} names a package twice for Python {python}"
        return dict(zip(names, kept, strict=True))

    pins = applying("constraints.txt")
    for use in (*USES, "build"):
        for name, requirement in applying(f"{use}.txt").items():
            assert name in pins, f"{use}.txt requires {name}, constraints.txt does not pin it"
            [pin] = pins[name].specifier
            assert requirement.specifier.contains(pin.version), f"{use}.txt does not admit {pins[name]}"


def test_every_interface_is_built() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    for kind in ("msg", "srv", "action"):
        for path in (ROOT / kind).glob(f"*.{kind}"):
            assert f"{kind}/{path.name}" in text


def test_executables_can_be_executed() -> None:
    for path in (ROOT / "scripts").iterdir():
        assert os.access(path, os.X_OK), path
        assert path.read_text().startswith("#!/usr/bin/env python3\n"), path


def enter(shell: str, folder: Path, command: str) -> str:
    """Return the output of `command` after `. env.sh` in a shell with none of this process's environment."""
    home = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = {**home, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    if shell == "sh":  # cannot know where a sourced file lies
        environment["LENS_ROS_ROOT"] = str(ROOT)
    script = f'set -eu; . "{ROOT}/env.sh"; {command}'
    command_line = [shell, "-c", script]
    result = subprocess.run(command_line, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@needs_environment
@pytest.mark.parametrize("shell", ["bash", "zsh", "sh"])
def test_environment_from_anywhere(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    python = "import lens_ros, lens_ros.msg, rclpy; print(lens_ros.__file__)"
    printed = enter(shell, tmp_path, f"command -v python; command -v lens; python -c '{python}'").splitlines()
    assert printed == [
        str(ROOT / ".venv" / "bin" / "python"),
        str(ROOT / ".venv" / "bin" / "lens"),
        str(ROOT / "lens_ros" / "__init__.py"),
    ]


@needs_environment
def test_environment_twice_is_once(tmp_path: Path) -> None:
    variables = "$PATH $LD_LIBRARY_PATH $PYTHONPATH $AMENT_PREFIX_PATH $CMAKE_PREFIX_PATH"
    once = enter("bash", tmp_path, f'echo "{variables}"')
    assert enter("bash", tmp_path, f'. "{ROOT}/env.sh"; echo "{variables}"') == once


@needs_environment
def test_environment_keeps_the_users_profile(tmp_path: Path) -> None:
    """The variable is the one that the ROS 2 of this environment reads."""
    own = tmp_path / "profile.xml"
    read = "FASTRTPS" if os.environ["ROS_DISTRO"] in ("humble", "iron", "jazzy") else "FASTDDS"
    script = f'export FASTDDS_DEFAULT_PROFILES_FILE="{own}" FASTRTPS_DEFAULT_PROFILES_FILE="{own}"'
    show = f'echo "${read}_DEFAULT_PROFILES_FILE ${{RMW_FASTRTPS_USE_QOS_FROM_XML-}}"'
    clean = "unset FASTDDS_DEFAULT_PROFILES_FILE FASTRTPS_DEFAULT_PROFILES_FILE RMW_FASTRTPS_USE_QOS_FROM_XML"
    assert enter("bash", tmp_path, f'{clean}; {script}; . "{ROOT}/env.sh"; {show}') == str(own)
    printed = enter("bash", tmp_path, f'{clean}; . "{ROOT}/env.sh"; {show}; . "{ROOT}/env.sh"; {show}')
    assert printed.splitlines() == [f"{ROOT}/config/fastdds.xml 1"] * 2


@needs_environment
def test_environment_says_which_ros_it_is(tmp_path: Path) -> None:
    wheels = ROOT / ".venv" / "lens_ros" / "wheels"
    if not wheels.exists():
        pytest.skip("a sourced ROS 2 is used, which says so itself")
    installed = wheels.read_text().strip()
    assert enter("bash", tmp_path, 'echo "$ROS_DISTRO"') == installed
    assert importlib.metadata.version(f"ros-{installed}-rclpy")


# Ends with the files of its modules whose bytecode is not there, or is not of this source.
UNCOMPILED = """
import importlib.util, pathlib, struct, sys
for module in list(sys.modules.values()):
    spec = getattr(module, "__spec__", None)
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        continue
    cached, source = pathlib.Path(spec.cached), pathlib.Path(spec.origin).stat()
    if not source.st_size:
        continue
    written = cached.read_bytes()[8:16] if cached.is_file() else b""
    if written != struct.pack("<II", int(source.st_mtime) & 0xFFFFFFFF, source.st_size):
        print("uncompiled", spec.origin)
    elif "site-packages" in spec.origin and cached.stat().st_mtime > set_up:
        print("compiled after set-up", spec.origin)
"""
SEGMENT = """
from lens_ros.cli import main
assert main(["segment", "docs/images/contact_sheet.jpg", "the mug", "--out", out]) in (0, 1)
"""
NODE = """
import rclpy
from lens_ros.nodes.perception.node import PerceptionNode
rclpy.init(domain_id=int(os.environ["ROS_DOMAIN_ID"]))
node = PerceptionNode()
node.trigger_configure(), node.trigger_activate(), node.close()
"""


@needs_environment
@pytest.mark.parametrize("use", [SEGMENT, NODE], ids=["lens segment", "perception"])
def test_set_up_has_compiled_what_is_imported(use: str, tmp_path: Path) -> None:
    """Python itself compiles nothing if PYTHONDONTWRITEBYTECODE is set, so each start would compile again."""
    stamp = ROOT / ".venv" / "lens_ros" / "bytecode"
    head = f"import os; out = {str(tmp_path)!r}; set_up = {stamp.stat().st_mtime + 1}"
    command = [sys.executable, "-c", "\n".join([head, use, UNCOMPILED])]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith(("uncompiled", "compiled"))] == []


@needs_environment
def test_python_is_not_started_twice(tmp_path: Path) -> None:
    """The wheels re-execute python unless the environment is complete."""
    code = "import os; before = os.environ.get('_ROS_WHEELS_BOOTSTRAP_COMPLETE'); import rclpy; print(before)"
    expected = "1" if (ROOT / ".venv" / "lens_ros" / "wheels").exists() else "None"
    assert enter("bash", tmp_path, f'python -c "{code}"') == expected


@needs_environment
def test_overlay_holds_what_a_robot_needs() -> None:
    prefix = ROOT / "install" / "lens_ros"
    share = prefix / "share" / "lens_ros"
    assert (share / "config" / "fastdds.xml").is_file()
    for folder in ("launch", "models", "demo", "config"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (share / path.relative_to(ROOT)).is_file(), "run `make setup`"
    for path in (ROOT / "scripts").iterdir():
        assert os.access(prefix / "lib" / "lens_ros" / path.name, os.X_OK)


def test_fastdds_profile_admits_large_images() -> None:
    namespace = {"dds": "http://www.eprosima.com"}
    profile = ElementTree.parse(ROOT / "config" / "fastdds.xml")
    size = profile.findtext(".//dds:segment_size", namespaces=namespace)
    assert size is not None and int(size) >= 2 * 3840 * 2160 * 3  # two raw images of 4K
