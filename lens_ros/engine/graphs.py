"""Express the two halves of a segmenter as functions of plain tensors, for export.

Resizing and thresholding stay outside: they run in torch or OpenCV, and exporters stumble over them.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from lens_ros.choices import Part, Precision
from lens_ros.model.sam import SamSegmenter
from lens_ros.model.sam2 import ImageFeatures, Sam2Segmenter

MAX_INSTANCES = 16  # prompts that one call of a compiled decoder takes
MAX_TOKENS = 4  # sparse tokens per prompt: the context prompt (1), a box (SAM: 2, SAM 2: 3), or both together

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class EncoderGraph(nn.Module):
    """Graph of the image encoder.

    ``pixels`` ``(1, 3, S, S)`` float32, normalized, to ``embedding`` and SAM 2's ``high_res_0``,
    ``high_res_1``, float32, as in :class:`~lens_ros.model.sam2.ImageFeatures`.
    """

    def __init__(self, segmenter: Sam2Segmenter | SamSegmenter, precision: Precision) -> None:
        super().__init__()
        self.dtype = _DTYPES[precision]
        self.segmenter = _converted(segmenter, precision)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.segmenter.encode(pixels.to(self.dtype))
        return tuple(level.float() for level in (features.embedding, *features.high_resolution))


class DecoderGraph(nn.Module):
    """Graph of :meth:`Sam2Segmenter.decode` for one image, mask prompts included.

    Inputs, float32: ``embedding`` ``(1, C, S/16, S/16)``, SAM 2's ``high_res_0`` and ``high_res_1``,
    ``prompts`` ``(N, T, C)``, ``previous`` ``(N, S/4, S/4)`` logits, and ``has_previous`` ``(N,)``, 1 where
    ``previous`` counts and 0 where it does not. N is 1 to 16 and T 1 to 4, free in the exported graph.
    Outputs: ``logits`` ``(N, S/4, S/4)`` and ``iou`` ``(N,)``, float32.
    """

    def __init__(self, segmenter: Sam2Segmenter | SamSegmenter, precision: Precision) -> None:
        super().__init__()
        self.dtype = _DTYPES[precision]
        # Constants of the weights; the position codes want float32.
        self.register_buffer("positions", segmenter.position_code.detach().clone().to(self.dtype))
        self.segmenter = _converted(segmenter, precision)

    def forward(
        self,
        embedding: torch.Tensor,
        *others: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        *levels, prompts, previous, has_previous = (x.to(self.dtype) for x in others)
        embedding = embedding.to(self.dtype)
        count = prompts.shape[0]
        given = has_previous.view(-1, 1, 1, 1)
        segmenter = self.segmenter
        dense = given * segmenter.embed_masks(previous) + (1 - given) * segmenter.no_mask_embedding
        if isinstance(segmenter, SamSegmenter):
            logits, iou = segmenter.sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=self.positions,
                sparse_prompt_embeddings=prompts,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
        else:  # its dense prompt is shared by an image's prompts: each prompt becomes an image
            logits, iou, _, _ = segmenter.sam.mask_decoder(
                image_embeddings=embedding.expand(count, -1, -1, -1),
                image_positional_embeddings=self.positions.expand(count, -1, -1, -1),
                sparse_prompt_embeddings=prompts.unsqueeze(1),
                dense_prompt_embeddings=dense,
                multimask_output=False,
                high_resolution_features=[level.expand(count, -1, -1, -1) for level in levels],
            )
            logits, iou = logits[:, 0], iou[:, 0]
        return logits[:, 0].float(), iou[:, 0].float().clamp(0, 1)


def graph(segmenter: Sam2Segmenter | SamSegmenter, part: Part, precision: Precision) -> nn.Module:
    """Return one half of ``segmenter`` in eval mode, with copied weights."""
    made = (EncoderGraph if part == "encoder" else DecoderGraph)(segmenter, precision)
    return made.eval().requires_grad_(False)


def input_names(segmenter: Sam2Segmenter | SamSegmenter, part: Part) -> list[str]:
    if part == "encoder":
        return ["pixels"]
    return [*output_names(segmenter, "encoder"), "prompts", "previous", "has_previous"]


def output_names(segmenter: Sam2Segmenter | SamSegmenter, part: Part) -> list[str]:
    if part == "decoder":
        return ["logits", "iou"]
    return ["embedding"] if isinstance(segmenter, SamSegmenter) else ["embedding", "high_res_0", "high_res_1"]


def picture_side(segmenter: Sam2Segmenter | SamSegmenter) -> int:
    """Return S, in pixels."""
    encoder = segmenter.sam.prompt_encoder
    return encoder.input_image_size[0] if isinstance(segmenter, SamSegmenter) else encoder.input_image_size


@torch.inference_mode()
def sample_inputs(
    segmenter: Sam2Segmenter | SamSegmenter, part: Part, *, instances: int = 2, tokens: int = 2, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """Return float32 inputs of a graph: pictures of noise, or what the encoder makes of them.

    The decoder's prompts have the size that those of boxes have.
    """
    generator = torch.Generator().manual_seed(seed)
    side = picture_side(segmenter)
    pixels = torch.randn(1, 3, side, side, generator=generator)
    if part == "encoder":
        return (pixels,)
    features: ImageFeatures = segmenter.encode(pixels.to(segmenter.no_mask_embedding.dtype))
    corners = torch.rand(1, instances, 2, 2, generator=generator).sort(dim=2).values * side
    box = segmenter.box_prompts(corners.flatten(2))[0].float()
    prompts = torch.cat([box, box], dim=1)[:, :tokens]
    previous = 4 * torch.randn(instances, side // 4, side // 4, generator=generator)
    flags = (torch.arange(instances) % 2).float()
    levels = (level.float() for level in (features.embedding, *features.high_resolution))
    return (*levels, prompts, previous, flags)


def first_of(
    inputs: tuple[torch.Tensor, ...], part: Part, instances: int, tokens: int
) -> tuple[torch.Tensor, ...]:
    """Return a graph's inputs for the first instances, with the first of each one's prompt tokens."""
    if part == "encoder":
        return inputs
    *levels, prompts, previous, given = inputs
    return (*levels, prompts[:instances, :tokens].contiguous(), previous[:instances], given[:instances])


def _converted(segmenter: Sam2Segmenter | SamSegmenter, precision: Precision) -> Sam2Segmenter | SamSegmenter:
    segmenter = copy.deepcopy(segmenter).to(_DTYPES[precision])
    if precision == "bf16":
        # No TensorRT of 2026 compiles a transposed convolution in bfloat16.
        for module in list(segmenter.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.ConvTranspose2d):
                    setattr(module, name, _InFloat32(child))
    return segmenter


class _InFloat32(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.float()).to(x.dtype)
