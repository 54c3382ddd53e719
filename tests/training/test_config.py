"""Configurations: typed, nested, overridden, written back; errors are reported by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from training.config import (
    AlignConfig,
    ReinforceConfig,
    RunConfig,
    SuperviseConfig,
    load_config,
    save_config,
)
from training.lora import LoraConfig
from training.reinforce import main as reinforce
from training.rewards import RewardWeights

KINDS = {"align": AlignConfig, "reinforce": ReinforceConfig}
CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.yaml"))


@dataclass(frozen=True)
class Nested(RunConfig):
    rewards: RewardWeights = field(default_factory=RewardWeights)
    lora: LoraConfig | None = None
    train: tuple[str, ...] = ("context",)
    lr: float = 1.0


def load(folder: Path, *overrides: str, text: str = "") -> Nested:
    path = folder / "config.yaml"
    path.write_text(f"data: d\nout: o\n{text}")
    return load_config(Nested, path, list(overrides))


def test_blocks_lists_and_numbers(tmp_path: Path) -> None:
    config = load(
        tmp_path, "rewards.box=0.5", "lora.rank=8", "train=[context, mask_decoder]", "steps=77", "lr=1e-3",
        text="rewards: {segment: 2}\nschedule: cosine\nlora: {targets: [q_proj]}\n",
    )  # fmt: skip
    assert config.rewards == RewardWeights(format=1.0, box=0.5, segment=2.0)
    assert config.lora == LoraConfig(rank=8, targets=("q_proj",))
    assert config.train == ("context", "mask_decoder")
    assert (config.steps, config.lr, config.schedule) == (77, 1e-3, "cosine")
    assert load(tmp_path, "lora=null", text="lora: {rank: 4}\n").lora is None
    assert load(tmp_path, "lora.rank=2").lora == LoraConfig(rank=2)


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, "lora.rank=8", "train=[vision]", "clip_norm=0")
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(Nested, tmp_path / "saved.yaml", []) == config


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stepz=3", "unknown field 'stepz' in .*config.yaml; known: data, out, "),
        ("rewards.bax=1", "unknown field 'rewards.bax' in .*; known: format, box, segment"),
        ("steps=many", "'steps' must be int, got 'many'"),
        ("steps=1.5", "'steps' must be int, got 1.5"),
        ("steps", "not of the form field=value"),
        ("bf16=1", "'bf16' must be bool"),
        ("seed=true", "'seed' must be int, got True"),
        ("lr=fast", "'lr' must be float, got 'fast'"),
        ("lr=true", "'lr' must be float, got True"),
        ("lora.rank=x", "'lora.rank' must be int"),
        ("lora=8", "'lora' must be a block of rank, alpha, targets, got 8"),
        ("steps.more=1", "'steps' is a single value"),
        ("train=context", "'train' must be a list of str, got 'context'"),
        ("train=[1]", r"'train\[0\]' must be str, got 1"),
        ("schedule=steep", "'schedule' must be one of 'linear', 'cosine', got 'steep'"),
        ("steps=0", "'steps' must be at least 1, got 0"),
        ("cooldown=2", "'cooldown' is a share"),
        ("clip_norm=-1", "'clip_norm' must not be negative"),
        ("lr=[", "the value is not readable YAML"),
    ],
)
def test_bad_configuration_is_named(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load(tmp_path, override, text="steps: 5\n")


COUNTS = {
    SuperviseConfig: ("images", "expressions", "segmenter_images", "box_prompts"),
    AlignConfig: ("images", "lora.rank", "lora.alpha"),
    ReinforceConfig: ("prompts", "oversample", "max_new_tokens", "lora.rank", "lora.alpha", "group"),
}
AMOUNTS = {
    SuperviseConfig: ("language_from", "full_from", "unknown_from", "adam_lr", "muon_lr", "weight_decay",
                      "dense_weight"),
    AlignConfig: ("lr", "weight_decay"),
    ReinforceConfig: ("beta", "grpo_weight", "segment_weight", "lr", "weight_decay", "sampling.temperature",
                      "sampling.top_k", "rewards.format", "rewards.box", "rewards.segment"),
}  # fmt: skip
MIX = tuple(f"mix.{name}" for name in ("simple", "hard", "all_of", "none", "fast", "unknown_words"))
SHARES = {
    SuperviseConfig: ("simple_share", "all_share", "none_share", "hard_share", "fast_share", "unknown_words"),
    AlignConfig: MIX,
    ReinforceConfig: (*MIX, "sampling.top_p"),
}
IMPOSSIBLE = [
    *((kind, name, value) for kind, names in COUNTS.items() for name in names for value in ("0", "-3")),
    *((kind, name, "-1") for kind, names in AMOUNTS.items() for name in names),
    *((kind, name, value) for kind, names in SHARES.items() for name in names for value in ("-0.1", "1.5")),
    *(
        (kind, name, value)
        for kind in COUNTS
        for name in (*SHARES[kind], "clip_norm")
        for value in (".nan", ".inf")
    ),
    (ReinforceConfig, "group", "1"),
    (ReinforceConfig, "sampling.top_p", "0"),
    (SuperviseConfig, "segmenter_images", "17"),
]


@pytest.mark.parametrize(("kind", "name", "value"), IMPOSSIBLE)
def test_impossible_numbers_are_named_by_their_field(
    tmp_path: Path, kind: type[RunConfig], name: str, value: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data: d\nout: o\n")
    with pytest.raises(ValueError, match=f"field '{name}' .*, got "):
        load_config(kind, path, [f"{name}={value}"])


@pytest.mark.parametrize("override", ["group=1", "group=0", "prompts=0", "sampling.top_p=0"])
def test_they_are_named_before_anything_is_loaded(
    tmp_path: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {tmp_path / 'no data'}\nout: {tmp_path / 'out'}\nstart_from: no-such-model\n")
    assert reinforce([str(path), override]) == 2
    error = capsys.readouterr().err
    assert f"field '{override.partition('=')[0]}'" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_configuration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, told in (
        ("seed: 1\n", "lacks data, out"),
        ("[1]", "must hold fields"),
        ("a: [", "not readable"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=told):
            load_config(Nested, path, [])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_ships_can_be_read(path: Path) -> None:
    """The name of a configuration contains the program that it is for."""
    kind = next((k for word, k in KINDS.items() if word in path.stem), SuperviseConfig)
    load_config(kind, path, [])
