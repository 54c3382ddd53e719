"""The training program: it learns, it resumes exactly, it refuses nonsense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from training.checkpoint import load_state
from training.config import SuperviseConfig, load_config
from training.supervise import learning_rate_scale, part_of

SMALL = {
    "data_seed": 5, "scenes": 16, "steps": 12, "warmup": 2, "language_from": 2, "full_from": 5,
    "images": 4, "expressions": 2, "segmenter_images": 2, "box_prompts": 2, "processes": 2,
    "checkpoint_every": 3, "validation_expressions": 0,
}  # fmt: skip


def write_config(folder: Path, shard_folder: Path, **values: object) -> Path:
    path = folder / "config.yaml"
    fields = {**SMALL, "data": str(shard_folder), "out": str(folder / "run"), **values}
    path.write_text(yaml.safe_dump(fields))
    return path


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "training.supervise", str(config)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def finished(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command(write_config(folder, shard_folder)), check=True, capture_output=True, timeout=300)
    return folder


def test_killed_at_any_moment_it_resumes_bit_for_bit(
    finished: Path, shard_folder: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, shard_folder)
    process = subprocess.Popen(command(config), start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "state.pt").exists():
        assert process.poll() is None, "training ended before its first checkpoint"
        assert time.monotonic() < deadline, "no checkpoint in 300 s"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    state = load_state(tmp_path / "run")
    assert state is not None and 0 < state["step"] < SMALL["steps"]
    subprocess.run(command(config), check=True, capture_output=True, timeout=300)
    resumed, whole = weights(tmp_path), weights(finished)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_every_part_of_the_model_moves(finished: Path, shard_folder: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, shard_folder, steps=1, warmup=10**9)
    subprocess.run(command(config), check=True, capture_output=True, timeout=300)
    born, trained = weights(tmp_path), weights(finished)
    still = [n for n in born if born[n].is_floating_point() and torch.equal(born[n], trained[n])]
    # Fixed codes, and what only points, mask prompts or several masks per prompt would use.
    unused = (
        "positional_embedding", "mask_embed", "hypernetworks_mlps.1", "hypernetworks_mlps.2",
        "hypernetworks_mlps.3", "obj_score", "not_a_point", "point_embed",
    )  # fmt: skip
    assert [name for name in still if not any(part in name for part in unused)] == []


def test_what_ships_says_where_it_comes_from(finished: Path) -> None:
    record = json.loads((finished / "run" / "model" / "training.json").read_text())
    assert record["rendered_seeds"] == [2, 5]
    assert record["config"]["steps"] == SMALL["steps"]
    assert record["seconds"] > 0


def test_the_plateau_does_not_depend_on_the_length_of_the_run() -> None:
    short, long = (SuperviseConfig(data="", out="", steps=n) for n in (2000, 4000))
    plateau = range(100, 1000, 100)
    assert [learning_rate_scale(s, short) for s in plateau] == [1.0] * len(plateau)
    assert [learning_rate_scale(s, long) for s in plateau] == [1.0] * len(plateau)
    assert 0 < learning_rate_scale(1999, short) < 0.01
    assert learning_rate_scale(0, short) == pytest.approx(0.01)


def test_the_curriculum_goes_from_seeing_to_speaking_to_everything() -> None:
    config = SuperviseConfig(data="", out="", language_from=10, full_from=20)
    assert part_of(9, config).plan.expressions == 0
    assert part_of(10, config).plan.short and not part_of(10, config).with_queries
    assert part_of(20, config).with_queries and not part_of(20, config).plan.short


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stepz=3", "unknown field 'stepz'"),
        ("steps=many", "'steps' must be int, got 'many'"),
        ("steps", "not of the form field=value"),
        ("bf16=1", "'bf16' must be bool"),
    ],
)
def test_bad_configuration_is_named(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load_config(write_config(tmp_path, tmp_path), [override])


def test_overrides_win(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, tmp_path), ["steps=77", "adam_lr=1"])
    assert (config.steps, config.adam_lr) == (77, 1.0)
