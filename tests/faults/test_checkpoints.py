"""Models that cannot be loaded until they are repaired."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ros_graph import START_TIMEOUT

from lens_ros.ros.driver import CONFIGURE, UNCONFIGURED

from .report import Row
from .robot import Robot

AREA = "Checkpoints"
NANO = Path(__file__).resolve().parents[2] / "models" / "lens-nano"


@pytest.fixture(scope="module")
def folder(shared_robot: Robot, tmp_path_factory):
    """Copy the shipped model to a folder that tests damage, and let the shared node load it."""
    folder = tmp_path_factory.mktemp("model") / "mine"
    shutil.copytree(NANO, folder)
    shared_robot.take_down()
    assert shared_robot.graph.set_parameter("perception", "model", str(folder)).successful
    yield folder
    assert shared_robot.graph.set_parameter("perception", "model", "lens-nano").successful
    shared_robot.bring_up()


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def case(name: str, damage, said: str):
    return pytest.param(damage, said, marks=pytest.mark.fault(AREA, name), id=name)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        case("truncated weights, then repaired", truncate, "model.safetensors"),
        case("no weights, then repaired", lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        case("damaged configuration, then repaired", lambda f: (f / "config.json").write_text("{"), "config"),
    ],
)
def test_a_damaged_model_is_named_and_loaded_once_it_is_repaired(
    damage, said, folder: Path, robot: Robot, row: Row
):
    damage(folder)
    assert not robot.graph.change_state("perception", CONFIGURE, START_TIMEOUT)
    row.said = robot.hears("[ERROR]", "cannot configure", said, str(folder))
    row.diagnostics = robot.diagnosed("state", "ERROR", "unconfigured: cannot configure")
    assert robot.graph.state("perception") == UNCONFIGURED
    shutil.copytree(NANO, folder, dirs_exist_ok=True)
    robot.bring_up()
    robot.works(row)
    robot.take_down()
    row.held("configured again in the same process")
