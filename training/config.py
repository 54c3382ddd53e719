"""Typed configurations of the training programs: a YAML file, overridden by ``a.b=value`` arguments."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml

from training.data.examples import Mix
from training.lora import LoraConfig
from training.parts import Part
from training.rewards import RewardWeights

C = TypeVar("C", bound="RunConfig")


@dataclass(frozen=True)
class RunConfig:
    """Configuration fields that every training program has (:mod:`training.loop`).

    The learning rates warm up linearly, stay constant, and fall to zero over the last ``cooldown`` share of
    all steps. A run can be extended later, because the plateau does not depend on its length.

    Attributes:
        data: Folder of shards from ``training.data.tabletop``.
        out: Output folder of the run: checkpoints, metrics, pictures, exported weights.
        data_seed: Seed of those scenes; recorded with the weights, so that evaluation can refuse it.
        scenes: Number of scenes used.
        seed: Seed of initialisation and batches.
        start_from: Name or folder of the model whose weights the run begins with; "" for none.
        steps: Total number of optimiser steps.
        warmup: Number of warm-up steps.
        cooldown: Share of ``steps``, 0 to 1, over which the rates fall; 1 from the beginning, 0 never.
        schedule: Shape of the fall: a straight line or half a cosine.
        accumulate: Parts of an optimiser step, run one after another in each process; gradients are averaged.
        bf16: Run forward passes under bfloat16 autocast; weights and optimisers stay float32.
        clip_norm: Largest norm of all gradients together; 0 for no limit.
        checkpoint_every, evaluate_every, log_every: Intervals in steps.
        keep_checkpoints: Number of newest checkpoints to keep.
        validation_seed: Seed of the scenes for the greedy evaluation during training.
        validation_expressions: Number of expressions in that evaluation; 0 disables it.
        processes: Number of data-parallel processes of one thread each, on a CPU. On a GPU there is one
            process; a launcher (``accelerate launch``) sets its own number.

    Raises:
        ValueError: A number is out of range; the message names the field.
    """

    #: Fields that may change when a run is resumed; a change of any other field makes it a different run.
    FREE_ON_RESUME: ClassVar[frozenset[str]] = frozenset(
        {"data", "out", "steps", "cooldown", "schedule", "checkpoint_every", "evaluate_every", "log_every",
         "keep_checkpoints", "validation_seed", "validation_expressions", "processes"}
    )  # fmt: skip

    data: str
    out: str
    data_seed: int = 1
    scenes: int = 20480
    seed: int = 0
    start_from: str = ""
    steps: int = 1000
    warmup: int = 100
    cooldown: float = 0.5
    schedule: Literal["linear", "cosine"] = "linear"
    accumulate: int = 1
    bf16: bool = True
    clip_norm: float = 1.0
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    evaluate_every: int = 500
    log_every: int = 50
    validation_seed: int = 2
    validation_expressions: int = 100
    processes: int = 2

    def __post_init__(self) -> None:
        _all_finite(self)
        _at_least(
            1, self, "scenes", "steps", "accumulate", "checkpoint_every", "keep_checkpoints",
            "evaluate_every", "log_every", "processes",
        )  # fmt: skip
        _at_least(
            0, self, "data_seed", "seed", "warmup", "validation_seed", "validation_expressions", "clip_norm"
        )
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"field 'cooldown' is a share of all steps, 0 to 1, got {self.cooldown}")


@dataclass(frozen=True)
class SuperviseConfig(RunConfig):
    """Configuration of supervised training, from scratch or from a model that was trained before.

    Words that the model of ``start_from`` does not know are newly initialised. So is everything that is not
    part of the exported model: the heads of the dense losses and the optimisers.

    Attributes:
        language_from: First step with language (short answers to simple expressions).
        full_from: First step with all expressions, complete rationales and masks prompted by the context
            queries.
        images: Images per step (of all processes and parts together).
        expressions: Expressions per image.
        segmenter_images: Number of those images that the segmenter is trained on.
        box_prompts: Box-prompted masks per image for the segmenter.
        simple_share: Share of simple expressions in the full mix.
        hard_share: Share, in the full mix, of expressions drawn on purpose from the kinds that are hardest to
            learn.
        all_share, none_share: Shares of instructions, in the full mix, that ask for all of several objects,
            and for objects that are absent.
        fast_share: Share of answers, in the full mix, without a rationale.
        unknown_words: Share of instructions that get an unknown word, from step ``unknown_from`` on.
        adam_lr: Peak learning rate of embeddings, norms and heads.
        muon_lr: Peak learning rate of hidden matrices.
        dense_weight: Weight of the losses from dense labels. Use 0 for a model that was trained before and
            whose vision must not be disturbed by newly initialised heads.
    """

    steps: int = 4800
    language_from: int = 400
    full_from: int = 1000
    images: int = 16
    expressions: int = 4
    segmenter_images: int = 4
    box_prompts: int = 4
    simple_share: float = 0.2
    all_share: float = 0.0
    none_share: float = 0.0
    hard_share: float = 0.0
    fast_share: float = 0.0
    unknown_words: float = 0.15
    unknown_from: int = 2000
    adam_lr: float = 1.0e-3
    muon_lr: float = 1.5e-3
    weight_decay: float = 0.02
    dense_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, self, "images", "expressions", "segmenter_images", "box_prompts")
        _at_least(0, self, "language_from", "full_from", "unknown_from")
        _at_least(0, self, "adam_lr", "muon_lr", "weight_decay", "dense_weight")
        _shares(self, "simple_share", "all_share", "none_share", "hard_share", "fast_share", "unknown_words")
        if self.segmenter_images > self.images:
            raise ValueError(
                f"field 'segmenter_images' must be at most 'images' ({self.images}), of which they are, "
                f"got {self.segmenter_images}"
            )


@dataclass(frozen=True)
class AlignConfig(RunConfig):
    """Configuration for aligning the context module to a trained reasoner (``start_from``).

    Attributes:
        fresh_context: Begin with a newly initialised context module.
        train: Parts to train; stage 1 of the paper trains the context module alone.
        lora: Additional adapters in the language model; None for none.
        images: Images per step, of all processes and parts together; one instruction each.
        mix: Shares of the kinds of expressions.
        lr: Peak learning rate.
    """

    train: tuple[Part, ...] = ("context",)
    lora: LoraConfig | None = None
    fresh_context: bool = False
    images: int = 16
    mix: Mix = field(default_factory=Mix)
    lr: float = 3.0e-4
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, self, "images")
        _at_least(0, self, "lr", "weight_decay")
        _check_blocks(self)


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling parameters for completions; the defaults are the paper's.

    See :class:`~lens_ros.model.generation.Sampling`.
    """

    temperature: float = 0.9
    top_k: int = 50
    top_p: float = 0.9


@dataclass(frozen=True)
class ReinforceConfig(RunConfig):
    """Configuration of reinforcement (:mod:`training.reinforce`), stage 2 of the paper.

    Attributes:
        train: Parts of the model to train (:mod:`training.parts`); the paper trains all but SAM's image
            encoder.
        lora: Adapters in the language model, trained instead of its own weights; None trains those weights.
        mix: Shares of the kinds of expressions.
        prompts: Prompts per step, of all processes and parts together; each has its own group.
        oversample: Number of prompts drawn for each one that is trained on. Those are kept whose completions
            differ most in form and boxes; if all completions earn the same reward there is nothing to learn.
            1, as in the paper, keeps all.
        group: Completions per prompt, G.
        max_new_tokens: Largest number of tokens in a completion.
        sampling: How completions are sampled.
        rewards: Weight of each reward.
        beta: Weight of the KL divergence from the model that the run began with; 0 needs no reference policy.
        scale_rewards: Divide advantages by the group's standard deviation.
        loss: How the losses of tokens are averaged: ``"grpo"``, as in the paper, or ``"dr_grpo"``, which
            weighs tokens of long and short completions alike (:func:`training.grpo.grpo_loss`).
        unbiased_kl: Weigh each token's KL so that its gradient is that of the true KL; the paper does not.
        grpo_weight, segment_weight: Weights of the two losses in the sum.
        lr: Peak learning rate.
    """

    train: tuple[Part, ...] = ("vision", "language", "context", "prompt_encoder", "mask_decoder")
    lora: LoraConfig | None = None
    mix: Mix = field(default_factory=Mix)
    prompts: int = 8
    oversample: int = 1
    group: int = 8
    max_new_tokens: int = 160
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    rewards: RewardWeights = field(default_factory=RewardWeights)
    beta: float = 0.04
    scale_rewards: bool = True
    loss: Literal["grpo", "dr_grpo"] = "grpo"
    unbiased_kl: bool = False
    grpo_weight: float = 1.0
    segment_weight: float = 1.0
    lr: float = 5.0e-5
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, self, "prompts", "oversample", "max_new_tokens")
        _at_least(2, self, "group")  # advantages compare the completions of one prompt
        _at_least(0, self, "beta", "grpo_weight", "segment_weight", "lr", "weight_decay")
        _at_least(0, self, "sampling.temperature", "sampling.top_k")
        _at_least(0, self, "rewards.format", "rewards.box", "rewards.segment")
        if not 0 < self.sampling.top_p <= 1:
            raise ValueError(f"field 'sampling.top_p' must be above 0, at most 1, got {self.sampling.top_p}")
        _check_blocks(self)


def _check_blocks(config: AlignConfig | ReinforceConfig) -> None:
    """Check the fields that alignment and reinforcement have in common.

    Raises:
        ValueError: A number is out of range; the message names its field.
    """
    _shares(config, *(f"mix.{f.name}" for f in dataclasses.fields(Mix)))
    if config.lora is not None:
        _at_least(1, config, "lora.rank", "lora.alpha")


def _at_least(least: int, config: Any, *names: str) -> None:
    for name in names:
        value = operator.attrgetter(name)(config)
        if value < least:
            told = "must not be negative" if least == 0 else f"must be at least {least}"
            raise ValueError(f"field '{name}' {told}, got {value}")


def _shares(config: Any, *names: str) -> None:
    for name in names:
        value = operator.attrgetter(name)(config)
        if not 0 <= value <= 1:
            raise ValueError(f"field '{name}' is a share, 0 to 1, got {value}")


def _all_finite(config: Any, prefix: str = "") -> None:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            _all_finite(value, f"{prefix}{f.name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"field '{prefix}{f.name}' must be a finite number, got {value}")


def load_config(kind: type[C], path: Path, overrides: list[str]) -> C:
    """Read ``path`` and apply overrides: ``field=value``, ``block.field=value``, values in YAML.

    Raises:
        ValueError: A field is unknown, or a value has the wrong type; the message names it.
        FileNotFoundError: There is no such file.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold fields and values, got {values!r}")
    for override in overrides:
        _override(values, override)
    return _block(kind, values, str(path), prefix="")


def save_config(config: RunConfig, path: Path) -> None:
    """Write every field to ``path``, as :func:`load_config` reads it."""
    path.write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")


def plain(config: RunConfig) -> dict[str, Any]:
    """Return the configuration in types of YAML and JSON: blocks as dictionaries, tuples as lists."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _override(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"'{override}' is not of the form field=value")
    *blocks, field = name.split(".")
    for block in blocks:
        if values.get(block) is None:
            values[block] = {}
        if not isinstance(values[block], dict):
            raise ValueError(f"'{override}': '{block}' is a single value, it has no fields")
        values = values[block]
    try:
        values[field] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"'{override}': the value is not readable YAML") from error


def _block(kind: type[Any], values: dict[str, Any], source: str, prefix: str) -> Any:
    """Build a dataclass from a dictionary; ``prefix`` precedes its field names in messages."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in fields:
            raise ValueError(f"unknown field '{prefix}{name}' in {source}; known: {', '.join(fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(prefix + name for name in missing)}")
    return kind(**{n: _typed(hints[n], v, source, prefix + n) for n, v in values.items()})


def _typed(kind: Any, value: Any, source: str, name: str) -> Any:
    """Convert ``value`` to ``kind``.

    ``kind`` is a plain type, a Literal, a tuple of one type, a dataclass, or a union of one of these and
    None.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (k for k in typing.get_args(kind) if k is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return _block(typing.cast(Any, kind), value, source, f"{name}.")
    elif typing.get_origin(kind) is Literal:
        if value in typing.get_args(kind):
            return value
    elif typing.get_origin(kind) is tuple:
        if isinstance(value, list):
            inner = typing.get_args(kind)[0]
            return tuple(_typed(inner, v, source, f"{name}[{k}]") for k, v in enumerate(value))
    elif kind is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML parses 1e-3 as a string; only 1.0e-3 is a number
        except (TypeError, ValueError):
            pass
    elif type(value) is kind:
        return value
    raise ValueError(f"field '{name}' must be {_called(kind)}, got {value!r}")


def _called(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"a list of {_called(typing.get_args(kind)[0])}"
    if dataclasses.is_dataclass(kind):
        return "a block of " + ", ".join(f.name for f in dataclasses.fields(kind))
    return kind.__name__
