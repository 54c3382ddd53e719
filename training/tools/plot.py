"""Plot the curves of a run of any training program.

python -m training.tools.plot models/lens-nano/metrics.jsonl docs/images/training.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure  # not pyplot, which looks for a display

# Titles of panels and their curves. A panel without any measured curve is not drawn.
_TRAINING = {
    "mask IoU": {
        "boxes/iou": "box prompt, training",
        "context/iou": "context prompt, training (answer given)",
        "iou": "context prompt, training",
    },
    "accuracy of predictions": {
        "language/word_accuracy": "next word",
        "language/number_accuracy": "next number, exact",
        "dense/word_accuracy": "category from a visual token",
    },
    "rewards of sampled answers": {
        "rewards/format/mean": "format",
        "rewards/box/mean": "box",
        "rewards/segment/mean": "segment",
    },
}
_ANSWERS = {"right_object": "right object", "box_acc50": "box IoU > 0.5", "ciou": "mask cIoU"}


def read_metrics(path: Path) -> list[dict]:
    """Read the lines of a ``metrics.jsonl``.

    A resumed run repeats the steps since its last checkpoint; the later line of a step counts.

    Raises:
        ValueError: The file has another format; the message names the line.
    """
    lines: dict[tuple[int, bool], dict] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            lines[line["step"], "evaluation" in line] = line
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}, is not a line of metrics: {error!r}") from error
    return [lines[key] for key in sorted(lines)]


def draw_curves(metrics: list[dict], out: Path) -> None:
    """Draw panels over minutes: metrics of masks, words and rewards in training, and validation answers."""
    panels = {
        title: curves
        for title, curves in _TRAINING.items()
        if any(key in line for line in metrics for key in curves)
    }
    figure = Figure(figsize=(4.4 * (len(panels) + 1), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        for key, label in curves.items():
            points = [(m["seconds"] / 60, m[key]) for m in metrics if key in m]
            if points:
                axis.plot(*zip(*points, strict=True), label=label)
        axis.set(title=title, ylim=(0, 1))
    evaluated = [(m["seconds"] / 60, m["evaluation"]) for m in metrics if "evaluation" in m]
    for key, label in _ANSWERS.items():
        axes[-1].plot([t for t, _ in evaluated], [e[key] for _, e in evaluated], marker="o", label=label)
    axes[-1].set(title="greedy answers on validation scenes, %", ylim=(0, 100))
    for axis in axes:
        axis.set_xlabel("minutes")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("metrics", type=Path, help="metrics.jsonl of a run")
    parser.add_argument("out", type=Path, help="the picture")
    options = parser.parse_args(arguments)
    try:
        draw_curves(read_metrics(options.metrics), options.out)
    except (OSError, ValueError) as error:
        print(f"training.tools.plot: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
