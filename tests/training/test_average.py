"""Mean of several models' weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lens_ros.model.checkpoint import find_model, load_model
from training.tools.average import average, main


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write lens-nano and a slightly perturbed copy."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("first", "second"):
        shutil.copytree(find_model("lens-nano"), folder / name)
    weights = folder / "second" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: t + 0.5 if t.is_floating_point() else t for name, t in tensors.items()}, weights)
    (folder / "second" / "training.json").write_text(json.dumps({"seconds": 5, "rendered_seeds": [99]}))
    return folder / "first", folder / "second"


def test_every_weight_is_the_mean_and_the_record_names_both(pair: tuple[Path, Path], tmp_path: Path) -> None:
    average(pair, tmp_path / "mean")
    first, second, mean = (load_file(p / "model.safetensors") for p in (*pair, tmp_path / "mean"))
    assert mean.keys() == first.keys()
    for name in mean:
        expected = (first[name].float() + second[name].float()) / 2
        torch.testing.assert_close(mean[name].float(), expected, atol=2e-3, rtol=2e-3)
    model, _ = load_model(tmp_path / "mean")
    assert load_model(pair[0])[0].config.calibration is not None
    assert model.config.calibration is None  # it was fitted for other weights
    record = json.loads((tmp_path / "mean" / "training.json").read_text())
    assert 99 in record["rendered_seeds"] and {1, 2} <= set(record["rendered_seeds"])
    assert [run["seconds"] for run in record["averaged"]][1] == 5


def test_what_does_not_belong_together_is_refused(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "out"), str(pair[0])]) == 2
    assert "at least two models" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(pair[0], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "speck_share": 0.5}))
    assert main([str(tmp_path / "out"), str(pair[0]), str(other)]) == 2
    assert "another architecture" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
