"""Wrap SAM (the first one) from ``segment-anything``, prompted by boxes.

Layout and tensor names are those of the released files ``sam_vit_{b,l,h}_*.pth``. The package's own resizing
is not used: it needs torchvision; :mod:`lens_ros.model.images` (``segmenter_fit="letterbox"``) does the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call

from lens_ros.model.errors import CheckpointError, first_few
from lens_ros.model.sam2 import ImageFeatures
from lens_ros.model.tensor_check import tensor_faults

_PATCH = 16  # pixels; this and the decoder's sizes below are the same in all of the family
_DECODER_HEADS = 8
_DECODER_WIDTH_STEP = 2 * _DECODER_HEADS  # its cross attention runs at half width
_PACKAGE = "_lens_ros_segment_anything"


@dataclass(frozen=True)
class SamSizes:
    """Sizes of a SAM; ``LensConfig.segmenter`` holds these as keywords for ``"vit"``.

    ``global_attention`` lists the blocks of the image encoder that attend everywhere (any sequence; kept as a
    tuple), the others attend inside windows of ``window_size`` patches a side. ``image_size`` is the side of
    the picture in pixels.

    Raises:
        ValueError: widths or the image size do not divide as the network needs.
    """

    encoder_width: int
    encoder_depth: int
    encoder_heads: int
    global_attention: tuple[int, ...]
    image_size: int = 1024
    prompt_width: int = 256
    window_size: int = 14

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_attention", tuple(self.global_attention))  # JSON gives a list
        for name, value, step in (
            ("encoder_width", self.encoder_width, self.encoder_heads),
            ("image_size", self.image_size, _PATCH),
            ("prompt_width", self.prompt_width, _DECODER_WIDTH_STEP),
        ):
            if value % step:
                raise ValueError(f"{name} {value} is not a multiple of {step}")


class SamSegmenter(nn.Module):
    """SAM with one mask per prompt.

    Same interface as :class:`~lens_ros.model.sam2.Sam2Segmenter`; ``sam`` is the package's own ``Sam``.
    """

    def __init__(self, sizes: SamSizes) -> None:
        """Build it with random weights.

        Raises:
            ImportError: ``segment-anything`` is not installed.
        """
        super().__init__()
        modeling = _modeling()
        grid, width = sizes.image_size // _PATCH, sizes.prompt_width
        self.sam = modeling.Sam(
            image_encoder=modeling.ImageEncoderViT(
                img_size=sizes.image_size,
                patch_size=_PATCH,
                embed_dim=sizes.encoder_width,
                depth=sizes.encoder_depth,
                num_heads=sizes.encoder_heads,
                out_chans=width,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=sizes.window_size,
                global_attn_indexes=sizes.global_attention,
            ),
            prompt_encoder=modeling.PromptEncoder(
                embed_dim=width,
                image_embedding_size=(grid, grid),
                input_image_size=(sizes.image_size, sizes.image_size),
                mask_in_chans=16,
            ),
            mask_decoder=modeling.MaskDecoder(
                transformer_dim=width,
                transformer=modeling.TwoWayTransformer(
                    depth=2, embedding_dim=width, num_heads=_DECODER_HEADS, mlp_dim=2048
                ),
                num_multimask_outputs=3,
                iou_head_depth=3,
                iou_head_hidden_dim=256,
            ),
        )

    @property
    def prompt_width(self) -> int:
        return self.sam.prompt_encoder.embed_dim

    def encode(self, pixels: torch.Tensor) -> ImageFeatures:
        """Encode normalized, padded pictures ``(B, 3, S, S)``; gradients flow.

        SAM has no skip levels: ``high_resolution`` is empty.
        """
        encoder = self.sam.image_encoder
        return ImageFeatures(encoder(pixels.to(encoder.pos_embed.dtype)), ())

    def box_prompts(self, boxes: torch.Tensor) -> torch.Tensor:
        """Encode boxes ``(B, N, 4)`` float32 as sparse prompts ``(B, N, 2, C)`` float32.

        Boxes are ``x1, y1, x2, y2`` in pixels of the segmenter's picture.
        """
        encoder = self.sam.prompt_encoder
        request = {"points": None, "boxes": boxes.flatten(0, 1), "masks": None}
        tokens, _ = functional_call(encoder, _float32(encoder), kwargs=request)
        return tokens.unflatten(0, boxes.shape[:2])

    def decode(
        self, features: ImageFeatures, prompts: torch.Tensor, previous: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode masks for ``N >= 1`` prompts per image.

        Args:
            features: of ``B`` images.
            prompts: ``(B, N, T, C)``: T sparse tokens per prompt (a box: two).
            previous: ``(B, N, S/4, S/4)`` logits, a mask prompt for each: what the object looked like before.

        Returns:
            logits ``(B, N, S/4, S/4)`` and predicted IoU ``(B, N)``, clamped to 0..1: unlike SAM 2's, the
            head that predicts it is unbounded.
        """
        decoder = self.sam.mask_decoder
        dtype = decoder.iou_token.weight.dtype
        decoded = [  # the package's decoder takes one image and its prompts at a time
            decoder(
                image_embeddings=embedding[None],
                image_pe=self.position_code,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=(
                    self.no_mask_embedding if previous is None else self.embed_masks(previous[image])
                ),
                multimask_output=False,
            )
            for image, (embedding, sparse) in enumerate(
                zip(features.embedding.to(dtype), prompts.to(dtype), strict=True)
            )
        ]
        masks, iou = (torch.stack(parts) for parts in zip(*decoded, strict=True))
        return masks[:, :, 0], iou[:, :, 0].clamp(0, 1)

    @property
    def position_code(self) -> torch.Tensor:
        """Positional encoding of the image embedding's cells, ``(1, C, S/16, S/16)``."""
        encoder = self.sam.prompt_encoder
        code = encoder.pe_layer
        grid = functional_call(code, _float32(code), (encoder.image_embedding_size,))
        return grid[None].to(self.no_mask_embedding.dtype)

    @property
    def no_mask_embedding(self) -> torch.Tensor:
        """Dense prompt for "no mask", ``(1, C, 1, 1)``."""
        decoder, encoder = self.sam.mask_decoder, self.sam.prompt_encoder
        return encoder.no_mask_embed.weight.to(decoder.iou_token.weight.dtype).view(1, -1, 1, 1)

    def embed_masks(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask logits ``(N, S/4, S/4)`` to dense prompts ``(N, C, S/16, S/16)``."""
        scaling = self.sam.prompt_encoder.mask_downscaling
        return scaling(logits.unsqueeze(1).to(next(scaling.parameters()).dtype)).to(
            self.no_mask_embedding.dtype
        )


def sam_sizes(state_dict: Mapping[str, torch.Tensor], source: str = "the state_dict") -> SamSizes:
    """Return the sizes of the SAM whose tensors these are, from their shapes alone.

    A table of relative positions is ``(2 * side - 1, head width)``, where ``side`` is what the block attends
    over: the length distinguishes windows from global blocks, the width gives the number of heads.

    Raises:
        CheckpointError: these are not a SAM's tensors; the message calls them ``source``.
    """
    table = re.compile(r"image_encoder\.blocks\.\d+\.attn\.rel_pos_h")
    depth = sum(1 for name in state_dict if table.fullmatch(name))
    try:
        _, grid, _, width = state_dict["image_encoder.pos_embed"].shape
        prompt_width = state_dict["image_encoder.neck.0.weight"].shape[0]
        tables = [state_dict[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(max(1, depth))]
        sides = [(length + 1) // 2 for length, _ in tables]
        windows = {side for side in sides if side != grid}
        (head_width,) = {head for _, head in tables}
        if len(windows) > 1:
            raise ValueError(f"windows of {sorted(windows)} patches")
        return SamSizes(
            encoder_width=width,
            encoder_depth=depth,
            encoder_heads=width // head_width,
            global_attention=tuple(i for i, side in enumerate(sides) if side == grid),
            image_size=grid * _PATCH,
            prompt_width=prompt_width,
            # Without windows their size means nothing; 14 is that of the released files.
            window_size=windows.pop() if windows else 14,
        )
    except KeyError as error:
        found = ", ".join(list(state_dict)[:3])
        raise _refusal(source, f"no tensor {error} among {len(state_dict)}: {found}, ...") from error
    except (ValueError, ZeroDivisionError, IndexError) as error:
        raise _refusal(source, f"impossible shapes in the image encoder: {error}") from error


def read_sam(path: Path) -> tuple[SamSizes, dict[str, torch.Tensor]]:
    """Read a SAM file, ``.safetensors`` or PyTorch's own (``.pth``), without executing any code in it.

    Returns:
        its sizes, and its tensors: names and shapes are those of ``SamSegmenter(sizes).sam``, the precision
        is the file's.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds anything but a SAM.
        ImportError: ``segment-anything`` is not installed.
    """
    source = str(path)
    if not path.is_file():
        raise _refusal(source, "there is no such file")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; its texts advise to load without weights_only
        size = path.stat().st_size
        reason = f"its {size} bytes are damaged, of another format or Python objects, which are never loaded"
        raise _refusal(source, reason) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise _refusal(source, f"it holds something else than tensors by name: {_contents(tensors)}")
    sizes = sam_sizes(tensors, source)
    with torch.device("meta"):
        expected = {name: t.shape for name, t in SamSegmenter(sizes).sam.state_dict().items()}
    faults = tensor_faults(tensors, expected)
    if faults:
        raise _refusal(source, faults)
    return sizes, tensors


def _contents(found: object) -> str:
    """Describe what a file holds instead of tensors by name, its keys above all."""
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    told = []
    for key, value in found.items():
        if isinstance(value, dict):
            told.append(
                f"{key!r} (a dictionary with the keys {first_few([repr(k) for k in [*value][:3]])}, ...)"
            )
        else:
            told.append(f"{key!r} (a {type(value).__name__})")
    return first_few(told)


def _float32(part: nn.Module) -> dict[str, torch.Tensor]:
    """Return a part's tensors in float32 for ``functional_call``.

    The package computes position codes in float32 and fails when the weights there have another type.
    """
    return {name: tensor.float() for name, tensor in part.state_dict(keep_vars=True).items()}


def _refusal(source: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is not a usable SAM: {reason}. Expected the tensors of segment-anything, as in "
        "sam_vit_b_01ec64.pth (also vit_l, vit_h and other sizes of that network); download the file again "
        "or give the right one."
    )


def _modeling() -> ModuleType:
    """Return ``segment_anything.modeling`` without executing the ``__init__`` of ``segment_anything``.

    That imports torchvision, for parts that are not needed here; and torchvision has no build for every
    torch. So the package's folder is mounted under a name of its own, as a namespace. A real ``import
    segment_anything`` elsewhere in the process works as ever; its classes are separate ones.
    """
    if _PACKAGE not in sys.modules:
        package = find_spec("segment_anything")  # finds, executes nothing
        if package is None or package.submodule_search_locations is None:
            raise ImportError(
                "the decoupled path with SAM needs segment-anything: pip install segment-anything (it does "
                "not need torchvision here), or use a model with SAM 2."
            )
        spec = ModuleSpec(_PACKAGE, None, is_package=True)
        spec.submodule_search_locations = list(package.submodule_search_locations)
        sys.modules[_PACKAGE] = module_from_spec(spec)
    return import_module(f"{_PACKAGE}.modeling")
