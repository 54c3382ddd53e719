"""Turn prompts into masks: SAM 2's decoder over an image encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Sam2Config, Sam2Model


@dataclass(frozen=True)
class ImageFeatures:
    """An encoded image, S being the side of the segmenter's picture.

    ``embedding`` is ``(B, C, S/16, S/16)``; ``high_resolution`` holds the finer levels that the decoder also
    uses (SAM 2: ``(B, C/8, S/4, S/4)`` and ``(B, C/4, S/8, S/8)``; SAM: none).
    """

    embedding: torch.Tensor
    high_resolution: tuple[torch.Tensor, ...]


class Sam2Segmenter(nn.Module):
    """SAM 2 as LENS uses it: no memory, one mask per prompt, prompts given as embeddings.

    The layout is transformers' ``Sam2Model``; with ``image_encoder="conv"`` its Hiera encoder is replaced by
    :class:`ConvPyramid`, small enough to be trained from scratch on a CPU.
    """

    def __init__(self, config: Sam2Config, image_encoder: Literal["hiera", "conv"]) -> None:
        super().__init__()
        self.sam = Sam2Model(config)
        if image_encoder == "conv":
            self.sam.vision_encoder = ConvPyramid(
                config.vision_config.fpn_hidden_size, config.prompt_encoder_config.image_size
            )
            # Tokens 1-3 and their predicted IoU get no loss here, so they must never be chosen.
            self.sam.mask_decoder.dynamic_multimask_via_stability = False

    @property
    def prompt_width(self) -> int:
        return self.sam.hidden_dim

    def initialize_from_scratch(self) -> None:
        """Make a randomly built decoder trainable.

        transformers' initialization (std 0.02) makes hypernetwork times upscaled features vanish at small
        widths, and gives the image and the prompts two different random position codes.
        """
        for module in self.sam.mask_decoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.reset_parameters()
        decoder, prompts = self.sam.mask_decoder, self.sam.prompt_encoder
        for embedding in (
            decoder.mask_tokens,
            decoder.iou_token,
            decoder.obj_score_token,
            prompts.point_embed,
        ):
            nn.init.normal_(embedding.weight, std=0.5)
        code = self.sam.shared_image_embedding.positional_embedding
        prompts.shared_embedding.positional_embedding.data.copy_(code.data)

    def encode(self, pixels: torch.Tensor) -> ImageFeatures:
        """Encode normalized pictures ``(B, 3, S, S)`` float32; gradients flow, unlike transformers' own."""
        fine, middle, coarse = self.sam.vision_encoder(pixels).fpn_hidden_states
        coarse = coarse + self.sam.no_memory_embedding.view(1, -1, 1, 1)
        decoder = self.sam.mask_decoder
        return ImageFeatures(coarse, (decoder.conv_s0(fine), decoder.conv_s1(middle)))

    def box_prompts(self, boxes: torch.Tensor) -> torch.Tensor:
        """Encode boxes ``(B, N, 4)`` float32 as sparse prompts ``(B, N, 3, C)``.

        Boxes are ``x1, y1, x2, y2`` in pixels of the segmenter's picture.
        """
        return self.sam.prompt_encoder(
            input_points=None, input_labels=None, input_boxes=boxes, input_masks=None
        )[0]

    def decode(
        self, features: ImageFeatures, prompts: torch.Tensor, previous: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode masks for ``N`` prompts per image.

        Args:
            features: of ``B`` images.
            prompts: ``(B, N, T, C)``: T sparse tokens per prompt (LENS: one, alone).
            previous: ``(B, N, S/4, S/4)`` logits, a mask prompt for each: what the object looked like before.

        Returns:
            logits ``(B, N, S/4, S/4)`` and predicted IoU ``(B, N)`` in 0..1.
        """
        batch, count = prompts.shape[:2]
        embedding, levels = features.embedding, features.high_resolution
        if previous is None:
            dense = self.no_mask_embedding.expand_as(embedding)
        else:  # the decoder shares its dense prompt among the prompts of an image: each becomes an image
            dense = self.embed_masks(previous.flatten(0, 1))
            embedding, *finer = (level.repeat_interleave(count, dim=0) for level in (embedding, *levels))
            levels, prompts = tuple(finer), prompts.flatten(0, 1).unsqueeze(1)
        masks, iou, _, _ = self.sam.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=self.position_code.expand(len(embedding), -1, -1, -1),
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=list(levels),
        )
        return masks[:, :, 0].reshape(batch, count, *masks.shape[-2:]), iou[:, :, 0].reshape(batch, count)

    @property
    def position_code(self) -> torch.Tensor:
        """Positional encoding of the image embedding's cells, ``(1, C, S/16, S/16)``."""
        return self.sam.get_image_wide_positional_embeddings()

    @property
    def no_mask_embedding(self) -> torch.Tensor:
        """Dense prompt for "no mask", ``(1, C, 1, 1)``."""
        return self.sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)

    def embed_masks(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask logits ``(N, S/4, S/4)`` to dense prompts ``(N, C, S/16, S/16)``."""
        return self.sam.prompt_encoder.mask_embed(logits.unsqueeze(1).to(self.no_mask_embedding.dtype))


@dataclass(frozen=True)
class PyramidOutput:
    """Levels from fine (stride 4) to coarse (stride 16), each ``(B, C, S/stride, S/stride)``.

    The attribute's name is the one that transformers' SAM 2 encoder uses.
    """

    fpn_hidden_states: tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class ConvPyramid(nn.Module):
    """A small residual network with a top-down pyramid at strides 4, 8 and 16.

    Each level gets fixed coordinate waves through a 1x1 convolution: convolutions alone do not know where
    they are, and box prompts speak in absolute coordinates.
    """

    _CHANNELS = (24, 40, 80, 128)

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        stem, c4, c8, c16 = self._CHANNELS
        self.stem = _conv(3, stem, 2)
        self.stage4 = nn.Sequential(_conv(stem, c4, 2), _Residual(c4))
        self.stage8 = nn.Sequential(_conv(c4, c8, 2), _Residual(c8))
        self.stage16 = nn.Sequential(_conv(c8, c16, 2), _Residual(c16), _Residual(c16))
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (c4, c8, c16))
        self.place = nn.ModuleList(nn.Conv2d(18, width, 1) for _ in range(3))
        for level, stride in enumerate((4, 8, 16)):
            waves = _coordinate_waves(image_size // stride)
            self.register_buffer(f"waves{level}", waves, persistent=False)

    def forward(self, pixels: torch.Tensor) -> PyramidOutput:
        x4 = self.stage4(self.stem(pixels))
        x8 = self.stage8(x4)
        x16 = self.stage16(x8)
        levels: list[torch.Tensor] = []
        for level, x in reversed(list(enumerate((x4, x8, x16)))):
            y = self.lateral[level](x) + self.place[level](self.get_buffer(f"waves{level}").to(x.dtype))
            if levels:
                y = y + F.interpolate(levels[0], scale_factor=2.0)
            levels.insert(0, y)
        return PyramidOutput((levels[0], levels[1], levels[2]))


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    # Group norm: the same function for a batch of one, on the robot, as for a training batch.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def _coordinate_waves(side: int) -> torch.Tensor:
    """Return ``(1, 18, side, side)``: x and y in 0..1 and their sin/cos at 1, 2, 4 and 8 periods."""
    axis = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    waves = [x, y]
    for periods in (1, 2, 4, 8):
        waves += [f(2 * math.pi * periods * a) for a in (x, y) for f in (torch.sin, torch.cos)]
    return torch.stack(waves)[None]
