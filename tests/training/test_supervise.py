"""Supervised training: it learns, and records where its weights come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from forked import run_module
from safetensors.torch import load_file

from lens_ros.model.checkpoint import load_model, load_tensors, save_model, without_tied_head
from lens_ros.model.network import LensModel
from lens_ros.model.tokenizer import build_tokenizer
from lens_ros.simulation.expressions import vocabulary
from training.config import SuperviseConfig
from training.nano import nano_config
from training.supervise import part_of

SMALL = {
    "data_seed": 5, "scenes": 16, "steps": 4, "warmup": 1, "language_from": 1, "full_from": 2,
    "images": 2, "expressions": 2, "segmenter_images": 2, "box_prompts": 2, "processes": 2,
    "all_share": 0.2, "none_share": 0.2, "fast_share": 0.2,
    "checkpoint_every": 2, "validation_expressions": 0,
}  # fmt: skip


def write_config(folder: Path, shard_folder: Path, **values: object) -> Path:
    path = folder / "config.yaml"
    fields = {**SMALL, "data": str(shard_folder), "out": str(folder / "run"), **values}
    path.write_text(yaml.safe_dump(fields))
    return path


def supervise(config: Path) -> None:
    run_module("training.supervise", config, timeout=900)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def finished(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    supervise(write_config(folder, shard_folder))
    return folder


def test_every_part_of_the_model_moves(finished: Path, shard_folder: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, shard_folder, steps=1, warmup=10**9, processes=1)
    supervise(config)
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


def test_a_run_can_start_from_a_model_that_knows_fewer_words(
    finished: Path, shard_folder: Path, tmp_path: Path
) -> None:
    parent = finished / "run" / "model"
    folder = tmp_path / "parent"
    model, tokenizer = load_model(parent)
    words = sorted(set(vocabulary()) - {"all", "nothing"})
    fewer = build_tokenizer(words)
    kept = [tokenizer.get_vocab()[word] for word in sorted(fewer.get_vocab(), key=fewer.get_vocab().get)]
    smaller = LensModel(nano_config(fewer))
    tensors = without_tied_head(model.state_dict(), model)
    embedding = "reasoner.model.language_model.embed_tokens.weight"
    tensors[embedding] = tensors[embedding][kept]
    load_tensors(smaller, tensors, source="here")
    save_model(smaller, fewer, folder, dtype=torch.float16)
    shutil.copy(parent / "training.json", folder)

    once = {"steps": 1, "warmup": 10**9, "seed": 1, "processes": 1}
    config = write_config(tmp_path, shard_folder, start_from=str(folder), **once)
    supervise(config)
    began, inherited = weights(tmp_path), weights(finished)
    changed = [name for name in inherited if not torch.equal(began[name], inherited[name])]
    assert changed == [embedding]
    rows = {word: (began[embedding][i], inherited[embedding][i]) for word, i in tokenizer.get_vocab().items()}
    assert {word for word, (new, old) in rows.items() if not torch.equal(new, old)} == {"all", "nothing"}
    record = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert record["started_from"]["config"]["steps"] == SMALL["steps"]
    assert record["config"]["start_from"] == "parent"


def test_the_curriculum_goes_from_seeing_to_speaking_to_everything() -> None:
    config = SuperviseConfig(data="", out="", language_from=10, full_from=20)
    assert part_of(9, config).plan.expressions == 0
    assert part_of(10, config).plan.short and not part_of(10, config).with_queries
    assert part_of(20, config).with_queries and not part_of(20, config).plan.short
