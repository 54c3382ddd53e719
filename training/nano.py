"""Configuration and construction of lens-nano: an untrained model with its tokenizer."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model.checkpoint import load_model, load_tensors, without_tied_head
from lens_ros.model.config import ContextConfig, ImageConfig, LensConfig
from lens_ros.model.network import LensModel
from lens_ros.model.prompts import END, IMAGE
from lens_ros.model.subjects import Subjects
from lens_ros.model.tokenizer import NUMBERS, build_tokenizer
from lens_ros.simulation import phrases
from lens_ros.simulation.expressions import vocabulary

VISION_LAYERS, VISION_WIDTH, VISION_HEADS = 4, 128, 4
LANGUAGE_LAYERS, LANGUAGE_WIDTH, LANGUAGE_HEADS, KEY_HEADS = 4, 192, 4, 2
PROMPT_WIDTH = 64  # width of the segmenter
_EMBEDDING = "reasoner.model.language_model.embed_tokens.weight"


def build_nano(seed: int) -> tuple[LensModel, PreTrainedTokenizerFast]:
    """Return an untrained lens-nano in float32, deterministic by ``seed``."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(vocabulary())
    model = LensModel(nano_config(tokenizer))
    model.segmenter.initialize_from_scratch()
    _smooth_numbers(model, tokenizer)
    return model, tokenizer


def nano_config(tokenizer: PreTrainedTokenizerFast) -> LensConfig:
    """Return the paper's architecture at a thousandth of its size."""
    image = ImageConfig(position_code=True)
    head = LANGUAGE_WIDTH // LANGUAGE_HEADS
    token = tokenizer.convert_tokens_to_ids
    reasoner = {
        "tie_word_embeddings": True,
        "image_token_id": token(IMAGE),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "text_config": {
            "vocab_size": len(tokenizer),
            "hidden_size": LANGUAGE_WIDTH,
            "intermediate_size": 512,
            "num_hidden_layers": LANGUAGE_LAYERS,
            "num_attention_heads": LANGUAGE_HEADS,
            "num_key_value_heads": KEY_HEADS,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head // 6] * 3,
            },
            "bos_token_id": None,
            "eos_token_id": token(END),
            "pad_token_id": tokenizer.pad_token_id,
        },
        "vision_config": {
            "depth": VISION_LAYERS,
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 3 * VISION_WIDTH,
            "num_heads": VISION_HEADS,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": image.reasoner_size,
            "fullatt_block_indexes": list(range(VISION_LAYERS)),
            "out_hidden_size": LANGUAGE_WIDTH,
        },
    }
    size = image.segmenter_size
    segmenter = {
        "vision_config": {
            "fpn_hidden_size": PROMPT_WIDTH,
            "backbone_feature_sizes": [[size // stride] * 2 for stride in (4, 8, 16)],
            # Sam2Model builds its Hiera before ConvPyramid replaces it: keep it small.
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "blocks_per_stage": [1, 1, 1, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 1, 1],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
        },
        "prompt_encoder_config": {"hidden_size": PROMPT_WIDTH, "image_size": size, "patch_size": 16},
        "mask_decoder_config": {
            "hidden_size": PROMPT_WIDTH,
            "mlp_dim": 2 * PROMPT_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": PROMPT_WIDTH,
        },
    }
    return LensConfig(
        reasoner=reasoner,
        segmenter=segmenter,
        image_encoder="conv",
        image=image,
        context=ContextConfig(num_queries=8, depth=2, num_heads=4),
        query_positions="mrope",
        speck_share=0.1,
        subjects=Subjects(phrases.object_nouns(), phrases.OTHER_NOUNS, phrases.requests()),
        name="lens-nano",
    )


@torch.no_grad()
def inherit(model: LensModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Copy the weights of the model in ``folder`` into ``model``, which may know more words.

    Embeddings are copied by word. A word that the model in ``folder`` does not know keeps its initial
    embedding.

    Raises:
        CheckpointError: The folder is incomplete or damaged, or holds another architecture.
    """
    parent, its_tokenizer = load_model(folder)
    tensors = without_tied_head(parent.state_dict(), parent)
    table = model.state_dict()[_EMBEDDING].clone()
    if table.shape[1] == tensors[_EMBEDDING].shape[1]:
        known = its_tokenizer.get_vocab()
        for word, index in tokenizer.get_vocab().items():
            if word in known:
                table[index] = tensors[_EMBEDDING][known[word]]
        tensors[_EMBEDDING] = table
    load_tensors(model, tensors, source=str(folder))


def number_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Return the id of the token "0" and how many consecutive numbers start there."""
    return tokenizer.convert_tokens_to_ids("0"), NUMBERS


@torch.no_grad()
def _smooth_numbers(model: LensModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Initialise the number tokens as Fourier features, so that neighbouring numbers are similar."""
    first, count = number_tokens(tokenizer)
    table = model.language_model.embed_tokens.weight
    width = table.shape[1]
    frequency = torch.exp(torch.linspace(math.log(0.012), math.log(0.5), width // 2))
    angle = torch.arange(count)[:, None] * frequency
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    order = torch.randperm(width)
    table[first : first + count] = (waves / waves.std() * 0.02)[:, order]
