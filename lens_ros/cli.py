"""The ``lens`` command: the package without ROS."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TextIO

import cv2
import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.lens import ImageError, InstructionError, Lens, Segmentation, as_rgb
from lens_ros.model.checkpoint import read_tokenizer, save_model
from lens_ros.model.errors import CheckpointError
from lens_ros.model.network import LensModel
from lens_ros.visualization import overlay


def main(arguments: list[str] | None = None) -> int:
    """Runs ``lens``; returns the exit status: 0 found, 1 nothing found, 2 unusable input."""
    parser = argparse.ArgumentParser(prog="lens", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_segment(commands.add_parser("segment", help="find what a text names in a picture"))
    _add_convert_released(
        commands.add_parser("convert-released", help="make a model of a checkpoint of the paper")
    )
    _add_combine(commands.add_parser("combine", help="make a model of any Qwen2.5-VL and a SAM"))
    _add_record_demo(commands.add_parser("record-demo", help="record the demo bag in the simulator"))
    options = parser.parse_args(arguments)
    return options.run(options)


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="a picture (PNG, JPEG, ...)")
    parser.add_argument("text", help="what to look for, such as 'the mug left of the bowl'")
    parser.add_argument("--model", default="lens-nano", help="name or folder (default: lens-nano)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for the pictures (default: out)"
    )
    parser.add_argument("--fast", action="store_true", help="boxes at once, without reasoning in words first")
    parser.set_defaults(run=_segment)


def _segment(options: argparse.Namespace) -> int:
    try:
        rgb = as_rgb(options.image)
        lens = Lens.from_pretrained(options.model, device=options.device)
        think = False if options.fast else None
        answer = lens.segment(rgb, options.text, think=think, on_text=_Stream(sys.stdout).show)
    except (CheckpointError, ImageError, InstructionError) as error:
        print(f"lens segment: {error}", file=sys.stderr)
        return 2
    print()
    stem = options.out / options.image.stem
    pictures = {
        f"{stem}_overlay.png": cv2.cvtColor(overlay(rgb, answer), cv2.COLOR_RGB2BGR),
        f"{stem}_mask.png": answer.mask.astype("uint8") * 255,
    }
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        written = all(cv2.imwrite(path, picture) for path, picture in pictures.items())
    except OSError:
        written = False
    if not written:
        print(f"lens segment: cannot write pictures to {options.out}: choose another --out", file=sys.stderr)
        return 2
    print(_report(answer, list(pictures)))
    return 0 if not answer.reason else 1


def _report(answer: Segmentation, pictures: list[str]) -> str:
    lines = [f"nothing accepted: {answer.reason}"] if answer.reason else []
    for found in answer.instances:
        box = ", ".join(f"{v:.0f}" for v in found.box)
        verdict = f"rejected: {found.rejected}" if found.rejected else f"{int(found.mask.sum())} pixels"
        lines.append(f"{found.label or 'object'}  box [{box}]  score {found.score:.2f}  {verdict}")
    lines.append(f"{answer.reason_ms + answer.decode_ms:.0f} ms, {answer.tokens} tokens")
    return "\n".join([*lines, *pictures])


class _Stream:
    """Prints a growing text as it grows."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._shown = 0

    def show(self, text: str) -> None:
        print(text[self._shown :], end="", file=self._file, flush=True)
        self._shown = max(self._shown, len(text))


def _add_convert_released(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("released", type=Path, help="folder with the authors' config.json and safetensors")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sam2", type=Path, help="SAM 2's own weights, for a stage-1 checkpoint")
    parser.add_argument(
        "--protocol", choices=["refcoco", "reasonseg"], default="refcoco",
        help="how images are resized: refcoco also for GroundingSuite and the demo (default: refcoco)",
    )  # fmt: skip
    parser.add_argument("--think", action="store_true", help="ask for reasoning first (CoT checkpoint)")
    parser.set_defaults(run=_convert_released)


def _convert_released(options: argparse.Namespace) -> int:
    try:
        tokenizer = read_tokenizer(options.released)
        model = LensModel.from_released(options.released, sam2=options.sam2, dtype=torch.bfloat16)
        image = dataclasses.replace(model.config.image, protocol=options.protocol)
        model.config = dataclasses.replace(model.config, image=image, think=options.think)
        return _write_model(model, tokenizer, options.out)
    except CheckpointError as error:
        print(f"lens convert-released: {error}", file=sys.stderr)
        return 2


def _add_combine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reasoner", type=Path, help="folder of a Qwen2.5-VL as published")
    parser.add_argument("sam", type=Path, help="file of a SAM, such as sam_vit_b_01ec64.pth")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.set_defaults(run=_combine)


def _combine(options: argparse.Namespace) -> int:
    from lens_ros.model.decoupled import combine

    try:
        tokenizer = read_tokenizer(options.reasoner)
        model = combine(options.reasoner, options.sam, dtype=torch.bfloat16)
        return _write_model(model, tokenizer, options.out)
    except (CheckpointError, ImportError) as error:
        print(f"lens combine: {error}", file=sys.stderr)
        return 2


def _write_model(model: LensModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> int:
    try:
        save_model(model, tokenizer, out, dtype=torch.bfloat16)
    except OSError as error:
        raise CheckpointError(f"the model cannot be written to {out}: {error}") from error
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {count / 1e6:.0f} M parameters. Try: lens segment PICTURE \"TEXT\" --model {out}")
    return 0


def _add_record_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo/tabletop"), help="folder of the bag")
    parser.add_argument("--seed", type=int, help="of the scene (default: the one that ships)")
    parser.set_defaults(run=_record_demo)


def _record_demo(options: argparse.Namespace) -> int:
    # The simulator needs OpenGL, which segmenting does not: import it only here.
    from lens_ros.simulation import recording

    seed = [] if options.seed is None else ["--seed", str(options.seed)]
    return recording.main(["--out", str(options.out), *seed])


if __name__ == "__main__":
    raise SystemExit(main())
