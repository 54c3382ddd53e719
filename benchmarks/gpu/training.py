"""Measure one step of every training stage, and lens-nano's training throughput."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.first_mask import random_model
from benchmarks.gpu.forecast import Counting, Work, count, wait
from benchmarks.gpu.runner import Report
from benchmarks.gpu.scenes import draw_shard
from benchmarks.gpu.sizes import model_config
from benchmarks.grpo_step import Task as Completed
from benchmarks.grpo_step import ours, resident, started_from, task_for
from lens_ros.model.network import LensModel
from training.align import Alignment
from training.config import AlignConfig, ReinforceConfig, RunConfig, SuperviseConfig
from training.data.batches import BatchMaker
from training.data.tabletop import TabletopShards
from training.loop import Turn, train
from training.losses import segmentation_loss
from training.nano import build_nano
from training.parts import Part, freeze_all_but
from training.policy import Policy
from training.reinforce import Reinforce
from training.supervise import Supervision, part_of

_SCENES = 16
_ALIGNED: tuple[Part, ...] = ("context",)  # trained in stage 1 of the paper
# A backward pass takes twice the work of the forward pass.
_WITH_BACKWARD = 3.0


def stages(report: Report, *, images: int, steps: int, tokens: int) -> None:
    """Train lens-nano for a few steps with each program's own task and loop.

    Args:
        report: Receives the results.
        images: Images per step.
        steps: Number of steps.
        tokens: Largest number of tokens of a completion in reinforcement.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw_shard(folder / "data", _SCENES)

        def common(name: str) -> dict[str, Any]:
            return _common(folder, name, steps)

        supervise = _supervision(folder, "supervise", images, steps)
        align = AlignConfig(**common("align"), images=images)
        reinforce = ReinforceConfig(**common("reinforce"), prompts=images, group=4, max_new_tokens=tokens)
        for name, kind, config in (
            ("supervise", Supervision, supervise),
            ("align", Alignment, align),
            ("reinforce", Reinforce, reinforce),
        ):
            report.say(f"{name}: {steps} steps of {images} images")
            spent, work = _trained(kind, config)
            report.seconds(f"lens-nano, {name}, a step of {images} images", spent, work)


def throughput(report: Report, *, images: int, steps: int) -> None:
    """Report lens-nano's supervised examples per second; on a CPU with one process of one thread."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw_shard(folder / "data", _SCENES)
        config = _supervision(folder, "throughput", images, steps)
        host = _batch_seconds(config)
        spent, work = _trained(Supervision, config)
    examples = images * config.expressions
    work = replace(work, host=host)
    name = "GPU" if report.device == "cuda" else "CPU, one thread"
    report.rate(f"steps, {name}", 1 / spent, "steps/s", work)
    forecast = examples / report.ceilings.seconds(work)
    report.number(f"examples, {name}", examples / spent, "examples/s", forecast, report.ceilings.reason(work))
    why = "time of making the batch alone, over the forecast of the step"
    share = host / report.ceilings.seconds(work)
    report.number("share of the step that makes the batch", host / spent, "", share, why)


def large_steps(report: Report, *, tiny: bool, group: int, tokens: int) -> None:
    """Take one step of alignment and one of reinforcement, with random bf16 weights.

    Args:
        report: Receives the results.
        tiny: Use the small model.
        group: Completions of the prompt.
        tokens: Length of the longest completion.
    """
    device = report.device
    base = 0 if device == "cuda" else resident("VmRSS")
    model = _large(tiny, device)
    task = task_for(model, 1, tokens, device)
    size = sum(p.nbytes for p in model.parameters())
    freeze_all_but(model, _ALIGNED)
    _large_step("align", model, lambda: _align(model, task), size, base, report)
    del model
    model = _large(tiny, device)
    other, task = started_from(model), task_for(model, group, tokens, device)
    _large_step("reinforce", model, lambda: ours(model, other, task), 2 * size, base, report)


def _large(tiny: bool, device: str) -> LensModel:
    config = dataclasses.replace(model_config(tiny), query_positions="mrope")
    model = random_model(config, device, torch.bfloat16)
    model.segmenter.sam.vision_encoder.requires_grad_(False)
    return model.train()


def _align(model: LensModel, task: Completed) -> torch.Tensor:
    judged = Policy(model)(task.completions)
    loss = segmentation_loss(judged.masks[:, 0], task.target[None]).mean()
    loss.backward()
    return loss.detach()


def _large_step(
    name: str, model: LensModel, run: Callable[[], torch.Tensor], held: float, base: float, report: Report
) -> None:
    """Run ``run``, which leaves gradients, and an optimiser step, and report time and memory.

    Args:
        name: Name of the step.
        model: The model.
        run: Computes loss and gradients.
        held: Bytes of the models.
        base: Bytes used before they were loaded.
        report: Receives the results.
    """
    report.say(f"3B, {name}")
    work = count(run, "half")  # libraries allocate their workspace, and the work is counted
    trained = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    grown = 3 * sum(p.nbytes for p in trained)  # gradients and AdamW's two moments
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    optimizer.zero_grad()
    if report.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wait(report.device)
    started = time.perf_counter()
    loss = run()
    optimizer.step()
    value = float(loss)
    wait(report.device)
    spent = time.perf_counter() - started
    if not math.isfinite(value):
        report.failure(f"3B, {name}: the loss is {value}")
    report.note(f"3B, {name}: loss {value:.4g}")
    # Weights are read forward and backward; AdamW reads and writes weight, gradient and moments.
    report.seconds(f"3B, {name}, a step", spent, replace(work, read=2 * held + 7 / 3 * grown))
    peak = torch.cuda.max_memory_allocated() if report.device == "cuda" else resident("VmHWM")
    why = "weights (with the reference policy's), gradients and moments in bf16, and 20 % for activations"
    report.number(f"3B, {name}, peak memory", peak / 1e9, "GB", (base + 1.2 * (held + grown)) / 1e9, why)


def _common(folder: Path, name: str, steps: int) -> dict[str, Any]:
    return {
        "data": str(folder / "data"),
        "out": str(folder / name),
        "scenes": _SCENES,
        "start_from": "lens-nano",
        "steps": steps,
        "warmup": 1,
        "checkpoint_every": steps,
        "evaluate_every": steps,
        "log_every": 1,
        "validation_expressions": 0,
        "processes": 1,
    }


def _supervision(folder: Path, name: str, images: int, steps: int) -> SuperviseConfig:
    return SuperviseConfig(
        **_common(folder, name, steps),
        images=images,
        segmenter_images=min(4, images),
        language_from=0,
        full_from=0,
        unknown_from=0,
    )


def _trained(kind: Any, config: RunConfig) -> tuple[float, Work]:
    """Train the task class ``kind``; return the median seconds of a step after the first, and its work.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    counted = Counting()

    class Counted(kind):
        def loss(self, wrapped: nn.Module, turn: Turn) -> Any:
            if turn.step > 0:
                return super().loss(wrapped, turn)
            with counted:
                return super().loss(wrapped, turn)

    train(Counted, config)
    lines = (Path(config.out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(text) for text in lines]
    losses = [row["loss"] for row in rows]
    if len(rows) != config.steps or not all(map(math.isfinite, losses)):
        raise FloatingPointError(f"the losses of {config.steps} steps are {losses}")
    spent = statistics.median(row["step_time"] for row in rows[1:])
    return spent, counted.work("half").times(_WITH_BACKWARD)


def _batch_seconds(config: SuperviseConfig) -> float:
    """Measure the median seconds of making a step's batch, which the training process does itself."""
    model, tokenizer = build_nano(config.seed)
    maker = BatchMaker(TabletopShards(Path(config.data)), config.scenes, model, tokenizer)
    spent = []
    for step in range(3):
        started = time.perf_counter()
        maker.batch(config.seed, step, 0, part_of(step, config).plan)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)
