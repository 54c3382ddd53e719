"""The ``lens`` command: the package without ROS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TextIO

import cv2

from lens_ros.lens import ImageError, InstructionError, Lens, Segmentation, as_rgb
from lens_ros.model.checkpoint import CheckpointError
from lens_ros.visualization import overlay


def main(arguments: list[str] | None = None) -> int:
    """Runs ``lens``; returns the exit status: 0 found, 1 nothing found, 2 unusable input."""
    parser = argparse.ArgumentParser(prog="lens", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_segment(commands.add_parser("segment", help="find what a text names in a picture"))
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
    parser.set_defaults(run=_segment)


def _segment(options: argparse.Namespace) -> int:
    try:
        rgb = as_rgb(options.image)
        lens = Lens.from_pretrained(options.model, device=options.device)
        answer = lens.segment(rgb, options.text, on_text=_Stream(sys.stdout).show)
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
