"""Replace one or both halves of a torch segmenter by compiled ones."""

from __future__ import annotations

import torch
from torch import nn

from lens_ros.engine.graphs import MAX_INSTANCES
from lens_ros.engine.sessions import Session
from lens_ros.model.sam import SamSegmenter
from lens_ros.model.sam2 import ImageFeatures, Sam2Segmenter


class CompiledSegmenter(nn.Module):
    """A segmenter with compiled halves.

    Same interface as :class:`~lens_ros.model.sam2.Sam2Segmenter`; outputs are float32. A half without a
    session runs in torch.
    """

    def __init__(
        self,
        segmenter: Sam2Segmenter | SamSegmenter,
        *,
        encoder: Session | None = None,
        decoder: Session | None = None,
    ) -> None:
        super().__init__()
        self.torch = segmenter
        self.encoder, self.decoder = encoder, decoder

    @property
    def prompt_width(self) -> int:
        return self.torch.prompt_width

    def slim(self) -> CompiledSegmenter:
        """Drop the torch weights that the compiled halves replace; return the segmenter."""
        sam = self.torch.sam
        names = []
        if self.encoder is not None:
            names += ["image_encoder" if isinstance(self.torch, SamSegmenter) else "vision_encoder"]
            if self.decoder is not None:  # SAM 2's encoding ends in two layers of the decoder
                names += ["mask_decoder"]
        for name in names:
            setattr(sam, name, nn.Identity())
        return self

    def encode(self, pixels: torch.Tensor) -> ImageFeatures:
        """Encode images as :meth:`Sam2Segmenter.encode` does, one by one."""
        if self.encoder is None:
            return self.torch.encode(pixels)
        levels = [self.encoder(image[None]) for image in pixels]
        embedding, *finer = (torch.cat(level) for level in zip(*levels, strict=True))
        return ImageFeatures(embedding, tuple(finer))

    def box_prompts(self, boxes: torch.Tensor) -> torch.Tensor:
        """Return prompts as :meth:`Sam2Segmenter.box_prompts` does."""
        return self.torch.box_prompts(boxes)

    def decode(
        self, features: ImageFeatures, prompts: torch.Tensor, previous: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode masks as :meth:`Sam2Segmenter.decode` does, 16 prompts at a time."""
        if self.decoder is None:
            dtype = self.torch.no_mask_embedding.dtype
            embedding, *finer = (x.to(dtype) for x in (features.embedding, *features.high_resolution))
            return self.torch.decode(ImageFeatures(embedding, tuple(finer)), prompts.to(dtype), previous)
        logits, iou = [], []
        for image in range(len(prompts)):
            levels = [x[image : image + 1] for x in (features.embedding, *features.high_resolution)]
            side = 4 * features.embedding.shape[-1]
            for start in range(0, prompts.shape[1], MAX_INSTANCES):
                some = prompts[image, start : start + MAX_INSTANCES]
                if previous is None:
                    masks, given = some.new_zeros(len(some), side, side), some.new_zeros(len(some))
                else:
                    masks = previous[image, start : start + MAX_INSTANCES]
                    given = masks.new_ones(len(some))
                found, score = self.decoder(*levels, some, masks, given)
                logits.append(found)
                iou.append(score)
        shape = prompts.shape[:2]
        joined = torch.cat(logits)
        return joined.reshape(*shape, *joined.shape[-2:]), torch.cat(iou).reshape(shape)
