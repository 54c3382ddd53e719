"""Named parts of a model, used to select what is trained and to count trained parameters."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

from torch import nn

from lens_ros.model.network import LensModel

Part = Literal["vision", "language", "context", "image_encoder", "prompt_encoder", "mask_decoder"]
PARTS: tuple[Part, ...] = get_args(Part)

_PREFIXES: dict[str, Part] = {
    "reasoner.model.visual.": "vision",
    "reasoner.": "language",
    "context.": "context",
    "segmenter.sam.vision_encoder.": "image_encoder",  # SAM 2
    "segmenter.sam.image_encoder.": "image_encoder",  # SAM
    "segmenter.sam.no_memory_embedding": "image_encoder",
    "segmenter.sam.no_memory_positional_encoding": "image_encoder",
    "segmenter.sam.mask_decoder.": "mask_decoder",
    "segmenter.": "prompt_encoder",
}


def part_of(name: str) -> Part:
    """Return the part that the parameter ``name`` of a :class:`LensModel` belongs to.

    Raises:
        ValueError: It belongs to none.
    """
    for prefix, part in _PREFIXES.items():
        if name.startswith(prefix):
            return part
    raise ValueError(f"the parameter {name} belongs to no part of a model ({', '.join(PARTS)})")


def freeze_all_but(model: LensModel, trained: Collection[Part]) -> None:
    """Freeze every parameter outside of ``trained``; parameters inside that are frozen stay frozen."""
    for name, parameter in model.named_parameters():
        if part_of(name) not in trained:
            parameter.requires_grad_(False)


def trained_parameters(module: nn.Module, model: LensModel) -> dict[str, int]:
    """Count the trained parameters of ``module`` by part of ``model``.

    Parameters that belong to no part count as ``others``.
    """
    parts = {id(p): part_of(name) for name, p in model.named_parameters()}
    counts: dict[str, int] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            part = parts.get(id(parameter), "others")
            counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
