"""Check that a compiled half does what torch does, on bundled pictures.

Half precision breaks the image encoders of some models of the SAM family silently (NVIDIA's NanoSAM and
EfficientTAM report it); nobody should learn that from a robot's masks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lens_ros.engine.compiled_segmenter import CompiledSegmenter
from lens_ros.engine.sessions import Session
from lens_ros.model.config import ImageConfig
from lens_ros.model.images import segmenter_boxes, segmenter_inputs, segmenter_picture
from lens_ros.model.sam import SamSegmenter
from lens_ros.model.sam2 import Sam2Segmenter

LEAST_IOU = 0.98  # of the masks, mean over a picture's objects, in the worst picture
PICTURES = Path(__file__).parent / "pictures"


@dataclass(frozen=True)
class Check:
    """Result of a self-check.

    ``iou``: mask IoU against torch, mean over a picture's objects, of the worst picture; 0 if values are not
    finite. ``note`` says what was compared.
    """

    iou: float
    note: str

    @property
    def passed(self) -> bool:
        return self.iou >= LEAST_IOU


@torch.inference_mode()
def check(
    segmenter: Sam2Segmenter | SamSegmenter,
    image: ImageConfig,
    *,
    encoder: Session | None = None,
    decoder: Session | None = None,
) -> Check:
    """Compare box-prompted masks of the bundled pictures: torch, and torch with the given halves replaced.

    Args:
        segmenter: the truth, float32, on the device of the sessions.
    """
    compiled = CompiledSegmenter(segmenter, encoder=encoder, decoder=decoder)
    device = segmenter.no_mask_embedding.device
    worst, count = 1.0, 0
    for name, boxes in json.loads((PICTURES / "boxes.json").read_text(encoding="utf-8"))["boxes"].items():
        rgb = np.asarray(Image.open(PICTURES / name).convert("RGB"))
        height, width = rgb.shape[:2]
        fractions = torch.tensor([boxes]) / torch.tensor([width, height, width, height])
        prompts = segmenter.box_prompts(segmenter_boxes(fractions, (height, width), image).to(device))
        picture = torch.from_numpy(np.array(segmenter_picture(rgb, image)))[None].to(device)
        pixels = segmenter_inputs(picture, image)
        expected, _ = segmenter.decode(segmenter.encode(pixels), prompts)
        found, scores = compiled.decode(compiled.encode(pixels), prompts)
        if not (found.isfinite().all() and scores.isfinite().all()):
            return Check(0.0, f"values that are not finite on {name}")
        ours, theirs = expected[0] > 0, found[0] > 0
        union = (ours | theirs).flatten(1).sum(1)
        iou = torch.where(union > 0, (ours & theirs).flatten(1).sum(1) / union.clamp_min(1), 1.0)
        worst, count = min(worst, float(iou.mean())), count + len(boxes)
    return Check(worst, f"mask IoU {worst:.4f} against torch ({count} objects, worst picture)")
