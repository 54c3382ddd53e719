"""The output head of a Qwen2.5-VL, tied to the embedding or not, survives every conversion or is refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from lens_ros.cli import main
from lens_ros.deployment.quantize import quantize_model
from lens_ros.model.checkpoint import WEIGHTS, find_model, load_model, load_tensors, save_model
from lens_ros.model.errors import CheckpointError
from lens_ros.model.network import LensModel
from lens_ros.model.sam import SamSegmenter, SamSizes
from training.export import save_trained
from training.nano import nano_config
from training.tools.average import average

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
OUR_HEAD = "reasoner.lm_head.weight"
IDS = torch.arange(5, 25)[None]

Built = tuple[LensModel, PreTrainedTokenizerFast]


def qwen(folder: Path, tokenizer: PreTrainedTokenizerFast, *, tied: bool) -> Path:
    """Write a small random Qwen2.5-VL in its authors' published format."""
    torch.manual_seed(3)
    settings = nano_config(tokenizer).reasoner
    settings["tie_word_embeddings"] = settings["text_config"]["tie_word_embeddings"] = tied
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings)).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def bring_equal_head(folder: Path) -> None:
    change(folder, lambda t: t.update({HEAD: t[EMBEDDING].clone()}))


def bring_other_head(folder: Path) -> None:
    change(folder, lambda t: t.update({HEAD: t[EMBEDDING].flip(0).contiguous()}))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_model(find_model("lens-nano"))[1]


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "tiny_sam.pth"
    torch.manual_seed(4)
    segmenter = SamSegmenter(SamSizes(64, 2, 2, (1,), image_size=256, prompt_width=32))
    torch.save(segmenter.sam.state_dict(), path)
    return path


@torch.inference_mode()
def logits(model: Qwen2_5_VLForConditionalGeneration) -> torch.Tensor:
    return model.eval().float()(input_ids=IDS).logits


def published_logits(folder: Path) -> torch.Tensor:
    return logits(Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16))


SOURCES = {
    "tied": (True, lambda folder: None, True),
    "tied, with an equal head in the file": (True, bring_equal_head, True),
    "tied, with another head in the file": (True, bring_other_head, False),
    "not tied": (False, lambda folder: None, False),
    "not tied, with a head equal to the embedding": (False, bring_equal_head, None),
}


@pytest.fixture(scope="module", params=SOURCES)
def combined(
    request: pytest.FixtureRequest,
    tokenizer: PreTrainedTokenizerFast,
    sam: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, torch.Tensor, bool | None]:
    """Return a combined model's folder, the logits of its Qwen2.5-VL, and whether its head must be tied."""
    tied, edit, expected = SOURCES[request.param]
    folder = tmp_path_factory.mktemp("combined")
    edit(qwen(folder / "qwen", tokenizer, tied=tied))
    assert main(["combine", str(folder / "qwen"), str(sam), str(folder / "model")]) == 0
    return folder / "model", published_logits(folder / "qwen"), expected


def assert_head(model: LensModel, expected: torch.Tensor, tied: bool | None, atol: float = 0.0) -> None:
    assert tied in (None, model.reasoner.config.tie_word_embeddings)
    shared = model.reasoner.lm_head.weight is model.language_model.embed_tokens.weight
    assert shared == model.reasoner.config.tie_word_embeddings
    torch.testing.assert_close(logits(model.reasoner), expected, atol=atol, rtol=0)


Combined = tuple[Path, torch.Tensor, bool | None]


def test_combined_loaded_saved_and_loaded_again(combined: Combined, tmp_path: Path) -> None:
    folder, expected, tied = combined
    model, words = load_model(folder)
    assert (OUR_HEAD in load_file(folder / WEIGHTS)) == (not model.reasoner.config.tie_word_embeddings)
    assert_head(model, expected, tied)
    save_model(model, words, tmp_path, dtype=torch.float32)
    assert_head(load_model(tmp_path)[0], expected, tied)


def test_exported_by_training(combined: Combined, tmp_path: Path) -> None:
    folder, expected, tied = combined
    save_trained(*load_model(folder), tmp_path)
    assert_head(load_model(tmp_path)[0], expected, tied, atol=1e-4)  # float16 of bfloat16


def test_averaged(combined: Combined, tmp_path: Path) -> None:
    folder, expected, tied = combined
    (folder / "training.json").write_text(json.dumps({"seconds": 1, "rendered_seeds": []}))
    (folder / "metrics.jsonl").write_text("")
    average([folder, folder], tmp_path / "mean")
    assert_head(load_model(tmp_path / "mean")[0], expected, tied, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_quantised(combined: Combined, tmp_path: Path) -> None:
    folder, _, _ = combined
    quantize_model(folder, "int8", out=tmp_path)
    full, small = load_model(folder)[0], load_model(tmp_path, quantization="int8")[0]
    assert torch.equal(full.reasoner.lm_head.weight, small.reasoner.lm_head.weight)
    assert torch.equal(full.language_model.embed_tokens.weight, small.language_model.embed_tokens.weight)


def test_a_missing_head_that_is_not_tied_is_named(
    tokenizer: PreTrainedTokenizerFast, sam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = qwen(tmp_path / "qwen", tokenizer, tied=False)
    change(folder, lambda t: t.pop(HEAD))
    assert main(["combine", str(folder), str(sam), str(tmp_path / "out")]) == 2
    assert HEAD in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_its_untied_head_is_refused(
    tokenizer: PreTrainedTokenizerFast, sam: Path, tmp_path: Path
) -> None:
    folder = qwen(tmp_path / "qwen", tokenizer, tied=False)
    assert main(["combine", str(folder), str(sam), str(tmp_path / "model")]) == 0
    change(tmp_path / "model", lambda t: t.pop(OUR_HEAD))
    with pytest.raises(CheckpointError, match=f"1 missing: {OUR_HEAD}"):
        load_model(tmp_path / "model")


def test_a_tied_model_refuses_another_head(untrained: Built, tmp_path: Path) -> None:
    save_model(*untrained, tmp_path, dtype=torch.float32)
    embedding = "reasoner.model.language_model.embed_tokens.weight"
    change(tmp_path, lambda t: t.update({OUR_HEAD: t[embedding].clone()}))
    load_model(tmp_path)
    change(tmp_path, lambda t: t.update({OUR_HEAD: t[embedding] * 2}))
    with pytest.raises(CheckpointError, match=f"one table serves as both: {OUR_HEAD}"):
        load_model(tmp_path)


def test_a_head_that_came_loose_is_not_dropped_on_saving(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = load_model(find_model("lens-nano"))[0]
    model.reasoner.lm_head.weight = torch.nn.Parameter(model.reasoner.lm_head.weight.detach() * 2)
    with pytest.raises(CheckpointError, match="differs from the embedding"):
        save_model(model, tokenizer, tmp_path / "out", dtype=torch.float32)
    assert not (tmp_path / "out").exists()


def test_every_parameter_and_buffer_must_be_given(untrained: Built) -> None:
    model = load_model(find_model("lens-nano"))[0]
    state = untrained[0].state_dict()
    for name in [n for n in state if n != OUR_HEAD][::25]:
        with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
            load_tensors(model, {n: t for n, t in state.items() if n != name}, source="here")
