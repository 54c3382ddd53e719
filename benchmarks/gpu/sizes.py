"""Sizes of the random models: the released 3B with SAM 2-L, and a small one of the same kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.first_mask import scaled
from lens_ros.model.config import ImageConfig, LensConfig

_SMALL = 16  # divisor of widths and depths
_PICTURE, _SEGMENTER_PICTURE = 224, 256  # pixels


def model_config(tiny: bool) -> LensConfig:
    """Return the 3B's configuration, or that of a small model with small pictures."""
    if not tiny:
        return scaled(1, "3B")
    config = scaled(_SMALL, "tiny")
    side = _SEGMENTER_PICTURE
    vision: dict[str, Any] = config.segmenter["vision_config"]
    sizes = [[side // stride] * 2 for stride in (4, 8, 16)]
    segmenter = {
        **config.segmenter,
        "vision_config": {**vision, "backbone_feature_sizes": sizes},
        "prompt_encoder_config": {"image_size": side, "patch_size": 16},
    }
    vision["backbone_config"]["image_size"] = [side, side]
    image = ImageConfig(protocol="square", reasoner_size=_PICTURE, segmenter_size=side)
    return replace(config, segmenter=segmenter, image=image)
