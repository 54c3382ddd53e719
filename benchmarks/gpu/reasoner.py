"""Measure the language model at the 3B's size with random weights: decoding, and the first mask."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.decode import Prompt, model_of
from benchmarks.first_mask import Scene, compare, ours, random_model, reference
from benchmarks.gpu.forecast import Kind, Work, count
from benchmarks.gpu.runner import Report
from benchmarks.gpu.sizes import model_config
from benchmarks.grpo_step import resident
from lens_ros.choices import Decoding
from lens_ros.model.checkpoint import without_tied_head
from lens_ros.model.errors import CheckpointError
from lens_ros.model.network import LensModel
from lens_ros.model.quantized import import_torchao, linear_weights

_GRAPH_OPERATIONS = 25  # dispatched by generate() for each token around a replayed graph


def decoding(report: Report, *, numbers: str, tiny: bool, tokens: int) -> None:
    """Write an answer with each decoding method and compare tokens, tokens per second and memory.

    Args:
        report: Receives the results.
        numbers: Format of the language model's weights, "bf16" or "int8".
        tiny: Use the small model.
        tokens: Length of the answer.
    """
    device = report.device
    if numbers == "int8":
        try:
            import_torchao()
        except CheckpointError as error:
            report.note(f"int8: not possible here: {error}")
            return
    config = model_config(tiny)
    ways: tuple[Decoding, ...] = ("dynamic", "static") if tiny else ("dynamic", "static", "compiled")
    born = random_model(config, device, torch.bfloat16)
    stored = without_tied_head(born.state_dict(), born)
    del born
    model, layers = model_of(config, stored, numbers, device)
    del stored
    held = _memory(device)
    prompt = Prompt(model, device)
    head = model.language_model.embed_tokens.weight.nbytes
    plain = prompt.write("dynamic", tokens)[0]
    step = _step(prompt, "half", 1e6 * layers + head)
    # Uncompiled, int8 weights are unpacked for every product: 16 bits per weight are written and read again.
    unpacked = replace(step, read=step.read + 4e6 * layers) if numbers == "int8" else step
    for way in ways:
        report.say(f"{numbers} {way}")
        _reset(device)
        try:
            ids = prompt.write(way, tokens)[0]
            spent = statistics.median(prompt.write(way, tokens)[1] for _ in range(3))
        except Exception as error:  # CUDA, compiler or memory; the other methods may work
            report.failure(f"{numbers} {way}: {type(error).__name__}: {str(error)[:300]}")
            continue
        graphed = device == "cuda" and way in ("static", "compiled")
        work = step if way == "compiled" else unpacked
        if graphed:
            work = replace(work, operations=_GRAPH_OPERATIONS)
        report.rate(f"{numbers} {way}", 1 / spent, "tokens/s", work)
        same = sum(a == b for a, b in zip(plain, ids, strict=True)) / len(plain)
        why = "the growing cache gives the same tokens, but where two are nearly equal in 16 bits"
        report.number(f"{numbers} {way}, same tokens", same, "", 1.0, why)
        why = "weights as loaded, and 10 % for cache and activations"
        report.number(f"{numbers} {way}, peak memory", _peak(device) / 1e9, "GB", 1.1 * held / 1e9, why)
    if tiny:
        report.note("compiled: left out in the tiny run, whose compiler would take longer than all the rest")


def _step(prompt: Prompt, kind: Kind, read: float) -> Work:
    """Return the work of one token on the growing cache."""
    few, more = (count(partial(prompt.write, "dynamic", n), kind) for n in (2, 6))
    return replace(more.less(few).times(1 / 4), read=read)


def first_mask(report: Report, *, tiny: bool, tokens: int, instructions: Sequence[int], repeats: int) -> None:
    """Time an image's first masks, by our flow and by the reference's.

    Args:
        report: Receives the results.
        tiny: Use the small model.
        tokens: Length of each answer.
        instructions: Numbers of instructions about one image.
        repeats: Number of timed runs.
    """
    device = report.device
    model = random_model(model_config(tiny), device, torch.bfloat16)
    read = tokens * language_bytes(model)
    for asked in instructions:
        report.say(f"{asked} instructions")
        row = compare(model, asked, tokens, repeats, device)
        scene = Scene(model, asked, device)
        for name, flow in (("ours", ours), ("reference", reference)):
            work = count(partial(flow, model, scene, tokens), "half", read)
            report.seconds(f"{name}, {asked} instructions, {tokens} tokens", row[f"{name}_s"], work)
        why = "the same weights; bf16 rounds differently in differently shaped batches"
        report.number(f"{asked} instructions, equal mask pixels", row["sign_agreement"], "", 1.0, why)


def language_bytes(model: LensModel) -> float:
    """Return the bytes of weights that one generated token reads."""
    weights = sum(model.get_parameter(name).nbytes for name in linear_weights(model))
    return weights + model.language_model.embed_tokens.weight.nbytes


def _memory(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else resident("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")


def _reset(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
