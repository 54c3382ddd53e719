"""The package as a whole: one version, pinned requirements, ROS in one place, an environment to enter."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import lens_ros

ROOT = Path(__file__).resolve().parents[2]
IN_ENVIRONMENT = Path(sys.prefix) == ROOT / ".venv" and (ROOT / ".venv" / "lens_ros" / "overlay").exists()
needs_environment = pytest.mark.skipif(not IN_ENVIRONMENT, reason="not run by `make test`")
ROS_MODULES = {"rclpy", "geometry_msgs", "launch", "launch_ros", "sensor_msgs", "std_msgs"}


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
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line]


def test_one_version() -> None:
    version = package_xml().findtext("version")
    assert lens_ros.__version__ == version
    assert ast.literal_eval(setup_keywords()["version"]) == version


@needs_environment
def test_installed_version() -> None:
    assert importlib.metadata.version("lens_ros") == lens_ros.__version__


def test_one_licence() -> None:
    assert package_xml().findtext("license") == ast.literal_eval(setup_keywords()["license"]) == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_ros_wheels_are_pinned() -> None:
    pinned = [line for line in requirements("requirements-ros.txt") if line.startswith("ros-")]
    assert len(pinned) > 50
    assert [line for line in pinned if not re.fullmatch(r"ros-[\w-]+==\d[\d.]*", line)] == []
    assert len(pinned) == len(set(pinned))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-ros.txt", "constraints.txt"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_requirements_agree(name: str, python: str) -> None:
    """Each is readable, and no package is asked for in two versions."""
    packaging = pytest.importorskip("packaging.requirements")
    versions: dict[str, str] = {}
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    for line in [*requirements("constraints.txt"), *requirements(name)]:
        requirement = packaging.Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        key = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if requirement.specifier:
            assert versions.setdefault(key, str(requirement.specifier)) == str(requirement.specifier), line


def test_setup_asks_for_what_is_pinned() -> None:
    packaging = pytest.importorskip("packaging.requirements")
    keywords = setup_keywords()
    asked = ast.literal_eval(keywords["install_requires"])
    for extra in ast.literal_eval(keywords["extras_require"]).values():
        asked += extra
    pinned = [packaging.Requirement(line) for line in requirements("requirements.txt")]
    for line in asked:
        requirement = packaging.Requirement(line)
        same = [pin for pin in pinned if pin.name.lower() == requirement.name.lower()]
        assert same, f"setup.py asks for {line}, requirements.txt does not"
        for pin in same:
            for specifier in pin.specifier:
                assert requirement.specifier.contains(specifier.version), f"{line} does not admit {pin}"


def test_ros_is_imported_by_the_nodes_only() -> None:
    """Training, model, simulator and evaluation work where there is no ROS."""
    offenders = []
    for path in [*(ROOT / "lens_ros").rglob("*.py"), *(ROOT / "training").rglob("*.py")]:
        if (ROOT / "lens_ros" / "nodes") in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            offenders += [
                f"{path.relative_to(ROOT)}:{node.lineno} {name}"
                for name in names
                if name.split(".")[0] in ROS_MODULES or re.match(r"lens_ros\.(msg|srv|action)\b", name)
            ]
    assert offenders == []


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
    """What `command` prints after `. env.sh` in a shell that knows nothing of this process's environment."""
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
    own = tmp_path / "profile.xml"
    script = f'export FASTDDS_DEFAULT_PROFILES_FILE="{own}" FASTRTPS_DEFAULT_PROFILES_FILE="{own}"'
    show = 'echo "$FASTDDS_DEFAULT_PROFILES_FILE ${RMW_FASTRTPS_USE_QOS_FROM_XML-}"'
    clean = "unset FASTDDS_DEFAULT_PROFILES_FILE FASTRTPS_DEFAULT_PROFILES_FILE RMW_FASTRTPS_USE_QOS_FROM_XML"
    assert enter("bash", tmp_path, f'{clean}; {script}; . "{ROOT}/env.sh"; {show}') == str(own)
    printed = enter("bash", tmp_path, f'{clean}; . "{ROOT}/env.sh"; {show}; . "{ROOT}/env.sh"; {show}')
    assert printed.splitlines() == [f"{ROOT}/config/fastdds.xml 1"] * 2


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
