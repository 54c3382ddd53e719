"""``lens segment``: segment what a text names in a picture, without ROS."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lens_ros.choices import BACKEND_CHOICES, DECODINGS, QUANTIZATIONS
from lens_ros.model.errors import CheckpointError
from lens_ros.system.memory import importing

if TYPE_CHECKING:
    from lens_ros.segmentation import Segmentation


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("image", type=Path, help="a picture (PNG, JPEG, ...); white where transparent")
    parser.add_argument("text", help="what to look for, such as 'the bowl to the right of the white mug'")
    parser.add_argument("--model", default="lens-nano", help="name or folder (default: lens-nano)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--backend", choices=BACKEND_CHOICES, default="auto", help="what runs the segmenter (default: auto)"
    )
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS, default="none",
        help="of the language model, made by lens quantize (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--decoding", choices=DECODINGS, default="dynamic", help="how answers are written (default: dynamic)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for the pictures (default: out)"
    )
    parser.add_argument("--fast", action="store_true", help="boxes at once, without reasoning in words first")
    parser.add_argument(
        "--score-threshold", type=float, metavar="0..1",
        help="objects that score below this are rejected (default: the model's own; 0: none for its score)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status: 0 found, 1 nothing found, 2 unusable input."""
    threshold = options.score_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        print(f"lens segment: --score-threshold is {threshold:g}; expected 0 to 1", file=sys.stderr)
        return 2
    # Otherwise waiting threads of the model keep a core busy. Where other programs want that core, an answer
    # takes ten times as long (docs/results/start_up.md). torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from lens_ros.inputs import (
        DeviceError,
        ImageError,
        InstructionError,
        as_rgb,
        check_device,
        check_instruction,
        printable,
    )

    try:
        rgb = as_rgb(options.image)
        check_instruction(options.text)
        with importing():  # after the checks, which need no model
            check_device(options.device)
            from PIL import Image

            from lens_ros.lens import Lens
            from lens_ros.visualization import overlay
        lens = Lens.from_pretrained(
            options.model,
            device=options.device,
            quantization=options.quantization,
            backend=options.backend,
            decoding=options.decoding,
        )
        think = False if options.fast else None
        answer = lens.segment(
            rgb, options.text, think=think, on_text=_Stream(sys.stdout).show, score_threshold=threshold
        )
    except (CheckpointError, DeviceError, ImageError, InstructionError) as error:
        print(f"lens segment: {error}", file=sys.stderr)
        return 2
    print()
    stem = options.image.stem
    pictures = {
        options.out / f"{stem}_overlay.png": overlay(rgb, answer),
        options.out / f"{stem}_mask.png": answer.mask.astype("uint8") * 255,
    }
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for path, picture in pictures.items():
            Image.fromarray(picture).save(path)
    except OSError:
        print(f"lens segment: cannot write pictures to {options.out}: choose another --out", file=sys.stderr)
        return 2
    print(_report(answer, [printable(path) for path in pictures]))
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
    """Prints only the new part of a growing text."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._shown = 0

    def show(self, text: str) -> None:
        print(text[self._shown :], end="", file=self._file, flush=True)
        self._shown = max(self._shown, len(text))
