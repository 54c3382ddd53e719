"""Reinforcement: samples, rewards and changed parts, with the shipped model on drawn scenes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forked import run_module
from safetensors.torch import load_file

from lens_ros.lens import Lens
from lens_ros.model import prompts
from lens_ros.model.checkpoint import find_model
from lens_ros.model.generation import Sampling
from training.config import ReinforceConfig, SamplingConfig
from training.data.examples import Example, taught
from training.loop import Turn
from training.lora import LoraConfig
from training.parts import part_of
from training.policy import Completions
from training.reinforce import Reinforce
from training.rollout import roll_out, texts

FIRST = Turn(step=0, part=0, rank=0, world=1)


@pytest.fixture(scope="module")
def config(shard_folder: Path) -> ReinforceConfig:
    return ReinforceConfig(
        data=str(shard_folder), out="", data_seed=5, scenes=16, start_from="lens-nano", steps=2, warmup=0,
        cooldown=0, processes=1, bf16=False, prompts=3, group=3, max_new_tokens=60, validation_expressions=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def task(config: ReinforceConfig) -> Reinforce:
    return Reinforce(config)


def drawn(task: Reinforce, sampling: Sampling, group: int = 3) -> tuple[list[Example], Completions]:
    examples = task._examples.draw(np.random.default_rng(0), 3)
    prompted = taught(examples, task.model, task.tokenizer)
    return examples, roll_out(
        task.policy, prompted, task.tokenizer, group=group, sampling=sampling, max_new_tokens=160
    )


def turn(task: Reinforce, turn: Turn = FIRST) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(turn.step)
    return task.loss(task.module, turn)


def test_at_low_temperature_it_says_what_the_user_is_told(task: Reinforce) -> None:
    examples, completions = drawn(task, Sampling(temperature=1e-4))
    lens = Lens(task.model, task.tokenizer)
    for example, said in zip(examples, texts(completions, task.tokenizer), strict=True):
        told = lens.segment(example.rgb, example.instruction, think=example.think)
        assert {prompts.opening("tabletop", think=example.think) + text for text in said} == {told.answer}
    ids = completions.completion_ids
    assert torch.equal(ids[:, 0], ids[:, 1])


def test_a_group_shares_its_instruction_and_differs_in_its_answers(task: Reinforce) -> None:
    _, completions = drawn(task, Sampling(temperature=3.0, seed=1), group=4)
    assert completions.prompt_ids.ndim == 2  # one row for the group
    assert completions.completion_ids.shape[:2] == (3, 4)
    assert len({tuple(row) for row in completions.completion_ids[0].tolist()}) > 1


def test_it_draws_from_the_weights_as_they_are(config: ReinforceConfig) -> None:
    task = Reinforce(config)
    before = drawn(task, Sampling(temperature=1e-4))[1].completion_ids
    end = task.tokenizer.eos_token_id
    with torch.no_grad():
        table = task.model.language_model.embed_tokens.weight  # tied to the head
        table[end] += 20 * table.mean(0).sign() * table.abs().max()
        table[before[0, 0, 0]] = 0
    after = drawn(task, Sampling(temperature=1e-4))[1].completion_ids
    assert after.shape != before.shape or not torch.equal(after, before)


def test_the_divergence_begins_at_nothing_and_the_loss_is_pure(task: Reinforce) -> None:
    first, metrics = turn(task)
    again, _ = turn(task)
    assert torch.equal(first, again)
    assert abs(float(metrics["kl"])) < 1e-6
    other, _ = turn(task, dataclasses.replace(FIRST, step=1))
    assert not torch.equal(first, other)


def test_metrics_have_trls_names(task: Reinforce) -> None:
    _, metrics = turn(task)
    assert {
        "reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "completions/clipped_ratio",
        "completions/mean_length", "rewards/format/mean", "rewards/box/mean", "rewards/segment/mean",
    } <= metrics.keys()  # fmt: skip
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in metrics.values())


def test_the_configuration_chooses_how_tokens_are_averaged(config: ReinforceConfig) -> None:
    warm = SamplingConfig(temperature=2.0, top_k=0, top_p=1.0)
    config = dataclasses.replace(config, sampling=warm, unbiased_kl=True)
    _, paper = turn(Reinforce(config))
    _, doctor = turn(Reinforce(dataclasses.replace(config, loss="dr_grpo")))
    # The policy has not moved: each token weighs its advantage. Means of completions cancel out in a group,
    # sums over completions of different length do not.
    assert abs(float(paper["loss/grpo"])) < 1e-6 < abs(float(doctor["loss/grpo"]))


def test_of_the_prompts_drawn_those_are_kept_that_tell_good_from_bad(config: ReinforceConfig) -> None:
    warm = SamplingConfig(temperature=1.5, top_k=0, top_p=1.0)
    task = Reinforce(dataclasses.replace(config, prompts=1, oversample=6, sampling=warm))
    _, metrics = turn(task)
    rng = np.random.default_rng([config.seed, 0, 0])
    examples = task._examples.draw(rng, 6)
    prompted = taught(examples, task.model, task.tokenizer)
    sampling = Sampling(warm.temperature, warm.top_k, warm.top_p, seed=int(rng.integers(2**62)))
    drawn = roll_out(
        task.policy, prompted, task.tokenizer, group=config.group, sampling=sampling,
        max_new_tokens=config.max_new_tokens,
    )  # fmt: skip
    form, box = (t.view(6, config.group) for t in task._sentences(examples, drawn))
    spread = (form + box).std(dim=1)
    assert spread.min() < spread.max()
    assert float(metrics["rewards/box/mean"]) == pytest.approx(float(box[spread.argmax()].mean()), abs=1e-6)
    assert float(metrics["drawn/box"]) == pytest.approx(float(box.mean()), abs=1e-6)


@pytest.mark.parametrize("trained", [("language",), ("vision", "context", "mask_decoder")])
def test_only_what_is_asked_for_moves(config: ReinforceConfig, trained: tuple) -> None:
    task = Reinforce(dataclasses.replace(config, train=trained, lr=1e-3))
    shipped = load_file(find_model("lens-nano") / "model.safetensors")
    born = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    # It goes on from the decoder that it was given (the reference's stage 2 starts with a fresh one).
    assert torch.equal(born["segmenter.sam.mask_decoder.mask_tokens.weight"].half(),
                       shipped["segmenter.sam.mask_decoder.mask_tokens.weight"].half())  # fmt: skip
    (optimizer,) = task.optimizers().values()
    turn(task)[0].backward()
    optimizer.step()
    moved = {part_of(n) for n, p in task.model.named_parameters() if not torch.equal(p.detach(), born[n])}
    assert moved == set(trained)


def test_with_adapters_the_reference_is_the_model_without_them(config: ReinforceConfig) -> None:
    task = Reinforce(dataclasses.replace(config, train=("context",), lora=LoraConfig(rank=2), lr=1e-2))
    assert task.reference is None
    (optimizer,) = task.optimizers().values()
    loss, metrics = turn(task)
    assert abs(float(metrics["kl"])) < 1e-6
    loss.backward()
    optimizer.step()
    assert float(turn(task)[1]["kl"]) > 1e-6


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"start_from": ""}, "name it in start_from"),
        ({"prompts": 3, "accumulate": 2}, r"prompts \(3\) must be a multiple"),
        ({"scenes": 17}, "holds 16 scenes"),
    ],
)
def test_what_does_not_fit_is_named(config: ReinforceConfig, values: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Reinforce(dataclasses.replace(config, **values))


@pytest.mark.slow
def test_two_processes_end_with_one_model_and_say_where_it_comes_from(
    config: ReinforceConfig, tmp_path: Path
) -> None:
    values = {
        "data": config.data, "out": str(tmp_path / "run"), "data_seed": 5, "scenes": 16,
        "start_from": "lens-nano", "steps": 2, "warmup": 0, "processes": 2, "prompts": 2, "group": 2,
        "max_new_tokens": 40, "validation_expressions": 0, "checkpoint_every": 1, "log_every": 1,
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    overrides = ("rewards.box=2", "sampling.top_p=1")
    run_module("training.reinforce", path, *overrides, timeout=300)
    record = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert record["program"] == "training.reinforce"
    assert record["config"]["rewards"]["box"] == 2
    shipped = json.loads((find_model("lens-nano") / "training.json").read_text())
    assert record["started_from"] == shipped
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert abs(lines[0]["kl"]) < 1e-3 < lines[0]["grad_norm"]
