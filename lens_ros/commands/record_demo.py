"""``lens record-demo``: record the demo bag in the simulator."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("demo/tabletop"), help="folder of the bag")
    parser.add_argument("--seed", type=int, help="of the scene (default: the one that ships)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    # Needs OpenGL, which its help does not.
    from lens_ros.simulation import recording

    seed = [] if options.seed is None else ["--seed", str(options.seed)]
    return recording.main(["--out", str(options.out), *seed])
