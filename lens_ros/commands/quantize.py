"""``lens quantize``: quantise a model's language model, and measure what that costs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lens_ros.choices import SCHEMES, Scheme
from lens_ros.deployment.comparison_set import (
    LIST,
    CalibrationError,
    CalibrationQuestion,
    demo_questions,
    read_questions,
)
from lens_ros.inputs import DeviceError
from lens_ros.model.errors import CheckpointError

if TYPE_CHECKING:
    from lens_ros.deployment.quantize import QuantizationReport

MIN_IOU = 0.95


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("model", help="name or folder")
    parser.add_argument("--scheme", choices=SCHEMES, default="int8", help="default: int8")
    parser.add_argument("--out", type=Path, help="another folder, complete by itself (default: MODEL)")
    parser.add_argument(
        "--calibration", type=Path,
        help=f"folder of pictures with {LIST} on which both models are asked, each line such as "
        '{"image": "kitchen.jpg", "text": "the red bottle"} (default: the demo\'s recording, for a model '
        "that was trained on tabletops; otherwise int8 is not measured, and int4 not made)",
    )  # fmt: skip
    parser.add_argument(
        "--min-iou", type=float, default=MIN_IOU, metavar="X",
        help=f"least mean IoU of both models' masks, or nothing is written (default: {MIN_IOU})",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="torch device to ask them on (default: cpu)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Return the exit status.

    0: written, 1: refused by the calibration set, 2: unusable input.
    """
    from lens_ros.deployment.quantize import QuantizationRefused, quantize_model
    from lens_ros.model.checkpoint import find_model

    try:
        if not 0 <= options.min_iou <= 1:
            raise CalibrationError(f"--min-iou is {options.min_iou:g}; expected 0 to 1")
        folder = find_model(options.model)
        questions = calibration_questions(options.calibration, folder, [options.scheme])
        report = quantize_model(
            folder,
            options.scheme,
            out=options.out,
            questions=questions,
            min_iou=options.min_iou if questions else None,
            device=options.device,
            progress=lambda items, what, count: tqdm(items, what, total=count, file=sys.stderr),
        )
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            numbers = dataclasses.asdict(report) | {"file": str(report.file)}
            options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    except QuantizationRefused as refusal:
        print(f"lens quantize: {refusal}", file=sys.stderr)
        return 1
    except (CheckpointError, CalibrationError, DeviceError, OSError) as error:
        print(f"lens quantize: {error}", file=sys.stderr)
        return 2
    print(_told(report))
    return 0


def calibration_questions(
    calibration: Path | None, folder: Path, schemes: Collection[Scheme]
) -> list[CalibrationQuestion]:
    """Return the questions of the folder ``calibration``, or the demo's for a model of tabletops, or none.

    Raises:
        CalibrationError: an unusable folder, or int4 without questions.
    """
    if calibration is not None:
        return read_questions(calibration)
    from lens_ros.model.checkpoint import read_config

    if read_config(folder).wording == "tabletop":
        return demo_questions()
    if "int4" in schemes:
        raise CalibrationError(
            "int4 is kept only where its masks were held against those of the full model: name a folder of "
            f"pictures with {LIST}, --calibration DIR (see lens quantize --help)"
        )
    return []


def _told(report: QuantizationReport) -> str:
    megabytes = partial("{:.1f} MB".format)
    lines = [
        f"{report.file}: {megabytes(report.file_bytes / 1e6)}, of {megabytes(report.full_bytes / 1e6)}; the "
        f"{report.layers} layers in it {megabytes(report.layer_bytes / 1e6)}, of "
        f"{megabytes(report.full_layer_bytes / 1e6)}"
    ]
    found = report.agreement
    if found is None:
        lines.append("not compared with the full model: name a folder of pictures, --calibration, to do so")
    else:
        lines.append(
            f"masks against the full model's on {found.questions} questions: mean IoU {found.mean_iou:.4f}, "
            f"worst {found.worst_iou:.4f}; the very same words in {100 * found.same_answer:.0f} %"
        )
    model = report.file.parent
    lines.append(f'Try: lens segment PICTURE "TEXT" --model {model} --quantization {report.scheme}')
    return "\n".join(lines)
