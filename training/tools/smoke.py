"""Run the training programs end to end, in miniature.

Usage: ``python -m training.tools.smoke [OUT]`` or ``make train-smoke``

Renders 32 scenes, continues the training of lens-nano for a few steps, aligns the result and reinforces that,
each with an evaluation, and draws the curves. It shows that everything works together, not that anything is
learned.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

_CONFIGS = Path(__file__).parents[1] / "configs"
_TINY = (
    "data_seed=11 scenes=32 steps=4 warmup=1 checkpoint_every=2 log_every=1 evaluate_every=4 "
    "validation_seed=12 validation_expressions=4"
)


def commands(out: Path) -> list[str]:
    """Return the arguments of ``python -m`` for each program, in order."""

    def at(*parts: str) -> str:
        return shlex.quote(str(out.joinpath(*parts)))

    def run(program: str, config: str, parent: str, more: str) -> str:
        files = f"data={at('tabletop')} out={at(program)} start_from={parent}"
        return f"training.{program} {shlex.quote(str(_CONFIGS / config))} {files} {_TINY} {more}"

    return [
        f"training.data.tabletop --seed 11 --scenes 32 --workers 2 --out {at('tabletop')}",
        run("supervise", "nano_continue.yaml", "lens-nano", "images=2 segmenter_images=2 expressions=2"),
        run("align", "nano_align.yaml", at("supervise", "model"), "images=2 fresh_context=false processes=1"),
        run(
            "reinforce", "nano_reinforce.yaml", at("align", "model"),
            "prompts=2 group=4 oversample=1 processes=1 max_new_tokens=80 beta=0.04 lora.rank=4",
        ),
        f"training.tools.plot {at('supervise', 'metrics.jsonl')} {at('training.png')}",
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "out", nargs="?", type=Path, default=Path("out/train-smoke"), help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    for command in commands(options.out):
        print("python -m", command, flush=True)
        status = subprocess.run([sys.executable, "-m", *shlex.split(command)]).returncode
        if status != 0:
            return status
    print("all of it is in", options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
