"""Forecast a model's memory, part by part, and on which Jetsons it fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lens_ros.model.config import LensConfig
from lens_ros.model.network import LensModel

BOARDS = (8, 16, 32, 64)  # GB, shared by CPU and GPU
_SYSTEM = 2.8e9  # taken by the system and ROS; users report 5.2 GB usable of an 8 GB Orin Nano
_ACTIVATIONS_SHARE, _ACTIVATIONS_BASE = 0.08, 0.25e9  # measured from above on the 3B: 0.7 GB at 1e6 pixels
_BYTES = {"none": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 32}  # per weight of the language model's layers
_OTHER = 2.0  # bfloat16


@dataclass(frozen=True)
class Forecast:
    """Bytes on a robot, everything but the quantised layers in 16 bits.

    ``parts`` are weights by name; ``activations`` covers the cache, the working memory and the libraries.
    """

    quantization: str
    parts: dict[str, float]
    activations: float

    @property
    def total(self) -> float:
        return sum(self.parts.values()) + self.activations

    def fits(self, gigabytes: int) -> bool:
        """Return whether a board with this much memory has room for it, the system and ROS."""
        return self.total <= gigabytes * 1e9 - _SYSTEM


def parameter_counts(config: LensConfig) -> dict[str, int]:
    """Return the number of parameters of each part of the model, without loading it."""
    with torch.device("meta"):
        model = LensModel(config)
    layers = sum(p.numel() for p in model.language_model.layers.parameters())
    sam = model.segmenter.sam
    encoder = sam.image_encoder if config.image_encoder == "vit" else sam.vision_encoder
    counts = {
        "language model": layers,
        "embedding and head": sum(p.numel() for p in model.reasoner.parameters()),
        "vision tower": sum(p.numel() for p in model.reasoner.model.visual.parameters()),
        "context module": 0 if model.context is None else sum(p.numel() for p in model.context.parameters()),
        "image encoder": sum(p.numel() for p in encoder.parameters()),
        "mask decoder": sum(p.numel() for p in model.segmenter.parameters()),
    }
    counts["embedding and head"] -= counts["language model"] + counts["vision tower"]
    counts["mask decoder"] -= counts["image encoder"]
    return counts


def forecast(config: LensConfig, quantization: str) -> Forecast:
    """Return the memory that the model needs.

    ``quantization`` is none, int8 or int4.
    """
    parts = {
        name: count * (_BYTES[quantization] if name == "language model" else _OTHER)
        for name, count in parameter_counts(config).items()
    }
    return Forecast(quantization, parts, _ACTIVATIONS_BASE + _ACTIVATIONS_SHARE * sum(parts.values()))
