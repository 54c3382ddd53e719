"""Measure tokens per second of the language model, by number format and decoding method.

    python -m benchmarks.decode                               # on the CPU: a mid-size model and lens-nano
    python -m benchmarks.decode --device cuda --models 3b     # with a GPU: the 3B's size, random weights

All combinations take turns to write one greedy answer to one instruction; the prompt has been read before.
With random weights the answer has a fixed number of tokens; lens-nano answers a question about the demo's
table. The result is the time per token relative to fp32 with the growing cache in the same run. Compilation
is not included. int8 and int4 compute in fp32 on a CPU, in bf16 on a GPU. "same" is the share of tokens equal
to those of the growing cache; bf16 tokens may differ where two are nearly equal. "passes" counts passes of
the language model per token: fewer where prompt lookup guessed right. Random weights repeat themselves, which
makes that easy. Prints a table; exit status 1 if the tokens of fp32 differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers.initialization import no_init_weights

from benchmarks.first_mask import Scene, random_model, scaled
from lens_ros.choices import SCHEMES, Decoding
from lens_ros.deployment.comparison_set import demo_questions
from lens_ros.deployment.quantize import quantized_weight
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import (
    find_model,
    load_quantized_tensors,
    load_tensors,
    read_config,
    read_tokenizer,
    read_weights,
    without_tied_head,
)
from lens_ros.model.config import LensConfig
from lens_ros.model.generation import Continuation, generate
from lens_ros.model.network import LensModel
from lens_ros.model.prompt_lookup import LookupDecoder
from lens_ros.model.prompts import question
from lens_ros.model.quantized import import_torchao, linear_weights, place
from lens_ros.model.static_decoding import StaticDecoders

DECODINGS: tuple[Decoding, ...] = ("dynamic", "static", "compiled", "lookup")
NUMBERS = ("fp32", "bf16", *SCHEMES)


class Prompt:
    """A prompt that has been read, from which answers can be written any number of times."""

    def __init__(self, model: LensModel, device: str) -> None:
        if model.config.name == "lens-nano":
            tokenizer, asked = read_tokenizer(find_model("lens-nano")), demo_questions()[0]
            self.view = Lens(model, tokenizer).look(asked.rgb).view
            ids = tokenizer.encode(question(asked.text), add_special_tokens=False)
            self.question = torch.tensor(ids, device=device)
            self.end_token = tokenizer.eos_token_id
        else:
            scene = Scene(model, 1, device)
            self.view = model.look(scene.reasoner_rgb, scene.segmenter_rgb, scene.prefix)
            self.question = scene.questions[0]
            self.end_token = -1  # never generated
        self.decoders = StaticDecoders(model.language_model, model.reasoner.lm_head)
        self.table, self.head = model.language_model.embed_tokens, model.reasoner.lm_head

    @torch.inference_mode()
    def write(self, decoding: Decoding, tokens: int) -> tuple[list[int], float, float]:
        """Write an answer; return its token ids, seconds per token and passes per token."""
        reading = self.view.reading("mrope").fork(1)
        logits = self.head(reading.read(self.table(self.question[None]))[:, -1])
        decoder = None
        if decoding in ("static", "compiled"):
            decoder = self.decoders.get(1, reading.length + tokens, compiled=decoding == "compiled")
        _wait(logits)
        started = time.perf_counter()
        if decoding == "lookup":
            lookup = LookupDecoder(reading, logits, self.question.tolist(), self.table, self.head)
            ids = [lookup.take()[0]]
            while ids[-1] != self.end_token and len(ids) < tokens:
                ids.append(lookup.take()[0])
            passes = lookup.passes
        else:
            said: Continuation = generate(
                reading,
                logits,
                embed=self.table,
                head=self.head,
                end_token=self.end_token,
                pad_token=-1,
                max_new_tokens=tokens,
                decoder=decoder,
            )
            ids = said.token_ids[0].tolist()
            passes = len(ids) - 1
        _wait(logits)
        return ids, (time.perf_counter() - started) / len(ids), passes / len(ids)


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def model_of(
    config: LensConfig, stored: dict[str, torch.Tensor], numbers: str, device: str
) -> tuple[LensModel, float]:
    """Return the model with its language model in ``numbers``, and the size of its Linear layers in MB."""
    dtype = torch.bfloat16 if numbers == "bf16" or (numbers != "fp32" and device == "cuda") else torch.float32
    with no_init_weights():  # all weights are replaced
        model = LensModel(config)
    names = linear_weights(model)
    if numbers in SCHEMES:
        tensors = {name: tensor for name, tensor in stored.items() if name not in names}
        for name in names:
            tensors |= quantized_weight(name, stored[name], numbers)  # type: ignore[arg-type]
        load_quantized_tensors(model, tensors, numbers, "the benchmark", dtype=dtype)  # type: ignore[arg-type]
        size = _megabytes({n: t for n, t in tensors.items() if n.rsplit(".", 1)[0] in names})
    else:
        load_tensors(model, stored, "the benchmark", dtype=dtype)
        size = _megabytes({name: stored[name].to(dtype) for name in names})
    return place(model.eval(), device), size


def _megabytes(tensors: dict[str, torch.Tensor]) -> float:
    return sum(tensor.nbytes for tensor in tensors.values()) / 1e6


def compare(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of a model. The repetitions take turns, so that a busy moment affects all alike."""
    config, stored = weights_of(name, options.device)
    rows, prompts = [], {}
    for numbers in options.numbers:
        model, size = model_of(config, stored, numbers, options.device)
        prompts[numbers] = Prompt(model, options.device)
        rows += [
            {"model": config.name, "numbers": numbers, "decoding": d, "layers_mb": size}
            for d in options.decodings
        ]
    del stored
    spent: dict[tuple[str, str], list[float]] = {(r["numbers"], r["decoding"]): [] for r in rows}
    for row in tqdm(rows, f"{config.name}: first answers", file=sys.stderr):
        plain = prompts[row["numbers"]].write("dynamic", options.tokens)[0]
        started = time.perf_counter()
        ids, _, row["passes"] = prompts[row["numbers"]].write(row["decoding"], options.tokens)
        row["first_s"] = time.perf_counter() - started
        row["same"] = sum(a == b for a, b in zip(plain, ids, strict=False)) / max(len(plain), len(ids))
    for _ in tqdm(range(options.repeats), f"{config.name}: repetitions", file=sys.stderr):
        for numbers, decoding in spent:
            seconds = prompts[numbers].write(decoding, options.tokens)[1]  # type: ignore[arg-type]
            spent[numbers, decoding].append(seconds)
    for row in rows:
        row["ms_per_token"] = 1e3 * statistics.median(spent[row["numbers"], row["decoding"]])
        row["tokens_per_second"] = 1e3 / row["ms_per_token"]
        row["ratio"] = rows[0]["ms_per_token"] / row["ms_per_token"]
        row["device"], row["threads"], row["tokens"] = options.device, torch.get_num_threads(), options.tokens
    return rows


def weights_of(name: str, device: str) -> tuple[LensConfig, dict[str, torch.Tensor]]:
    """Return a configuration and its weights: lens-nano's on the CPU, random ones on ``device``."""
    if name == "lens-nano":
        return read_config(find_model(name)), read_weights(find_model(name))
    config = scaled(1, "3B") if name == "3b" else scaled(4, "mid-size")
    model = random_model(config, device, torch.bfloat16 if name == "3b" else torch.float32)
    return config, without_tied_head(model.state_dict(), model)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--models", nargs="+", choices=["mid", "lens-nano", "3b"], default=["mid", "lens-nano"]
    )
    parser.add_argument("--numbers", nargs="+", choices=NUMBERS, default=list(NUMBERS))
    parser.add_argument("--decodings", nargs="+", choices=DECODINGS, default=list(DECODINGS))
    parser.add_argument("--tokens", type=int, default=60, help="of the answer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    import_torchao()
    rows = [row for name in options.models for row in compare(name, options)]
    _print(rows)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    # For the other formats the share is informative only.
    exact = [row for row in rows if row["numbers"] == "fp32"]
    return 0 if all(row["same"] == 1 for row in exact) else 1


def _print(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(f"{first['device']}, {first['threads']} threads, at most {first['tokens']} tokens")
    print("model      numbers  layers MB  decoding   ms/token  tokens/s    ratio   same  passes first answer")
    for row in rows:
        print(
            f"{row['model']:10s} {row['numbers']:7s} {row['layers_mb']:10.1f}  {row['decoding']:9s}"
            f"{row['ms_per_token']:10.2f} {row['tokens_per_second']:9.1f} {row['ratio']:7.2f}x"
            f"{row['same']:7.2f} {row['passes']:7.2f} {row['first_s']:11.1f} s"
        )


if __name__ == "__main__":
    raise SystemExit(main())
