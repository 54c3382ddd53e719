"""Define the configuration that is saved with the weights, as ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lens_ros.model.score_calibration import Calibration
from lens_ros.model.subjects import Subjects

# How an image becomes the reasoner's picture and the segmenter's; see lens_ros.model.images.
Protocol = Literal["square", "refcoco", "reasonseg"]


@dataclass(frozen=True)
class ImageConfig:
    """How a camera image is resized for the reasoner and for the segmenter.

    ``protocol`` names the way of resizing: ``"square"`` squashes to ``reasoner_size`` pixels a side
    (lens-nano); ``"refcoco"`` and ``"reasonseg"`` are the two that the paper evaluates with (RefCOCO,
    GroundingSuite and the demo; ReasonSeg), where ``max_pixels`` bounds the reasoner's picture: the largest
    lever on latency there is. ``segmenter_size`` is the side of the segmenter's square, ``segmenter_fit``
    whether the image is squashed into it (LENS) or keeps its aspect, with a margin below or at the right
    (SAM). ``position_code`` fills the second temporal slot of every patch with a fixed 2-D sin/cos code: a
    vision tower trained from scratch has only relative rotary positions and cannot find absolute
    coordinates without it. It must be off for pretrained weights.
    """

    protocol: Protocol = "square"
    reasoner_size: int = 224
    max_pixels: int = 1_000_000
    reasoner_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    reasoner_std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    position_code: bool = False
    segmenter_size: int = 256
    segmenter_fit: Literal["squash", "letterbox"] = "squash"
    segmenter_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    segmenter_std: tuple[float, float, float] = (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class ContextConfig:
    """Context queries and connector (LENS, section 3).

    ``num_queries`` learned vectors are read out of the reasoner, mixed by ``depth`` pre-norm blocks of
    ``num_heads`` heads, and folded into one prompt.
    """

    num_queries: int = 64
    depth: int = 4
    num_heads: int = 16


@dataclass(frozen=True)
class LensConfig:
    """Everything needed to build a :class:`~lens_ros.model.network.LensModel` without weights.

    ``reasoner`` holds keyword arguments of transformers' ``Qwen2_5_VLConfig``. ``image_encoder`` says what
    the segmenter is and what ``segmenter`` holds: ``"hiera"`` is SAM 2 (keywords of ``Sam2Config``),
    ``"conv"`` the same with the small pyramid of lens-nano, ``"vit"`` SAM from ``segment-anything``
    (:class:`~lens_ros.model.sam.SamSizes`). ``context`` is None for the decoupled path, where the box that
    the reasoner wrote prompts the segmenter. ``query_positions`` names the position scheme of the query pass
    that the weights were trained with (:meth:`~lens_ros.model.network.LensModel.reason` explains them).

    ``wording`` names what the reasoner is asked, ``coordinates`` the unit of its boxes: pixels of the
    picture that it sees (Qwen2.5-VL) or thousandths of it (Qwen2-VL); ``think`` whether it thinks first by
    default. ``speck_share``: connected parts of a mask smaller than this share of its largest part
    are dropped; 0, as in the paper, keeps every pixel. ``calibration`` turns what the model knows of an
    answer into a probability, the score of its instances; None leaves the IoU that the segmenter expects.
    ``subjects`` lists the nouns that may be asked for; None asks the model everything.
    """

    reasoner: dict[str, Any]
    segmenter: dict[str, Any]
    image_encoder: Literal["hiera", "conv", "vit"] = "hiera"
    image: ImageConfig = field(default_factory=ImageConfig)
    context: ContextConfig | None = field(default_factory=ContextConfig)
    query_positions: Literal["mrope", "sequential"] = "mrope"
    wording: Literal["tabletop", "paper"] = "tabletop"
    coordinates: Literal["absolute", "relative"] = "absolute"
    think: bool = True
    speck_share: float = 0.0
    calibration: Calibration | None = None
    subjects: Subjects | None = None
    name: str = "lens"

    def save(self, folder: Path) -> None:
        """Write ``folder/config.json``."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LensConfig:
        """Rebuild a configuration from the form of :func:`dataclasses.asdict`.

        Raises:
            TypeError, KeyError: an unknown or missing field.
        """
        values = dict(values)
        stored: dict[str, Any] = values.pop("image")
        image: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        context = values.pop("context")
        calibration = values.pop("calibration", None)
        subjects: dict[str, list[str]] | None = values.pop("subjects", None)
        return cls(
            image=ImageConfig(**image),
            context=None if context is None else ContextConfig(**context),
            calibration=None if calibration is None else Calibration(**calibration),
            subjects=None if subjects is None else Subjects(**{k: tuple(v) for k, v in subjects.items()}),
            **values,
        )
