"""Typed configuration of the training programs: a YAML file, overridden by ``field=value`` arguments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class SuperviseConfig:
    """Supervised training, of a model born from scratch or of one that was trained before.

    The learning rate warms up, stays, and falls linearly to zero over the last ``cooldown`` of all steps.

    Attributes:
        data: folder of shards from ``training.data.tabletop``.
        data_seed: seed of those scenes; recorded with the weights, so that evaluation can refuse it.
        scenes: how many of them are used.
        out: folder of the run: checkpoints, metrics, exported weights.
        seed: of initialisation and batches.
        start_from: name or folder of a model whose weights the run begins with (words that it does not know
            start anew, and so does what does not ship: the heads of the dense losses, the optimisers); "" for
            none.
        steps: optimiser steps in all.
        language_from, full_from: first step with language (short answers to simple expressions), and with
            all expressions, whole rationales and masks prompted by the context queries.
        images, expressions: per step (of all processes together), and per image.
        segmenter_images: of those images, how many the segmenter is trained on.
        processes: data-parallel processes of one thread each; the gradients are averaged.
        box_prompts: box-prompted masks per image for the segmenter.
        simple_share: share of simple expressions in the full mix.
        hard_share: share, in the full mix, of the kinds that are hardest to learn, drawn on purpose.
        all_share, none_share: shares of instructions, in the full mix, that ask for all of several objects,
            and for what is not there.
        fast_share: share of answers, in the full mix, without a rationale.
        unknown_words: share of instructions that get an unknown word, from step ``unknown_from`` on.
        adam_lr, muon_lr: peak learning rates of embeddings, norms, heads and of hidden matrices.
        checkpoint_every, evaluate_every: steps.
        validation_seed, validation_expressions: of the greedy evaluation during training; 0 for none.
    """

    data: str
    out: str
    data_seed: int = 1
    scenes: int = 20480
    seed: int = 0
    start_from: str = ""
    steps: int = 4800
    warmup: int = 100
    cooldown: float = 0.5
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
    clip_norm: float = 1.0
    bf16: bool = True
    checkpoint_every: int = 100
    evaluate_every: int = 500
    validation_seed: int = 2
    validation_expressions: int = 100
    processes: int = 2


def load_config(path: Path, overrides: list[str]) -> SuperviseConfig:
    """Reads ``path`` and applies ``field=value`` overrides (values in YAML).

    Raises:
        ValueError: an unknown field, or a value of the wrong type; the message names it.
    """
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"'{override}' is not of the form field=value")
        values[name] = yaml.safe_load(text)
    types = {f.name: f.type for f in dataclasses.fields(SuperviseConfig)}
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"unknown field '{name}' in {path}; known: {', '.join(types)}")
        if types[name] == "float" and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif type(value).__name__ != types[name]:
            raise ValueError(f"field '{name}' must be {types[name]}, got {value!r}")
    missing = {"data", "out"} - values.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    return SuperviseConfig(**values)
