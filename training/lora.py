"""LoRA in the reasoner's language model (arXiv 2106.09685), by peft; merged before export."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from lens_ros.model.network import LensModel


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: ``W x + alpha / rank * B A x`` in the linear layers named in ``targets``."""

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def inject(model: LensModel, config: LoraConfig, seed: int) -> None:
    """Freeze the language model (with its embedding and head) and add trainable adapters to it.

    The adapters initially change nothing: their second factor is zero.

    Raises:
        ValueError: No layer has one of the configured names.
    """
    import peft  # optional dependency

    model.language_model.requires_grad_(False)
    model.reasoner.lm_head.requires_grad_(False)
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the first factor is drawn
        peft.inject_adapter_in_model(settings, model.language_model)


def merged(model: LensModel) -> LensModel:
    """Return the model with its adapters merged into the weights that they adapt.

    The result is a copy, or the model itself if it has no adapters.
    """
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    whole = copy.deepcopy(model)
    adapted = [(name, m) for name, m in whole.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        parent, _, field = name.rpartition(".")
        base: nn.Module = layer.get_base_layer()
        setattr(whole.get_submodule(parent), field, base)
    return whole
