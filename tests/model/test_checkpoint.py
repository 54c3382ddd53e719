"""Every defect of a model folder is reported; no weight is ever left random."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from lens_ros.model.checkpoint import WEIGHTS, find_model, load_model, save_model
from lens_ros.model.errors import CheckpointError
from lens_ros.model.network import LensModel

Built = tuple[LensModel, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def saved(untrained: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(*untrained, folder, dtype=torch.float32)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_round_trip_is_exact(untrained: Built, saved: Path) -> None:
    model, _ = load_model(saved)
    for name, tensor in untrained[0].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert model.config == untrained[0].config
    assert not model.training
    tied = model.reasoner.lm_head.weight.data_ptr()
    assert tied == model.language_model.embed_tokens.weight.data_ptr()


def test_half_precision_file_is_half_as_large(untrained: Built, saved: Path, tmp_path: Path) -> None:
    save_model(*untrained, tmp_path, dtype=torch.float16)
    ratio = (tmp_path / WEIGHTS).stat().st_size / (saved / WEIGHTS).stat().st_size
    assert 0.49 < ratio < 0.53
    assert load_model(tmp_path)[0].context.learnable_query.dtype == torch.float32


def without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def truncate(folder: Path, share: float) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(len(data) * share)])


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


QUERY = "context.learnable_query"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: without(f, "config.json"), r"config\.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "not a lens_ros configuration"),
        (lambda f: (f / "config.json").write_text("[]"), "not a lens_ros configuration"),
        (lambda f: (f / "config.json").write_text('{"model_type": "qwen2_vl"}'), "not a lens_ros config"),
        (lambda f: without(f, WEIGHTS), r"model\.safetensors is missing"),
        (lambda f: truncate(f, 0.5), "damaged"),
        (lambda f: truncate(f, 0.0), "damaged"),
        (lambda f: (f / WEIGHTS).write_bytes(pickle.dumps({"a": 1})), "damaged"),
        (lambda f: change(f, lambda t: t.pop(QUERY)), f"1 missing: {QUERY}"),
        (lambda f: change(f, lambda t: t.update(stray=torch.zeros(1))), "1 unexpected: stray"),
        (lambda f: change(f, lambda t: t.update({QUERY: torch.zeros(1, 2, 3)})), r"misshapen: .*\(1, 2, 3\)"),
        (lambda f: change(f, lambda t: t[QUERY].fill_(float("nan"))), f"not finite as float32: {QUERY}"),
        (lambda f: without(f, "tokenizer.json"), "tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=told):
        load_model(folder)


def test_an_interrupted_save_leaves_the_old_weights(
    untrained: Built, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lens_ros.model.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(*untrained, folder, dtype=torch.float16)
    load_model(folder)


def test_config_survives_json(untrained: Built, folder: Path) -> None:
    stored = json.loads((folder / "config.json").read_text())
    assert stored["query_positions"] == "mrope"
    assert type(untrained[0].config).from_dict(stored) == untrained[0].config


def test_an_unknown_name_lists_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share" / "lens_ros" / "models" / "lens-of-a-robot"
    share.mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert find_model("lens-of-a-robot") == share
    with pytest.raises(CheckpointError, match="lens-of-a-robot"):
        find_model("no-such-model")
