"""Run on a GPU in ten minutes what was only built or derived so far, and compare it with forecasts.

    python benchmarks/gpu_check.py --out out/gpu_check                 # a data-centre GPU, 16 cores, 128 GiB
    python benchmarks/gpu_check.py --parts decode-bf16 decode-int8     # some parts
    python benchmarks/gpu_check.py --device cpu --tiny                 # the same code, small, without a GPU

Needs what requirements/ lists with a CUDA build of torch (``LENS_TORCH=cuda make setup``), no ROS and no
network. ``tensorrt`` is optional (``pip install tensorrt``), as are torchao and tensorrt_rtx. What is
missing is reported and skipped.

Parts: the machine; the segmenter's engines (lens-nano, and SAM 2-L with random weights) against torch;
decoding at the 3B's size in bf16 and int8; the first mask against the reference's flow; steps of each
training stage, of lens-nano by the real programs and at the 3B's size; lens-nano's training throughput on the
GPU and on one CPU thread. Each part has a separate process and time limit (:mod:`benchmarks.gpu.runner`); the
limits add up to less than ten minutes. After every part ``gpu_check.json`` and ``gpu_check.txt`` are
rewritten. ``gpu_check.log`` holds the output of the parts. Forecasts: :mod:`benchmarks.gpu.forecast`.

Exporting SAM 2-L may take longer than the time limit of its part. With ``--engines FOLDER`` exported models
and engines are kept, and ``--parts engines-sam2-large`` continues from there.

Exit status: 0 if every part reported, even if only that something is not possible here; 1 if one failed, was
killed or ran out of time; 2 if there is no GPU to run on.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, Python looks for modules in this file's folder only
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu.report import LOG, table, write
from benchmarks.gpu.runner import Part, Result, run_parts

_PRELOAD = tuple(f"benchmarks.gpu.{name}" for name in ("engines", "machine", "reasoner", "training"))


def parts_of(device: str, tiny: bool, folder: Path | None) -> list[Part]:
    """Return all parts; engines are kept in ``folder``.

    The limits of the real sizes add up to less than ten minutes. Tiny parts get four times as long, because
    they may run on a busy machine.
    """
    if tiny:
        sizes: dict[str, dict[str, Any]] = {
            "decode": {"tokens": 8},
            "mask": {"tokens": 4, "instructions": (1,), "repeats": 1},
            "stages": {"images": 2, "steps": 2, "tokens": 8},
            "large": {"group": 2, "tokens": 8},
            "gpu": {"images": 2, "steps": 2},
            "cpu": {"images": 2, "steps": 2},
        }
    else:
        sizes = {
            "decode": {"tokens": 60},
            "mask": {"tokens": 40, "instructions": (1, 3), "repeats": 3},
            "stages": {"images": 8, "steps": 6, "tokens": 80},
            "large": {"group": 8, "tokens": 60},
            "gpu": {"images": 16, "steps": 20},
            "cpu": {"images": 16, "steps": 3},
        }
    keep, size = {"folder": folder}, {"tiny": tiny}

    def part(name: str, function: str, limit_s: float, arguments: dict[str, Any], on: str = device) -> Part:
        return Part(name, f"benchmarks.gpu.{function}", limit_s, on, arguments)

    parts = [
        part("machine", "machine:machine", 30, {}),
        part("engines-lens-nano", "engines:shipped_engines", 50, keep),
        part("decode-bf16", "reasoner:decoding", 85, {"numbers": "bf16", **size, **sizes["decode"]}),
        part("decode-int8", "reasoner:decoding", 85, {"numbers": "int8", **size, **sizes["decode"]}),
        part("first-mask", "reasoner:first_mask", 50, {**size, **sizes["mask"]}),
        part("train-lens-nano", "training:stages", 40, sizes["stages"]),
        part("train-3b", "training:large_steps", 40, {**size, **sizes["large"]}),
        part("throughput", "training:throughput", 25, sizes["gpu"]),
        part("throughput-cpu", "training:throughput", 30, sizes["cpu"], on="cpu"),
        part("engines-sam2-large", "engines:large_engines", 135, {**size, **keep}),
    ]
    return [replace(each, limit_s=4 * each.limit_s) for each in parts] if tiny else parts


def main(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: shows that everything runs")
    parser.add_argument("--parts", nargs="+", help="run only these")
    parser.add_argument(
        "--engines", type=Path, help="folder to keep engines in (default: one that is removed)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/gpu_check"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.tiny:
        parser.error("the real sizes take hours on a CPU: add --tiny")
    parts = parts_of(options.device, options.tiny, options.engines and options.engines.resolve())
    if options.parts:
        known = [part.name for part in parts]
        if unknown := set(options.parts) - set(known):
            parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        parts = [part for part in parts if part.name in options.parts]
    if options.device == "cuda" and (trouble := no_gpu()):
        print(f"gpu_check: {trouble}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / LOG).unlink(missing_ok=True)
    settings = {"device": options.device, "tiny": options.tiny}

    def finished(results: list[Result]) -> None:
        write(options.out, settings, results)

    results = run_parts(parts, options.out / LOG, finished, _PRELOAD)
    print(table(results))
    print(f"written to {options.out}")
    return 0 if all(result.status == "reported" for result in results) else 1


def no_gpu() -> str:
    """Return why torch cannot use a GPU here and what to do, or "" if it can."""
    import torch

    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA. Install a CUDA build (LENS_TORCH=cuda make "
            "setup), or use --device cpu --tiny"
        )
    return (
        f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU. Check that nvidia-smi lists one "
        "and that its driver is new enough, or use --device cpu --tiny"
    )


if __name__ == "__main__":
    raise SystemExit(main())
