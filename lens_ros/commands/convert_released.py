"""``lens convert-released``: make a model from a checkpoint of the paper."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lens_ros.model.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from lens_ros.model.network import LensModel


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("released", type=Path, help="folder with the authors' config.json and safetensors")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sam2", type=Path, help="SAM 2's own weights, for a stage-1 checkpoint")
    parser.add_argument(
        "--protocol", choices=["refcoco", "reasonseg"], default="refcoco",
        help="how images are resized: refcoco also for GroundingSuite and the demo (default: refcoco)",
    )  # fmt: skip
    parser.add_argument("--think", action="store_true", help="ask for reasoning first (CoT checkpoint)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status: 0 done, 2 not possible."""
    import torch

    from lens_ros.model.checkpoint import read_tokenizer
    from lens_ros.model.released import load_released

    try:
        tokenizer = read_tokenizer(options.released)
        model = load_released(options.released, sam2=options.sam2, dtype=torch.bfloat16)
        image = dataclasses.replace(model.config.image, protocol=options.protocol)
        model.config = dataclasses.replace(model.config, image=image, think=options.think)
        return write_model(model, tokenizer, options.out)
    except CheckpointError as error:
        print(f"lens convert-released: {error}", file=sys.stderr)
        return 2


def write_model(model: LensModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> int:
    """Save a model in 16 bits and print how to try it; return the exit status.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    import torch

    from lens_ros.model.checkpoint import save_model

    try:
        save_model(model, tokenizer, out, dtype=torch.bfloat16)
    except OSError as error:
        raise CheckpointError(f"the model cannot be written to {out}: {error}") from error
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f'{out}: {count / 1e6:.0f} M parameters. Try: lens segment PICTURE "TEXT" --model {out}')
    return 0
