import json
from pathlib import Path

import numpy as np
import pytest

from lens_ros.simulation.renderer import TabletopSimulator
from training.data.tabletop import TabletopShards, plan, render_shards

SEED = 12
SCENES = 66  # one whole block and a bit of the next


@pytest.fixture(scope="module")
def shards(simulator: TabletopSimulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    assert render_shards(plan(SEED, SCENES, folder)) == SCENES
    return folder


def test_shards_hold_what_the_simulator_renders(shards: Path, simulator: TabletopSimulator) -> None:
    data = TabletopShards(shards)
    assert len(data) == SCENES
    for index in (3, 65):
        rgb, instances, objects = data.scene(index)
        frame = simulator.frame(SEED, index)
        assert np.array_equal(rgb, frame.rgb)
        assert np.array_equal(instances, frame.instances)
        assert objects == frame.objects
    with pytest.raises(IndexError):
        data.scene(SCENES)


def test_finished_shards_are_not_rendered_again(shards: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*.npy")}
    (shards / f".{SEED}-00002.1").mkdir()  # what an interrupted run leaves behind
    assert render_shards(plan(SEED, SCENES, shards)) == 0
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*.npy")} == before
    assert len(TabletopShards(shards)) == SCENES


def test_files_are_plain(shards: Path) -> None:
    folder = shards / f"{SEED}-00000"
    assert sorted(path.name for path in folder.iterdir()) == ["instances.npy", "objects.json", "rgb.npy"]
    assert len(json.loads((folder / "objects.json").read_text())) == 64


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="training.data.tabletop"):
        TabletopShards(tmp_path)
