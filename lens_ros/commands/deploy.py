"""``lens deploy``: write a trained model into a folder for a robot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lens_ros.choices import PRECISIONS, SCHEMES
from lens_ros.commands.build_engine import Terminal
from lens_ros.commands.quantize import MIN_IOU, calibration_questions
from lens_ros.deployment.comparison_set import CalibrationError
from lens_ros.engine.errors import EngineError
from lens_ros.model.errors import CheckpointError


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name or folder of a model, or folder of a training run")
    parser.add_argument("out", type=Path, nargs="?", help="folder to make")
    parser.add_argument(
        "--quantize", nargs="*", choices=SCHEMES, default=["int8"], help="schemes (default: int8)"
    )
    parser.add_argument(
        "--onnx", nargs="*", choices=PRECISIONS, default=["fp32", "fp16"], help="default: fp32 fp16"
    )
    parser.add_argument("--calibration", type=Path, help="as for lens quantize")
    parser.add_argument("--min-iou", type=float, default=MIN_IOU, help=f"default: {MIN_IOU}")
    parser.add_argument("--verify", action="store_true", help="check a deployed folder instead")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status: 0 done, 1 refused or damaged, 2 not possible."""
    from lens_ros.deployment.deploy import deploy, verify
    from lens_ros.deployment.quantize import QuantizationRefused
    from lens_ros.model.checkpoint import find_model

    try:
        if options.verify:
            faults = verify(Path(options.model))
            print("\n".join(faults) if faults else f"{options.model}: every file is as it was deployed")
            return 1 if faults else 0
        if options.out is None:
            raise EngineError("name the folder to make: lens deploy MODEL OUT")
        terminal = Terminal()
        out = deploy(
            find_model(options.model),
            options.out,
            terminal,
            schemes=options.quantize,
            precisions=options.onnx,
            questions=lambda folder: calibration_questions(options.calibration, folder, options.quantize),
            min_iou=options.min_iou,
        )
        terminal.close()
    except QuantizationRefused as refusal:
        print(f"lens deploy: {refusal}", file=sys.stderr)
        return 1
    except (CheckpointError, EngineError, CalibrationError) as error:
        print(f"lens deploy: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f'{out}: {size / 1e6:.1f} MB. Try: lens segment PICTURE "TEXT" --model {out}')
    return 0
