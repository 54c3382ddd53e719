"""Alignment: masks from a trained reasoner alone, and only the requested parts change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lens_ros.model import prompts
from lens_ros.model.answer_parsing import parse_answer
from lens_ros.model.checkpoint import find_model, load_model
from training.align import Alignment
from training.config import AlignConfig
from training.data.examples import Example, Examples, Mix, taught
from training.data.tabletop import TabletopShards
from training.loop import train
from training.lora import LoraConfig
from training.parts import part_of
from training.tools.plot import read_metrics

SIDE = 224


def config(folder: Path, shard_folder: Path, **values: Any) -> AlignConfig:
    fields = {
        "data": str(shard_folder), "out": str(folder / "run"), "data_seed": 5, "scenes": 16, "steps": 3,
        "warmup": 0, "start_from": "lens-nano", "images": 4, "bf16": False, "validation_expressions": 0,
        "processes": 1, "checkpoint_every": 100, "log_every": 1, "lr": 1e-3, **values,
    }  # fmt: skip
    return AlignConfig(**fields)


def newest(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "run" / "checkpoints" / "last" / "pytorch_model.bin", weights_only=True)


def moved(folder: Path, begun: AlignConfig) -> set[str]:
    """Return the parts of the model that are not bit-identical to the start."""
    before = Alignment(begun).module.state_dict()
    after = newest(folder)
    assert before.keys() == after.keys()
    return {part_of(n.removeprefix("model.")) for n in before if not torch.equal(before[n], after[n])}


def shipped_program() -> str:
    """Return the program that made the model that these runs begin with."""
    return json.loads((find_model("lens-nano") / "training.json").read_text())["program"]


@pytest.mark.long
def test_masks_come_from_nothing_but_a_trained_reasoner(shard_folder: Path, tmp_path: Path) -> None:
    easy = Mix(simple=1.0, all_of=0.0, none=0.0, fast=0.0, unknown_words=0.0)
    begun = config(
        tmp_path, shard_folder, fresh_context=True, steps=60, scenes=2, mix=easy, lr=1e-3,
        cooldown=0.5,
    )  # fmt: skip
    train(Alignment, begun)
    iou = [line["iou"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert sum(iou[:4]) / 4 < 0.35 and sum(iou[-8:]) / 8 > 0.6
    assert moved(tmp_path, begun) == {"context"}
    record = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert record["program"] == "training.align"
    assert record["started_from"]["program"] == shipped_program()
    assert set(record["rendered_seeds"]) > {5}


@pytest.mark.parametrize("parts", [("context", "mask_decoder"), ("image_encoder",)])
def test_only_the_parts_that_were_asked_for_move(parts: tuple, shard_folder: Path, tmp_path: Path) -> None:
    begun = config(tmp_path, shard_folder, train=parts)
    train(Alignment, begun)
    assert moved(tmp_path, begun) == set(parts)


def test_adapters_can_learn_in_place_of_the_reasoner(shard_folder: Path, tmp_path: Path) -> None:
    begun = config(tmp_path, shard_folder, train=(), lora=LoraConfig(rank=2, targets=("q_proj", "v_proj")))
    train(Alignment, begun)
    before, after = Alignment(begun).module.state_dict(), newest(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}
    model, _ = load_model(tmp_path / "run" / "model")  # which knows nothing of adapters
    weight = model.language_model.layers[0].self_attn.q_proj.weight
    shipped = load_model(find_model("lens-nano"))[0].language_model.layers[0].self_attn.q_proj.weight
    assert not torch.equal(weight, shipped)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"start_from": ""}, "start_from is empty"),
        ({"images": 3, "accumulate": 2}, r"images \(3\) must be a multiple of processes \* accumulate"),
        ({"train": ()}, "nothing is trained"),
        ({"scenes": 99}, "holds 16 scenes, the configuration asks for 99"),
    ],
)
def test_what_does_not_fit_is_named(
    values: dict[str, Any], told: str, shard_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        Alignment(config(tmp_path, shard_folder, **values))


def examples(shards: TabletopShards, count: int, **shares: float) -> list[Example]:
    drawn = Examples(shards, 16, Mix(**shares), SIDE)
    return drawn.draw(np.random.default_rng([1, 2]), count)


def test_what_is_taught_is_true(shards: TabletopShards) -> None:
    model, tokenizer = load_model(find_model("lens-nano"))
    drawn = examples(shards, 60, all_of=0.3, none=0.3, fast=0.4)
    completions = taught(drawn, model, tokenizer)
    assert completions.group == 1
    for row, example in enumerate(drawn):
        opening = prompts.opening("tabletop", think=example.think)
        ids = completions.completion_ids[row, 0][completions.completion_mask[row, 0].bool()]
        answer = parse_answer(opening + tokenizer.decode(ids).removesuffix(prompts.END), (SIDE, SIDE))
        assert answer.well_formed and bool(answer.rationale) == example.think
        assert len(answer.boxes) == len(example.boxes)
        width = example.mask.shape[1]
        seen = np.zeros_like(example.mask)
        for found in answer.boxes:
            x1, x2 = round(found.x1 * width), round(found.x2 * width)
            y1, y2 = (round(y * example.mask.shape[0]) for y in (found.y1, found.y2))
            seen[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
        assert example.mask.any() == bool(answer.boxes)
        assert not (example.mask & ~seen).any()
        asked = completions.prompt_ids[row][completions.prompt_mask[row].bool()]
        said = tokenizer.decode(asked)
        assert said.count(prompts.IMAGE) == (SIDE // 28) ** 2
        assert said.replace(" ", "").endswith(opening.replace(" ", ""))
    kinds = [example.kind for example in drawn]
    assert kinds.count("all_of") > 5 and kinds.count("none") > 5
    assert 10 < sum(not example.think for example in drawn) < 40


def test_examples_are_a_pure_function_of_the_generator(shards: TabletopShards) -> None:
    first, second = (examples(shards, 5) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.instruction == b.instruction and a.boxes == b.boxes
        assert np.array_equal(a.rgb, b.rgb) and np.array_equal(a.mask, b.mask)
