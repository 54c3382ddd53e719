"""The configuration that is saved beside the weights, as ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class ImageConfig:
    """How a camera image becomes the reasoner's patches and the segmenter's picture.

    ``reasoner_size`` is the side, in pixels, of the square that the image is squashed to for the reasoner;
    ``segmenter_size`` the same for the segmenter (LENS squashes to 1024, see the paper's preprocessing).
    ``position_code`` fills the second temporal slot of every patch with a fixed 2-D sin/cos code: a vision
    tower trained from scratch has only relative rotary positions and cannot find absolute coordinates
    without it. It must be off for pretrained weights.
    """

    reasoner_size: int = 224
    reasoner_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    reasoner_std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    position_code: bool = False
    segmenter_size: int = 256
    segmenter_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    segmenter_std: tuple[float, float, float] = (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class ContextConfig:
    """Context queries and connector (LENS, section 3): ``num_queries`` learned vectors are read out of the
    reasoner, mixed by ``depth`` pre-norm blocks of ``num_heads`` heads, and folded into one prompt."""

    num_queries: int = 64
    depth: int = 4
    num_heads: int = 16


@dataclass(frozen=True)
class LensConfig:
    """Everything needed to build a :class:`~lens_ros.model.network.LensModel` without weights.

    ``reasoner`` and ``segmenter`` are keyword arguments of transformers' ``Qwen2_5_VLConfig`` and
    ``Sam2Config``. ``image_encoder`` is ``"hiera"`` (SAM 2's own) or ``"conv"`` (the small pyramid of
    lens-nano). ``query_positions`` names the position scheme of the query pass that the weights were
    trained with (design, section 4). ``speck_share``: connected parts of a mask smaller than this share of
    its largest part are dropped; 0, as in the paper, keeps every pixel.
    """

    reasoner: dict[str, Any]
    segmenter: dict[str, Any]
    image_encoder: Literal["hiera", "conv"] = "hiera"
    image: ImageConfig = field(default_factory=ImageConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    query_positions: Literal["mrope", "sequential"] = "mrope"
    speck_share: float = 0.0
    name: str = "lens"

    def save(self, folder: Path) -> None:
        """Writes ``folder/config.json``."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LensConfig:
        """Rebuilds a configuration from :func:`dataclasses.asdict`'s form.

        Raises:
            TypeError, KeyError: an unknown or missing field.
        """
        values = dict(values)
        stored: dict[str, Any] = values.pop("image")
        image: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(image=ImageConfig(**image), context=ContextConfig(**values.pop("context")), **values)
