"""Measure time and memory of one GRPO step: ours against the reference's flow, with the same weights.

    python -m benchmarks.grpo_step                  # on the CPU: a mid-size model and lens-nano
    python -m benchmarks.grpo_step --device cuda    # the same with a GPU

A step consists of the reference policy's log-probabilities, the policy's forward pass (log-probabilities and
masks of G completions of one prompt) and its backward pass. Sampling the completions and the optimiser are
common to both flows and are left out. The reference (the paper's code) gives every completion a separate copy
of the image and of the prompt, in the policy and in the reference policy. Its language head is computed at
all positions, hidden states of all layers are kept, and SAM's encoder runs per copy. Our flow is
:mod:`training.policy`. As in the paper everything is trained but SAM's image encoder.

The reference's flow is reproduced with the same modules and weights as our model, in the same process. The
two flows take turns and must give the same loss and the same gradients. Peak memory is that of a step beyond
the loaded models. On the CPU it is measured in separate processes, one per flow (Linux). Prints a table; exit
status 1 if loss or gradients differ.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.first_mask import PROMPT_TOKENS, random_model, scaled
from benchmarks.timing import seconds
from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.images import reasoner_inputs, segmenter_inputs, visual_grid
from lens_ros.model.network import LensModel
from lens_ros.model.positions import padded_mrope_positions
from lens_ros.model.sam2 import ImageFeatures
from training.policy import Completions, Policy

CAMERA = (476, 644)  # height, width of the reasoner's picture of a 640x480 camera: 391 visual tokens
MODELS = ["mid-size", "lens-nano"]
BETA = 0.04  # weight of the KL term
TOLERANCE = 1e-4  # for loss and gradients, relative to the loss and to the largest gradient


@dataclass(frozen=True)
class Task:
    """Completions of one prompt, their advantages, and the target mask."""

    completions: Completions
    advantages: torch.Tensor  # (G,)
    target: torch.Tensor  # (s/4, s/4)


def trained_model(name: str, device: str) -> LensModel:
    """Return the model of a row, in training mode, with SAM's image encoder frozen."""
    if name == "lens-nano":
        model = load_model(find_model(name))[0].float().to(device)
    else:
        config = dataclasses.replace(scaled(4, name), query_positions="mrope")
        model = random_model(config, device, torch.float32)
    model.segmenter.sam.vision_encoder.requires_grad_(False)
    return model.train()


def started_from(model: LensModel) -> LensModel:
    """Return a frozen reference policy: a slightly perturbed copy of the model, so that the KL is not 0."""
    other = copy.deepcopy(model).requires_grad_(False)
    generator = torch.Generator(model.device).manual_seed(2)
    with torch.no_grad():
        for parameter in other.language_model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
            parameter.add_(noise * 0.02 * parameter.std(correction=0))
    return other


def task_for(model: LensModel, group: int, tokens: int, device: str) -> Task:
    """Return a task with a noise image, random prompts and completions of different lengths."""
    generator = torch.Generator().manual_seed(1)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    image = model.config.image
    side, segmenter_side = image.reasoner_size, image.segmenter_size
    height, width = (side, side) if image.protocol == "square" else CAMERA
    rows, cols = visual_grid(height, width)
    token = model.reasoner.config.image_token_id
    vocabulary = model.reasoner.config.text_config.vocab_size
    opening = PROMPT_TOKENS // 4
    words = draw(token + 1, vocabulary, PROMPT_TOKENS)
    prompt = torch.cat([words[:opening], torch.full((rows * cols,), token), words[opening:]])[None]
    lengths = torch.linspace(tokens, tokens // 2, group).long()
    mask = (torch.arange(tokens) < lengths[:, None]).long()[None]
    completions = Completions(
        draw(0, 256, 1, height, width, 3).to(torch.uint8).to(device),
        draw(0, 256, 1, segmenter_side, segmenter_side, 3).to(torch.uint8).to(device),
        prompt.to(device),
        torch.ones_like(prompt).to(device),
        draw(token + 1, vocabulary, 1, group, tokens).to(device),
        mask.to(device),
    )
    target = torch.zeros(segmenter_side // 4, segmenter_side // 4, device=device)
    target[: segmenter_side // 12, : segmenter_side // 12] = 1
    return Task(completions, torch.linspace(-1.5, 1.5, group, device=device), target)


def objective(
    task: Task, log_probs: torch.Tensor, reference: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Return GRPO loss with k3 KL plus BCE of the masks.

    The GRPO loss is the mean over the tokens of each completion and over completions.

    Args:
        task: The task.
        log_probs: ``(G, T)``, 0 at padding.
        reference: Log-probabilities of the reference policy, ``(G, T)``, 0 at padding.
        masks: Logits, ``(G, s/4, s/4)``.
    """
    ratio = (log_probs - log_probs.detach()).exp()
    apart = reference - log_probs
    per_token = BETA * (apart.exp() - apart - 1) - ratio * task.advantages[:, None]
    mask = task.completions.completion_mask[0]
    language = ((per_token * mask).sum(1) / mask.sum(1)).mean()
    return language + F.binary_cross_entropy_with_logits(masks, task.target.expand_as(masks))


def ours(model: LensModel, other: LensModel, task: Task) -> torch.Tensor:
    """Take a step with :class:`~training.policy.Policy`; return the loss, leave gradients in the model."""
    with torch.no_grad():
        reference = Policy(other)(task.completions, with_masks=False).log_probs[0]
    judged = Policy(model)(task.completions)
    assert judged.masks is not None
    loss = objective(task, judged.log_probs[0], reference, judged.masks[0])
    loss.backward()
    return loss.detach()


def theirs(model: LensModel, other: LensModel, task: Task) -> torch.Tensor:
    """Take the same step by the reference's flow."""
    with torch.no_grad():
        reference, _ = _copies_read(other, task.completions, with_queries=False)
    log_probs, queries = _copies_read(model, task.completions, with_queries=True)
    prompts = model.context_module()(queries)
    pictures = segmenter_inputs(task.completions.segmenter_images, model.config.image)
    features = model.segmenter.encode(pictures.repeat(len(prompts), 1, 1, 1))
    masks = []
    for row in range(len(prompts)):
        one = ImageFeatures(
            features.embedding[row : row + 1],
            tuple(level[row : row + 1] for level in features.high_resolution),
        )
        masks.append(model.decode(one, prompts[row : row + 1])[0][0])
    loss = objective(task, log_probs, reference, torch.cat(masks))
    loss.backward()
    return loss.detach()


def _copies_read(
    model: LensModel, completions: Completions, *, with_queries: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read all completions, each with separate copies of image and prompt.

    Returns:
        Log-probabilities ``(G, T)`` and the queries' hidden states.
    """
    group, prompt = completions.group, completions.prompt_ids.shape[1]
    ids = torch.cat([completions.prompt_ids.expand(group, -1), completions.completion_ids[0]], dim=1)
    mask = torch.cat([completions.prompt_mask.expand(group, -1), completions.completion_mask[0]], dim=1)
    pixels, grid = reasoner_inputs(completions.reasoner_images, model.config.image)
    visual = model.reasoner.model.visual(pixels.repeat(group, 1), grid_thw=grid.repeat(group, 1))
    embedded = model.embed(ids, visual.pooler_output)
    token = model.reasoner.config.image_token_id
    size = completions.reasoner_images.shape[1:3]
    positions, following = padded_mrope_positions(ids, mask, token, [visual_grid(*size)] * group)
    count = 0
    if with_queries:
        asked = model.context_module().learnable_query.expand(group, -1, -1)
        count = asked.shape[1]
        embedded = torch.cat([embedded, asked], dim=1)
        mask = torch.cat([mask, mask.new_ones(group, count)], dim=1)
        tail = following[:, None] + torch.arange(count, device=ids.device)
        positions = torch.cat([positions, tail.expand(3, -1, -1)], dim=2)
    read = model.language_model(
        inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False,
        output_hidden_states=True,
    )  # fmt: skip
    hidden = read.last_hidden_state
    logits = model.reasoner.lm_head(hidden)[:, : ids.shape[1] - 1]
    rows = [  # row by row, as the reference does to save memory
        row.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        for row, chosen in zip(logits, ids[:, 1:], strict=True)
    ]
    log_probs = torch.stack(rows)[:, prompt - 1 :] * completions.completion_mask[0]
    return log_probs, hidden[:, hidden.shape[1] - count :]


FLOWS: dict[str, Callable[[LensModel, LensModel, Task], torch.Tensor]] = {"reference": theirs, "ours": ours}


def gradients(model: LensModel) -> dict[str, torch.Tensor]:
    """Take the gradients out of the model. Parameters without a gradient are left out."""
    taken = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


def peak_memory(flow: str, name: str, group: int, tokens: int, device: str) -> int:
    """Return the bytes that a step by ``flow`` needs beyond the models.

    On the CPU the result is valid only in a new process.
    """
    model = trained_model(name, device)
    other, task = started_from(model), task_for(model, group, tokens, device)
    if device == "cuda":
        FLOWS[flow](model, other, task)  # libraries allocate their workspace
        model.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        FLOWS[flow](model, other, task)
        return torch.cuda.max_memory_allocated() - before
    before = resident("VmRSS")
    FLOWS[flow](model, other, task)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Return this process's memory in bytes: now (``VmRSS``) or the peak so far (``VmHWM``).

    Unlike the peak from getrusage, ``VmHWM`` does not include the parent's memory.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def memory_of(flow: str, *settings: Any) -> int:
    """Return :func:`peak_memory`, measured in a separate process on the CPU."""
    if settings[-1] == "cuda":
        return peak_memory(flow, *settings)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(peak_memory, flow, *settings).result()


def compare(name: str, group: int, tokens: int, repeats: int, device: str) -> dict[str, Any]:
    """Return one row of the table."""
    row: dict[str, Any] = {"model": name, "device": device, "group": group, "tokens": tokens}
    for flow in FLOWS:
        row[f"{flow}_peak_bytes"] = memory_of(flow, name, group, tokens, device)
    model = trained_model(name, device)
    other, task = started_from(model), task_for(model, group, tokens, device)
    row["prompt_tokens"] = task.completions.prompt_ids.shape[1]
    found = {}
    for flow, step in FLOWS.items():  # the first run is warm-up and counts the operations
        with FlopCounterMode(display=False) as counter:
            row[f"{flow}_loss"] = step(model, other, task).item()
        row[f"{flow}_tflop"] = counter.get_total_flops() / 1e12
        found[flow] = gradients(model)
    row |= _differences(row, *found.values())
    times: dict[str, list[float]] = {flow: [] for flow in FLOWS}
    for _ in range(repeats):
        for flow, step in FLOWS.items():
            times[flow].append(seconds(partial(step, model, other, task), device))
            model.zero_grad(set_to_none=True)
    for flow in FLOWS:
        row[f"{flow}_s"] = statistics.median(times[flow])
    row["ratio"] = row["reference_s"] / row["ours_s"]
    return row


def _differences(
    row: dict[str, Any], expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]
) -> dict[str, Any]:
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    # Masks that are dropped in training mode are not part of our graph. In the reference their gradient is
    # zero.
    missing = [name for name, gradient in expected.items() if name not in got and bool(gradient.any())]
    apart = max((got[name] - expected[name]).abs().max().item() for name in got)
    return {
        "loss_difference": abs(row["ours_loss"] - row["reference_loss"]) / abs(row["reference_loss"]),
        "gradient_difference": apart / largest,
        "missing_gradients": missing,
    }


def agrees(row: dict[str, Any]) -> bool:
    """Return whether loss and gradients of a row's flows are equal up to rounding."""
    close = row["loss_difference"] < TOLERANCE and row["gradient_difference"] < TOLERANCE
    return close and not row["missing_gradients"]


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--group", type=int, default=8, help="completions of the prompt")
    parser.add_argument("--tokens", type=int, default=60, help="of the longest completion")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    rows = []
    for name in tqdm(options.models, file=sys.stderr):
        rows.append(compare(name, options.group, options.tokens, options.repeats, options.device))
    _print(rows)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(agrees(row) for row in rows) else 1


def _print(rows: list[dict[str, Any]]) -> None:
    head = "model     device  G   tokens  reference     ours   ratio         GFLOP       peak MB"
    print(head, "  loss, gradients apart")
    for row in rows:
        print(
            f"{row['model']:9s} {row['device']:6s} {row['group']:2d} "
            f"{row['prompt_tokens']:4d}+{row['tokens']:<3d} "
            f"{row['reference_s']:8.2f} s {row['ours_s']:6.2f} s {row['ratio']:6.2f}x "
            f"{1e3 * row['reference_tflop']:6.0f} ->{1e3 * row['ours_tflop']:5.0f} "
            f"{row['reference_peak_bytes'] / 1e6:6.0f} ->{row['ours_peak_bytes'] / 1e6:5.0f} "
            f"{row['loss_difference']:9.0e} {row['gradient_difference']:9.0e}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
