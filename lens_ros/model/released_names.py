"""Map the tensor names of released LENS checkpoints to ours, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from lens_ros.model.network import LensModel

# Names, by how they begin: the reference's, ours. The first line that fits counts, ``*`` is a number. The
# table is read in both directions, so that messages can name tensors as the file does.
_NAMES = (
    ("visual.", "reasoner.model.visual."),
    ("model.", "reasoner.model.language_model."),
    ("learnable_query", "context.learnable_query"),
    ("connector.", "context.connector."),
    ("conv_1d.", "context.conv_1d."),
    ("proj_to_sam.", "context.proj_to_sam."),
)
_SAM_NAMES = (  # after "sam." and "segmenter.sam."
    ("no_mem_embed", "no_memory_embedding"),
    ("image_encoder.trunk.patch_embed.proj.", "vision_encoder.backbone.patch_embed.projection."),
    ("image_encoder.trunk.blocks.*.norm1.", "vision_encoder.backbone.blocks.*.layer_norm1."),
    ("image_encoder.trunk.blocks.*.norm2.", "vision_encoder.backbone.blocks.*.layer_norm2."),
    ("image_encoder.trunk.blocks.*.mlp.layers.0.", "vision_encoder.backbone.blocks.*.mlp.proj_in."),
    ("image_encoder.trunk.blocks.*.mlp.layers.1.", "vision_encoder.backbone.blocks.*.mlp.proj_out."),
    ("image_encoder.trunk.", "vision_encoder.backbone."),
    ("image_encoder.neck.convs.*.conv.", "vision_encoder.neck.convs.*."),
    (
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    ("sam_prompt_encoder.not_a_point_embed.", "prompt_encoder.not_a_point_embed."),
    ("sam_prompt_encoder.no_mask_embed.", "prompt_encoder.no_mask_embed."),
    ("sam_prompt_encoder.mask_downscaling.0.", "prompt_encoder.mask_embed.conv1."),
    ("sam_prompt_encoder.mask_downscaling.1.", "prompt_encoder.mask_embed.layer_norm1."),
    ("sam_prompt_encoder.mask_downscaling.3.", "prompt_encoder.mask_embed.conv2."),
    ("sam_prompt_encoder.mask_downscaling.4.", "prompt_encoder.mask_embed.layer_norm2."),
    ("sam_prompt_encoder.mask_downscaling.6.", "prompt_encoder.mask_embed.conv3."),
    ("sam_mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("sam_mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("sam_mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    *(
        (f"sam_mask_decoder.{head}.layers.{theirs}.", f"mask_decoder.{head}.{ours}.")
        for head in ("output_hypernetworks_mlps.*", "iou_prediction_head", "pred_obj_score_head")
        for theirs, ours in ((0, "proj_in"), (1, "layers.0"), (2, "proj_out"))
    ),
    *(
        (f"sam_mask_decoder.transformer.{part}.out_proj.", f"mask_decoder.transformer.{part}.o_proj.")
        for part in (
            "layers.*.self_attn",
            "layers.*.cross_attn_token_to_image",
            "layers.*.cross_attn_image_to_token",
            "final_attn_token_to_image",
        )
    ),
    *(
        (f"sam_mask_decoder.transformer.layers.*.{theirs}.", f"mask_decoder.transformer.layers.*.{ours}.")
        for theirs, ours in (
            ("norm1", "layer_norm1"),
            ("norm2", "layer_norm2"),
            ("norm3", "layer_norm3"),
            ("norm4", "layer_norm4"),
            ("mlp.layers.0", "mlp.proj_in"),
            ("mlp.layers.1", "mlp.proj_out"),
        )
    ),
    ("sam_mask_decoder.transformer.norm_final_attn.", "mask_decoder.transformer.layer_norm_final_attn."),
    ("sam_mask_decoder.", "mask_decoder."),
)

# Four rows there, one table here; and one matrix there that has two places here.
POINT_ROWS = tuple(f"sam.sam_prompt_encoder.point_embeddings.{row}.weight" for row in range(4))
_POINT_TABLE = "segmenter.sam.prompt_encoder.point_embed.weight"
_PROMPT_CODE = "segmenter.sam.prompt_encoder.shared_embedding.positional_embedding"
_IMAGE_CODE = "segmenter.sam.shared_image_embedding.positional_embedding"
# The embedding is the language head, too.
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
OUR_HEAD, OUR_EMBEDDING = "reasoner.lm_head.weight", "reasoner.model.language_model.embed_tokens.weight"

# SAM 2's memory and object pointers, which one image without a past does not need: exactly these.
UNUSED = re.compile(
    r"sam\.(no_mem_pos_enc|no_obj_ptr|maskmem_tpos_enc"
    r"|(mask_downsample|obj_ptr_proj\.layers\.[012])\.(weight|bias)"
    r"|memory_attention\.(norm|layers\.[0-3]\.(norm[123]|linear[12]"
    r"|(self_attn|cross_attn_image)\.(q|k|v|out)_proj))\.(weight|bias)"
    r"|memory_encoder\.(fuser\.layers\.[01]\.gamma"
    r"|(pix_feat_proj|out_proj|mask_downsampler\.encoder\.(0|1|3|4|6|7|9|10|12)"
    r"|fuser\.layers\.[01]\.(dwconv|norm|pwconv1|pwconv2))\.(weight|bias)))"
)


def map_released(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a released checkpoint's tensors to those of ``LensModel.state_dict()``.

    The language head, which is the embedding, is left out. SAM 2's four point embeddings become one table,
    and its matrix of random waves, the code of positions, fills both of its places. What belongs to SAM 2's
    memory is left out. A name that the reference does not have keeps, as far as possible, its form, and a
    strict load reports it. Works on any device, ``meta`` included.

    Raises:
        RuntimeError: the point embeddings differ in shape.
    """
    mapped = {_renamed(name, _OURS): t for name, t in tensors.items() if not UNUSED.fullmatch(name)}
    if all(row in mapped for row in POINT_ROWS):
        mapped[_POINT_TABLE] = torch.cat([mapped.pop(row) for row in POINT_ROWS])
    if _PROMPT_CODE in mapped:
        mapped[_IMAGE_CODE] = mapped[_PROMPT_CODE].clone()  # two buffers: they must not share memory
    return mapped


def _patterns(table: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(re.escape(a).replace(r"\*", r"(\d+)")), b.replace("*", r"\1")) for a, b in table]


_TABLE = _NAMES + tuple((f"sam.{theirs}", f"segmenter.sam.{ours}") for theirs, ours in _SAM_NAMES)
_OURS = _patterns(_TABLE)
_THEIRS = _patterns(tuple((ours, theirs) for theirs, ours in _TABLE))


def _renamed(name: str, patterns: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in patterns:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    return name


def file_shapes(model: LensModel) -> dict[str, torch.Size]:
    """Return names and shapes of the tensors that a released file must hold for ``model``."""
    wanted: dict[str, torch.Size] = {}
    for name, tensor in model.state_dict().items():
        if name == _POINT_TABLE:
            wanted |= {row: tensor[:1].shape for row in POINT_ROWS}
        elif name not in (_IMAGE_CODE, OUR_HEAD):
            wanted[_renamed(name, _THEIRS)] = tensor.shape
    return wanted
