"""``lens combine``: make a model from any Qwen2.5-VL and a SAM."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lens_ros.commands.convert_released import write_model
from lens_ros.model.errors import CheckpointError


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("reasoner", type=Path, help="folder of a Qwen2.5-VL as published")
    parser.add_argument("sam", type=Path, help="file of a SAM, such as sam_vit_b_01ec64.pth")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status: 0 done, 2 not possible."""
    import torch

    from lens_ros.model.box_prompted import combine
    from lens_ros.model.checkpoint import read_tokenizer
    from lens_ros.model.sam import read_sam

    try:
        read_sam(options.sam)  # before anything of the reasoner; `combine` reads it again, in seconds
        tokenizer = read_tokenizer(options.reasoner)
        model = combine(options.reasoner, options.sam, dtype=torch.bfloat16)
        return write_model(model, tokenizer, options.out)
    except (CheckpointError, ImportError) as error:
        print(f"lens combine: {error}", file=sys.stderr)
        return 2
