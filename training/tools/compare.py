"""Compare reinforcement with more supervision, at equal cost and from the same weights.

python -m training.tools.compare --start runs/nano/model --data runs/tabletop --out runs/compare

For every seed both arms are trained in parallel, one process each (training/configs/compare_*.yaml: their
numbers of steps take the same time on a CPU). Then the initial model and all trained models answer the same
questions, in distribution and on compositions that training never shows. After an interruption the same
command continues. Writes OUT/compare.json, OUT/compare.png, and a table to the terminal.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from lens_ros.evaluation.metrics import Score, summarize
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import find_model
from lens_ros.model.errors import CheckpointError
from lens_ros.simulation.renderer import SimulatorUnavailable
from training.data.questions import Split, tabletop_questions
from training.evaluate import evaluate, refuse_rendered_seeds
from training.export import RECORD
from training.progress import METRICS
from training.tools.plot import read_metrics

ARMS = {"supervise": "more supervision", "reinforce": "reinforcement"}
UNSEEN: tuple[Split, ...] = ("unseen_pairs", "unseen_phrasing", "crowded", "unseen_textures")
SPLITS: tuple[Split, ...] = ("in_distribution", *UNSEEN)
START = "start"
_COLORS = {START: "#999999", "supervise": "#3b75af", "reinforce": "#c44e52"}
_CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Job:
    """The questions of a split, for all models (by name)."""

    split: Split
    seed: int
    questions: int
    models: dict[str, str]


def train(arm: str, seed: int, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start or continue an arm's run and return its process; its output goes to ``OUT/ARM-SEED.log``."""
    command = [
        sys.executable, "-m", f"training.{arm}", str(_CONFIGS / f"compare_{arm}.yaml"),
        f"data={options.data}", f"start_from={options.start}", f"seed={seed}",
        f"out={run_folder(arm, seed, options)}", *options.overrides,
    ]  # fmt: skip
    with (options.out / f"{arm}-{seed}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def run_folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    return options.out / f"{arm}-{seed}"


def answered(job: Job) -> tuple[Split, dict[str, list[Score]]]:
    """Return the scores of all models on a split, whose scenes are rendered once."""
    torch.set_num_threads(1)
    scenes = max(1, round(job.questions / 2.5))
    questions = list(tabletop_questions(job.seed, scenes, job.questions, job.split))
    return job.split, {
        name: evaluate(Lens.from_pretrained(folder), questions) for name, folder in job.models.items()
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--start", required=True, help="name or folder of a model")
    parser.add_argument("--data", required=True, help="folder of shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--questions", type=int, default=200, help="per split (default: 200)")
    parser.add_argument("--evaluation-seed", type=int, default=9301, help="of their scenes")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="of both arms' configurations")
    options = parser.parse_args(arguments)
    if options.questions < 1:
        parser.error("--questions must be at least 1")
    try:
        refuse_rendered_seeds(find_model(options.start), options.evaluation_seed)
    except (CheckpointError, ValueError) as error:
        print(f"training.tools.compare: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in tqdm(options.seeds, desc="training", unit="seed"):
        running = {arm: train(arm, seed, options) for arm in ARMS}
        failed = [arm for arm, process in running.items() if process.wait()]
        if failed:
            logs = ", ".join(str(options.out / f"{arm}-{seed}.log") for arm in failed)
            print(f"training.tools.compare: {' and '.join(failed)} failed; see {logs}", file=sys.stderr)
            return 2
    folders = {f"{arm}-{seed}": run_folder(arm, seed, options) for arm in ARMS for seed in options.seeds}
    models = {START: options.start} | {name: str(folder / "model") for name, folder in folders.items()}
    jobs = [Job(split, options.evaluation_seed, options.questions, models) for split in SPLITS]
    scores: dict[str, dict[Split, list[Score]]] = {name: {} for name in models}
    try:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            for split, of_split in tqdm(
                pool.imap_unordered(answered, jobs), total=len(jobs), desc="answering", unit="split"
            ):
                for name, found in of_split.items():
                    scores[name][split] = found
    except SimulatorUnavailable as error:
        print(f"training.tools.compare: {error}", file=sys.stderr)
        return 2
    result = compared(scores, options, folders)
    (options.out / "compare.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, options)
    print(table(result))
    return 0


def compared(
    scores: dict[str, dict[Split, list[Score]]], options: argparse.Namespace, folders: dict[str, Path]
) -> dict:
    """Return the numbers by model and split; ``unseen`` pools the questions of all unseen splits."""
    by_model = {}
    for name, of_splits in scores.items():
        summaries: dict[str, dict[str, float]] = {split: summarize(of_splits[split]) for split in SPLITS}
        summaries["unseen"] = summarize([score for split in UNSEEN for score in of_splits[split]])
        by_model[name] = summaries
    records = {name: json.loads((folder / "model" / RECORD).read_text()) for name, folder in folders.items()}
    return {
        "start": Path(options.start).name,
        "seeds": options.seeds,
        "evaluation_seed": options.evaluation_seed,
        "training_seconds": {name: record["seconds"] for name, record in records.items()},
        "models": by_model,
    }


def table(result: dict) -> str:
    """Format the result as Markdown: each arm's mean over the seeds, and the difference of the arms.

    The first number of a cell is the mask cIoU, in brackets the share of right objects. The difference is the
    mean over the seeds, with that of each seed in brackets.
    """
    lines = [
        "| mask cIoU (right object, %) | start | more supervision | reinforcement | difference (by seed) |",
        "|---|---|---|---|---|",
    ]
    models, seeds = result["models"], result["seeds"]
    for split in (*SPLITS, "unseen"):
        start = models[START][split]
        cells = [f"{start['ciou']:.1f} ({start['right_object']:.1f})"]
        for arm in ARMS:
            rows = [models[f"{arm}-{seed}"][split] for seed in seeds]
            cells.append(f"{_mean(rows, 'ciou'):.1f} ({_mean(rows, 'right_object'):.1f})")
        gains = [
            models[f"reinforce-{seed}"][split]["ciou"] - models[f"supervise-{seed}"][split]["ciou"]
            for seed in seeds
        ]
        gain = f"**{statistics.mean(gains):+.1f}** ({', '.join(f'{g:+.1f}' for g in gains)})"
        lines.append(f"| {split.replace('_', ' ')} | {' | '.join(cells)} | {gain} |")
    return "\n".join(lines)


def _mean(rows: Sequence[dict], name: str) -> float:
    return statistics.mean(row[name] for row in rows)


def draw(result: dict, options: argparse.Namespace) -> None:
    """Draw the rewards earned by the policy, validation during training, and all splits at the end."""
    figure = Figure(figsize=(15, 4), layout="constrained")
    earned, validated, ended = figure.subplots(1, 3, width_ratios=[1, 1, 1.6])
    for seed in options.seeds:
        lines = read_metrics(run_folder("reinforce", seed, options) / METRICS)
        for name, style in (("rewards/box/mean", "-"), ("rewards/segment/mean", "--")):
            points = [(m["seconds"] / 60, m[name]) for m in lines if name in m]
            label = f"{name.split('/')[1]} reward" if seed == options.seeds[0] else None
            earned.plot(*zip(*points, strict=True), style, color=_COLORS["reinforce"], alpha=0.7, label=label)
    earned.set(title="what sampled completions earn", xlabel="minutes")
    for arm, title in ARMS.items():
        for seed in options.seeds:
            lines = read_metrics(run_folder(arm, seed, options) / METRICS)
            points = [(m["seconds"] / 60, m["evaluation"]["ciou"]) for m in lines if "evaluation" in m]
            if points:
                label = title if seed == options.seeds[0] else None
                validated.plot(*zip(*points, strict=True), marker="o", color=_COLORS[arm], label=label)
    validated.set(title="mask cIoU on validation scenes", xlabel="minutes")
    _bars(ended, result)
    for axis in (earned, validated, ended):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(options.out / "compare.png", dpi=110)


def _bars(axis: Axes, result: dict) -> None:
    splits = (*SPLITS, "unseen")
    models, seeds = result["models"], result["seeds"]
    for k, (arm, title) in enumerate({START: "start", **ARMS}.items()):
        names = [START] if arm == START else [f"{arm}-{seed}" for seed in seeds]
        values = [[models[name][split]["ciou"] for name in names] for split in splits]
        places = [at + 0.27 * (k - 1) for at in range(len(splits))]
        means = [statistics.mean(of) for of in values]
        axis.bar(places, means, 0.25, color=_COLORS[arm], label=title)
        for place, of in zip(places, values, strict=True):
            axis.plot([place] * len(of), of, ".", color="black", markersize=4)
    axis.set_xticks(range(len(splits)), [split.replace("_", "\n") for split in splits], fontsize=8)
    axis.set(title="mask cIoU at the end (dots: seeds)", ylim=(0, None))


if __name__ == "__main__":
    raise SystemExit(main())
