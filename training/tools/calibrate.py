"""Fit and measure the scores of a model's instances on simulated tabletops.

python -m training.tools.calibrate --fit-seed 9650 --threshold-seed 9661 --seed 9671 --picture calibration.png

An instance is right if its mask has an IoU of at least 0.5 with an object that was asked for. A logistic
regression of three numbers (lens_ros.model.score_calibration) is fitted on all splits of one seed. Its
threshold is the lowest score for which 96 % of the instances of --target-splits with at least this score are
right, on that seed and on twice as many questions of a second seed. Both are measured on a third seed.
--write stores them in config.json of the model's folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from lens_ros.evaluation.metrics import mask_iou
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import find_model
from lens_ros.model.errors import CheckpointError
from lens_ros.model.score_calibration import Calibration, Certainty, evidence_of
from lens_ros.simulation.renderer import SimulatorUnavailable
from training.data.questions import SPLITS, Split, tabletop_questions
from training.evaluate import refuse_rendered_seeds

TARGET = 0.95  # precision that the threshold aims for
_MARGIN = 0.01  # extra precision required where the threshold is chosen
_LEAST_KEPT = 40  # with fewer instances a precision means little
_RIDGE = 1.0  # strength of the prior on standardised weights
_BINS = 10
_TARGET_SPLITS: tuple[Split, ...] = ("in_distribution", "all_of", "none")


@dataclass(frozen=True)
class Case:
    """One instance that the box and mask check accepts: its evidence, and whether it is right."""

    split: Split
    expected_iou: float
    evidence: tuple[float, float, float]
    right: bool


def cases(
    lens: Lens, seed: int, count: int, splits: Sequence[Split] = SPLITS, *, think: bool | None = None
) -> Iterator[Case]:
    """Yield the accepted instances in the answers to ``count`` questions of each split.

    ``think`` is as for :meth:`Lens.segment`.
    """
    certainties: list[Certainty] = []
    reason = lens.model.reason

    def recorded(*args: object, **options: object) -> object:
        thoughts = reason(*args, **options)  # type: ignore[arg-type]
        certainties[:] = map(lens.certainty, thoughts)
        return thoughts

    lens.model.reason = recorded  # type: ignore[method-assign,assignment]
    try:
        for split in splits:
            questions = tabletop_questions(seed, max(1, count * 2 // 5), count, split)
            for question in tqdm(questions, total=count, desc=f"{seed} {split}"):
                text = question.expression.text
                answer = lens.segment(question.frame.rgb, text, think=think, score_threshold=0.0)
                for instance in answer.instances:
                    if instance.rejected:
                        continue
                    targets = [question.frame.instances == t for t in question.expression.targets]
                    iou = max((mask_iou(instance.mask, target) for target in targets), default=0.0)
                    evidence = evidence_of(instance.consistency, certainties[0])
                    yield Case(split, instance.expected_iou, evidence, iou >= 0.5)
    finally:
        lens.model.reason = reason  # type: ignore[method-assign]


def fitted(known: Sequence[Case]) -> Calibration:
    """Fit the regression by Newton's method with a weak prior on standardised weights; set threshold 0.

    Raises:
        ValueError: All instances are right, or all are wrong.
    """
    evidence, right = np.array([c.evidence for c in known]), np.array([c.right for c in known], dtype=float)
    if right.min() == right.max():
        raise ValueError("all instances are right, or all are wrong: ask more questions")
    mean, spread = evidence.mean(axis=0), evidence.std(axis=0) + 1e-9
    design = np.c_[(evidence - mean) / spread, np.ones(len(known))]
    prior = _RIDGE * np.diag([1.0, 1.0, 1.0, 0.0])
    weights = np.zeros(4)
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + prior
        weights = weights - np.linalg.solve(hessian, design.T @ (p - right) + prior @ weights)
    slopes = weights[:3] / spread
    numbers = [float(round(v, 4)) for v in (weights[3] - slopes @ mean, *slopes)]
    bias, consistency, word, number = numbers
    return Calibration(bias, consistency, word, number, threshold=0.0, precision=TARGET)


def with_threshold(calibration: Calibration, known: Sequence[Case]) -> Calibration:
    """Return the calibration with the threshold at which enough of ``known`` are right."""
    right = np.array([c.right for c in known])
    threshold = threshold_for(scores(calibration, known), right, TARGET + _MARGIN)
    return dataclasses.replace(calibration, threshold=threshold)


def scores(calibration: Calibration | None, known: Sequence[Case]) -> np.ndarray:
    """Return the scores ``(N,)`` of the instances; without a calibration, the segmenter's expected IoU."""
    if calibration is None:
        return np.array([c.expected_iou for c in known])
    weights = [calibration.consistency, calibration.least_word, calibration.least_number]
    logits = np.array([c.evidence for c in known]) @ np.array(weights) + calibration.bias
    return 1 / (1 + np.exp(-logits))


def threshold_for(score: np.ndarray, right: np.ndarray, precision: float) -> float:
    """Return the lowest threshold at which the instances kept have at least this precision.

    It is a multiple of 0.01, and 1 if no threshold suffices.

    Args:
        score: ``(N,)`` float.
        right: ``(N,)`` bool.
        precision: The share of right instances to reach.
    """
    for threshold in np.arange(0, 100) / 100:
        kept = right[score >= threshold]
        if kept.size >= _LEAST_KEPT and kept.mean() >= precision:
            return float(threshold)
    return 1.0


def calibration_error(score: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error (ECE).

    It is the mean gap between score and share of right instances, in 10 bins of equal width.
    """
    place = np.minimum((score * _BINS).astype(int), _BINS - 1)
    gaps = [abs(score[place == k].sum() - right[place == k].sum()) for k in range(_BINS)]
    return float(sum(gaps) / len(score))


def measured(
    calibration: Calibration | None, threshold: float, known: Sequence[Case]
) -> dict[str, float | int | None]:
    """Return the ECE and the effect of the threshold.

    The effect is the precision of the instances kept, and the coverage of all instances and of the right
    ones.
    """
    score, right = scores(calibration, known), np.array([c.right for c in known])
    kept = score >= threshold
    return {
        "n": len(known),
        "right": round(100 * float(right.mean()), 1),
        "ece": round(100 * calibration_error(score, right), 1),
        "precision": round(100 * float(right[kept].mean()), 1) if kept.any() else None,
        "coverage": round(100 * float(kept.mean()), 1),
        "right_kept": round(100 * float(kept[right].mean()), 1) if right.any() else None,
    }


def draw(calibration: Calibration, known: Sequence[Case], path: Path) -> None:
    """Draw a reliability diagram before and after calibration, and precision over coverage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, at_right) = plt.subplots(1, 2, figsize=(9, 4), dpi=80)
    truth = np.array([c.right for c in known])
    for name, which in (("expected IoU (before)", None), ("score (after)", calibration)):
        score = scores(which, known)
        place = np.minimum((score * _BINS).astype(int), _BINS - 1)
        filled = [k for k in range(_BINS) if (place == k).sum() >= 10]
        points = [(score[place == k].mean(), truth[place == k].mean()) for k in filled]
        left.plot(*zip(*points, strict=True), "o-", label=name)
        order = np.argsort(-score)
        precision = np.cumsum(truth[order]) / np.arange(1, len(truth) + 1)
        coverage = np.arange(1, len(truth) + 1) / len(truth)
        at_right.plot(100 * coverage[20:], 100 * precision[20:], label=name)
    mine = [c for c in known if c.split in _TARGET_SPLITS]
    order = np.argsort(-scores(calibration, mine))
    right = np.array([c.right for c in mine])[order]
    counts = np.arange(1, len(right) + 1)
    at_right.plot(
        100 * counts[20:] / len(right), 100 * (np.cumsum(right) / counts)[20:], "--",
        label="after, " + ", ".join(s.replace("_", " ") for s in _TARGET_SPLITS),
    )  # fmt: skip
    left.plot([0, 1], [0, 1], color="0.7", lw=1)
    left.set(
        xlabel="score",
        ylabel="share that is right",
        title="Reliability, all splits",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    at_right.axhline(100 * TARGET, color="0.7", lw=1)
    at_right.set(
        xlabel="coverage, %", ylabel="precision, %", title="Precision over coverage", ylim=(75, 100.5)
    )
    left.legend(fontsize=8)
    at_right.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(32)  # lines and letters need no more colors
    few.save(path, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="lens-nano", help="name or folder (default: lens-nano)")
    parser.add_argument("--fit-seed", type=int, required=True, help="of the scenes that it is fitted on")
    parser.add_argument(
        "--threshold-seed", type=int, required=True, help="of more scenes that the threshold is chosen on"
    )
    parser.add_argument("--seed", type=int, required=True, help="of the scenes that it is measured on")
    parser.add_argument("--questions", type=int, default=150, help="per split (default: 150)")
    parser.add_argument("--target-splits", nargs="+", choices=SPLITS, default=list(_TARGET_SPLITS))
    parser.add_argument(
        "--fast", action="store_true", help="measured on answers without thinking (fitted on those with)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--picture", type=Path, help="write the diagrams here")
    parser.add_argument(
        "--write", action="store_true", help="store the calibration in the model's config.json"
    )
    options = parser.parse_args(arguments)
    seeds = (options.fit_seed, options.threshold_seed, options.seed)
    if len(set(seeds)) < 3 or min(options.questions, options.threads) < 1:
        parser.error("the three seeds must differ, --questions and --threads be at least 1")
    torch.set_num_threads(options.threads)
    try:
        folder = find_model(options.model)
        for seed in seeds:
            refuse_rendered_seeds(folder, seed)
        lens = Lens.from_pretrained(options.model)
        fit = list(cases(lens, options.fit_seed, options.questions))
        more = cases(lens, options.threshold_seed, 2 * options.questions, options.target_splits)
        calibration = with_threshold(
            fitted(fit), [*more, *(c for c in fit if c.split in options.target_splits)]
        )
        print(calibration, flush=True)
        if options.write:
            dataclasses.replace(lens.model.config, calibration=calibration).save(folder)
        known = list(cases(lens, options.seed, options.questions, think=False if options.fast else None))
        by_split = {s: [c for c in known if c.split == s] for s in SPLITS}
        groups: dict[str, list[Case]] = {
            "all splits": known,
            " + ".join(options.target_splits): [c for c in known if c.split in options.target_splits],
            **{str(split): mine for split, mine in by_split.items()},
        }
        names = ("model", "fit_seed", "threshold_seed", "seed", "questions", "fast")
        numbers = {
            **{name: getattr(options, name) for name in names},
            "calibration": dataclasses.asdict(calibration),
            "before": {name: measured(None, 0.0, mine) for name, mine in groups.items()},
            "after": {
                name: measured(calibration, calibration.threshold, mine) for name, mine in groups.items()
            },
        }
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        if options.picture:
            draw(calibration, known, options.picture)
    except (CheckpointError, SimulatorUnavailable, OSError, ValueError) as error:
        print(f"training.tools.calibrate: {error}", file=sys.stderr)
        return 2
    for name in groups:
        print(f"{name:>30}  {numbers['before'][name]}  ->  {numbers['after'][name]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
