"""Measure the time from an image and its instructions to their masks: ours against the reference's flow.

    python -m benchmarks.first_mask                  # on the CPU: a mid-size model and lens-nano
    python -m benchmarks.first_mask --device cuda    # with a GPU: also the 3B's size, random bf16 weights

The reference (the paper's code) generates the answers, with a separate copy of the image for every
instruction. Then it reads everything again from the pixels: vision tower, language model with all hidden
states and the language head at every position, SAM's encoder per instruction. Here its flow is reproduced
with the same modules and weights as our model, in the same process. The two flows take turns and must give
the same masks. Both write the same number of tokens. Prints a table; exit status 1 if the masks differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers.initialization import no_init_weights

from benchmarks.timing import seconds
from lens_ros.model.checkpoint import find_model, load_model, load_tensors, without_tied_head
from lens_ros.model.config import ContextConfig, ImageConfig, LensConfig
from lens_ros.model.images import reasoner_inputs, segmenter_inputs, visual_grid
from lens_ros.model.network import LensModel, View
from lens_ros.model.positions import counted_positions, padded_mrope_positions

PROMPT_TOKENS = 60  # tokens around the image: the paper's system turn, question and markers
IMAGE_SIZE = (728, 1288)  # height, width of the reasoner's picture: 1196 visual tokens, a 16:9 camera
INSTRUCTIONS = (1, 3, 8)
IMAGE_TOKEN = 1  # id of the placeholder in the random models


def scaled(divisor: int, name: str) -> LensConfig:
    """Return the released 3B's configuration with its widths and depths divided.

    So the parts keep their proportions. The vocabulary is divided by the square, because the head's cost must
    shrink like a layer's cost times the number of layers.
    """
    text = {
        "vocab_size": 151936 // divisor**2,
        "hidden_size": 2048 // divisor,
        "intermediate_size": 11008 // divisor,
        "num_hidden_layers": 36 // divisor,
        "num_attention_heads": 16 // divisor,
        "num_key_value_heads": max(1, 2 // divisor),
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    depth = 32 // divisor
    vision = {
        "depth": depth,
        "hidden_size": 1280 // divisor,
        "intermediate_size": 3420 // divisor,
        "num_heads": 16 // divisor,
        "out_hidden_size": 2048 // divisor,
        "window_size": 112,
        "fullatt_block_indexes": [layer for layer in range(depth) if layer % 8 == 7],
    }
    width = 144 // divisor
    widths = [width, 2 * width, 4 * width, 8 * width]
    depths = [2, 6, 36, 4] if divisor == 1 else [1, 2, 36 // divisor, 1]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [2, 4, 8, 16] if divisor == 1 else [1, 1, 2, 4],
        "blocks_per_stage": depths,
        "global_attention_blocks": [23, 33, 43] if divisor == 1 else [8],
        "window_size_per_stage": [8, 4, 16, 8],
        "window_positional_embedding_background_size": [7, 7],
    }
    return LensConfig(
        reasoner={
            "tie_word_embeddings": True,
            "image_token_id": IMAGE_TOKEN,
            "text_config": text,
            "vision_config": vision,
        },
        segmenter={"vision_config": {"backbone_config": backbone, "backbone_channel_list": widths[::-1]}},
        image=ImageConfig(protocol="refcoco", segmenter_size=1024),
        context=ContextConfig(num_queries=64, depth=4, num_heads=16),
        query_positions="sequential",
        wording="paper",
        name=name,
    )


def random_model(config: LensConfig, device: str, dtype: torch.dtype) -> LensModel:
    """Return a model with random weights at a scale that keeps activations finite; deterministic."""
    with no_init_weights(), torch.device(device):
        model = LensModel(config)
    generator = torch.Generator(device).manual_seed(0)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            scale = 0.7 * tensor[0].numel() ** -0.5
            random = torch.randn(tensor.shape, generator=generator, device=device, dtype=dtype)
            tensors[name] = random * scale
        else:
            value = 0.0 if name.endswith("bias") else 1.0
            tensors[name] = torch.full(tensor.shape, value, device=device, dtype=dtype)
    load_tensors(model, without_tied_head(tensors, model), "the benchmark", dtype=dtype)
    return model.eval()


class Scene:
    """An image and instructions of random tokens, as input for both flows."""

    def __init__(self, model: LensModel, instructions: int, device: str) -> None:
        generator = torch.Generator().manual_seed(1)
        image = model.config.image
        side = image.reasoner_size
        height, width = (side, side) if image.protocol == "square" else IMAGE_SIZE
        shape = (1, height, width, 3)
        self.reasoner_rgb = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)
        square = (1, image.segmenter_size, image.segmenter_size, 3)
        self.segmenter_rgb = torch.randint(0, 256, square, generator=generator, dtype=torch.uint8).to(device)
        self.grid = visual_grid(height, width)
        token = model.reasoner.config.image_token_id
        vocabulary = model.reasoner.config.text_config.vocab_size
        words = torch.randint(token + 1, vocabulary, (instructions, PROMPT_TOKENS), generator=generator)
        opening = PROMPT_TOKENS // 4
        count = self.grid[0] * self.grid[1]
        self.prefix = torch.cat([words[0, :opening], torch.full((count,), token)]).to(device)
        self.questions = list(words[:, opening:].to(device))


@torch.inference_mode()
def ours(model: LensModel, scene: Scene, tokens: int) -> torch.Tensor:
    """Return mask logits ``(B, s, s)`` by our flow."""
    view: View = model.look(scene.reasoner_rgb, scene.segmenter_rgb, scene.prefix)
    thoughts = model.reason(view, scene.questions, end_token=-1, pad_token=-1, max_new_tokens=tokens)
    prompts = torch.stack([thought.prompt for thought in thoughts if thought.prompt is not None], dim=1)
    return model.decode(view.features, prompts)[0][0]


@torch.inference_mode()
def reference(model: LensModel, scene: Scene, tokens: int) -> torch.Tensor:
    """Return mask logits ``(B, s, s)`` by the reference's flow."""
    batch = len(scene.questions)
    pixels, grid = reasoner_inputs(scene.reasoner_rgb, model.config.image)
    pixels, grids = pixels.to(model.dtype).repeat(batch, 1), grid.repeat(batch, 1)
    prompt = torch.stack([torch.cat([scene.prefix, question]) for question in scene.questions])
    token = model.reasoner.config.image_token_id
    ids = model.reasoner.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        pixel_values=pixels,
        image_grid_thw=grids,
        mm_token_type_ids=(prompt == token).long(),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    visual = model.reasoner.model.visual(pixels, grid_thw=grids).pooler_output
    context = model.context_module()
    asked = context.learnable_query.expand(batch, -1, -1)
    mask = torch.ones(batch, ids.shape[1] + asked.shape[1], dtype=torch.int64, device=ids.device)
    if model.config.query_positions == "sequential":
        positions = counted_positions(mask)
    else:
        text, following = padded_mrope_positions(ids, torch.ones_like(ids), token, [scene.grid] * batch)
        tail = following[:, None] + torch.arange(asked.shape[1], device=ids.device)
        positions = torch.cat([text, tail.expand(3, -1, -1)], dim=2)
    read = model.language_model(
        inputs_embeds=torch.cat([model.embed(ids, visual), asked], dim=1),
        attention_mask=mask,
        position_ids=positions,
        output_hidden_states=True,
    )
    model.reasoner.lm_head(read.last_hidden_state)  # computed by the reference, never used
    prompts = context(read.last_hidden_state[:, -asked.shape[1] :])
    pictures = segmenter_inputs(scene.segmenter_rgb, model.config.image).repeat(batch, 1, 1, 1)
    features = model.segmenter.encode(pictures.to(model.dtype))
    rows = []
    for row in range(batch):
        one = type(features)(
            features.embedding[row : row + 1],
            tuple(level[row : row + 1] for level in features.high_resolution),
        )
        rows.append(model.decode(one, prompts[row : row + 1])[0][0])
    return torch.cat(rows)


def compare(model: LensModel, instructions: int, tokens: int, repeats: int, device: str) -> dict:
    """Return one row of the table."""
    scene = Scene(model, instructions, device)
    flows = {"reference": reference, "ours": ours}
    row: dict[str, Any] = {"model": model.config.name, "device": device}
    row |= {"instructions": instructions, "tokens": tokens}
    masks = {}
    for name, flow in flows.items():  # the first run is warm-up and counts the operations
        with FlopCounterMode(display=False) as counter:
            masks[name] = flow(model, scene, tokens).float()
        row[f"{name}_tflop"] = counter.get_total_flops() / 1e12
    difference = (masks["reference"] - masks["ours"]).abs().max() / masks["reference"].abs().max()
    agreement = ((masks["reference"] > 0) == (masks["ours"] > 0)).float().mean()
    times: dict[str, list[float]] = {name: [] for name in flows}
    for _ in range(repeats):
        for name, flow in flows.items():
            times[name].append(seconds(partial(flow, model, scene, tokens), device))
    for name in flows:
        row[f"{name}_s"] = statistics.median(times[name])
    row["ratio"] = row["reference_s"] / row["ours_s"]
    row["relative_difference"] = difference.item()
    row["sign_agreement"] = agreement.item()
    return row


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", choices=["mid", "lens-nano", "3b"], help="default: what fits")
    parser.add_argument("--tokens", type=int, default=40, help="that each answer has")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    chosen = options.models or ["mid", "lens-nano", *(["3b"] if options.device == "cuda" else [])]
    rows = []
    for name in chosen:
        if name == "lens-nano":
            model = load_model(find_model(name))[0].to(options.device)
        elif name == "mid":
            model = random_model(scaled(4, "mid-size"), options.device, torch.float32)
        else:
            model = random_model(scaled(1, "3B"), options.device, torch.bfloat16)
        for count in tqdm(INSTRUCTIONS, desc=name, file=sys.stderr):
            rows.append(compare(model, count, options.tokens, options.repeats, options.device))
        del model
    _print(rows)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    # bf16 rounds differently in differently shaped batches, so its differences are informative only.
    exact = [row for row in rows if row["model"] != "3B"]
    return 0 if all(row["relative_difference"] < 1e-3 for row in exact) else 1


def _print(rows: list[dict]) -> None:
    print("model     device instructions   reference       ours    ratio           GFLOP      same masks")
    for row in rows:
        print(
            f"{row['model']:9s} {row['device']:6s} {row['instructions']:12d} "
            f"{row['reference_s']:9.3f} s {row['ours_s']:8.3f} s {row['ratio']:7.2f}x "
            f"{1e3 * row['reference_tflop']:8.1f} -> {1e3 * row['ours_tflop']:7.1f} "
            f"{100 * row['sign_agreement']:11.2f} %"
        )


if __name__ == "__main__":
    raise SystemExit(main())
