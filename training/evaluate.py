"""Evaluate a model on simulated tabletops of a seed that the caller chooses.

python -m training.evaluate --model lens-nano --data tabletop --scenes 200 --seed 9001 --json out.json

--split selects what is asked for (see training.data.questions): one object (in_distribution), one or several
objects (all_of), or present and absent objects, half and half (none). The remaining splits ask for one object
under conditions that training never contained: other pairs of category and color (unseen_pairs), other forms
of sentences (unseen_phrasing), 10 to 13 objects (crowded), other patterns of tables and walls
(unseen_textures). --fast: answer without thinking first. Every answer counts, whatever its score: the model's
score threshold is off (training.tools.calibrate measures it). --dtype and --quantization: how the model is
loaded (see lens_ros.lens.Lens.from_pretrained).

The JSON file holds the arguments and the numbers of lens_ros.evaluation.metrics.summarize, over all questions
and per kind of expression (under by_kind). For --split none it also holds those of summarize_nothing (under
nothing). The HTML file shows the numbers with pictures of the answers; it is self-contained.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from lens_ros.choices import SCHEMES
from lens_ros.evaluation.metrics import Score, overlap, summarize, summarize_by_kind, summarize_nothing
from lens_ros.evaluation.report import Example, html_report, jpeg
from lens_ros.instances import box_iou
from lens_ros.lens import Lens
from lens_ros.model.answer_parsing import parse_answer
from lens_ros.model.checkpoint import find_model
from lens_ros.model.errors import CheckpointError
from lens_ros.segmentation import Segmentation
from lens_ros.simulation.renderer import SimulatorUnavailable
from lens_ros.visualization import Tile, contact_sheet
from training.data.questions import SPLITS, Question, tabletop_questions
from training.pictures import answer_tile, drawn_answer

PICTURES = 24  # number of answers on the contact sheet


def ask(
    lens: Lens, questions: Iterable[Question], *, think: bool | None = None
) -> Iterator[tuple[Question, Segmentation, Score]]:
    """Ask every question through the same path as a user; ``think`` as for :meth:`Lens.segment`.

    The score threshold is off: every answer counts, as in the paper's metrics.
    """
    for question in questions:
        started = time.perf_counter()
        answer = lens.segment(question.frame.rgb, question.expression.text, think=think, score_threshold=0.0)
        yield question, answer, score(lens, question, answer, time.perf_counter() - started)


def evaluate(lens: Lens, questions: Iterable[Question], *, think: bool | None = None) -> list[Score]:
    """Return the scores of :func:`ask`."""
    return [result for _, _, result in ask(lens, questions, think=think)]


def score(lens: Lens, question: Question, answer: Segmentation, seconds: float) -> Score:
    """Compare an answer with the scene. The mask counts whether it was accepted or not."""
    frame, targets = question.frame, question.expression.targets
    height, width = frame.instances.shape
    predicted = np.zeros((height, width), dtype=bool)
    for instance in answer.instances:
        predicted |= instance.mask
    intersection, union = overlap(predicted, np.isin(frame.instances, targets))
    side = lens.model.config.image.reasoner_size
    read = parse_answer(answer.answer, (side, side))
    boxes = [(b.x1 * width, b.y1 * height, b.x2 * width, b.y2 * height) for b in read.boxes]
    fits = np.array([[box_iou(box, o.box) for o in frame.objects] for box in boxes])
    asked = [k for k, o in enumerate(frame.objects) if o.index in targets]
    if question.expression.kind in ("all_of", "none"):
        fit = _worst_match(fits[:, asked]) if boxes and targets else float(not boxes and not targets)
        right = fit > 0.5
    else:
        fit = float(fits[0, asked[0]]) if boxes else 0.0
        right = fit > 0.1 and int(fits[0].argmax()) == asked[0]
    return Score(
        kind=question.expression.kind,
        intersection=intersection,
        union=union,
        box_iou=fit,
        right_object=right,
        well_formed=answer.well_formed,
        accepted=not answer.reason,
        seconds=seconds,
        nothing_there=not targets,
        nothing_said=read.well_formed and not boxes,
    )


def _worst_match(fits: np.ndarray) -> float:
    """Return the lowest IoU that any box or target has with its best match.

    Args:
        fits: All IoU values, ``(boxes, targets)``.

    Returns:
        The lowest best-match IoU; 0 if the numbers of boxes and targets differ.
    """
    boxes, targets = fits.shape
    return float(min(fits.max(axis=0).min(), fits.max(axis=1).min())) if boxes == targets else 0.0


def refuse_rendered_seeds(model: Path, seed: int) -> None:
    """Raise ValueError if ``seed`` was rendered for the training or validation of this model."""
    record = model / "training.json"
    if not record.exists():
        raise ValueError(f"{record} is missing: it names the seeds that the model was trained on")
    rendered = json.loads(record.read_text(encoding="utf-8"))["rendered_seeds"]
    if seed in rendered:
        raise ValueError(
            f"seed {seed} was rendered while this model was trained (seeds {rendered}); "
            "choose another one, or the numbers mean nothing"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="lens-nano", help="name or folder (default: lens-nano)")
    parser.add_argument("--data", choices=["tabletop"], default="tabletop")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--expressions", type=int, help="default: 2.5 per scene")
    parser.add_argument("--seed", type=int, required=True, help="of the scenes; not one of training")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="default: float32"
    )
    parser.add_argument(
        "--quantization", choices=["none", *SCHEMES], default="none", help="default: none; see lens quantize"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--html", type=Path, help="write a report with pictures here")
    parser.add_argument("--sheet", type=Path, help=f"write a picture of the first {PICTURES} answers here")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help=f"default: {SPLITS[0]}")
    parser.add_argument("--fast", action="store_true", help="answers without thinking first")
    options = parser.parse_args(arguments)
    count = round(2.5 * options.scenes) if options.expressions is None else options.expressions
    if min(options.scenes, count, options.threads) < 1 or options.seed < 0:
        parser.error("--scenes, --expressions and --threads must be at least 1, --seed at least 0")
    torch.set_num_threads(options.threads)
    try:
        # Fail now, not after minutes of answers.
        for path in filter(None, (options.json, options.html, options.sheet)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() or not os.access(path.parent, os.W_OK):
                raise ValueError(f"cannot write {path}: name a file in a folder that you may write to")
        refuse_rendered_seeds(find_model(options.model), options.seed)
        lens = Lens.from_pretrained(
            options.model, dtype=getattr(torch, options.dtype), quantization=options.quantization
        )
        asked = tabletop_questions(options.seed, options.scenes, count, options.split)
        questions = tqdm(asked, total=count, desc="answering")
        scores: list[Score] = []
        tiles: list[Tile] = []
        examples: list[Example] = []
        for question, answer, result in ask(lens, questions, think=False if options.fast else None):
            scores.append(result)
            if options.sheet and len(tiles) < PICTURES:
                tiles.append(answer_tile(question, answer, result))
            if options.html:
                examples.append(_example(question, answer, result))
    except (CheckpointError, SimulatorUnavailable, OSError, ValueError) as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 2
    names = ("model", "dtype", "quantization", "data", "seed", "scenes", "split", "fast", "threads")
    about = {name: getattr(options, name) for name in names}
    numbers = {
        **about,
        **summarize(scores),
        "by_kind": summarize_by_kind(scores),
        **({"nothing": summarize_nothing(scores)} if options.split == "none" else {}),
    }
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if options.html:
        title = f"{Path(options.model).name}: {options.split.replace('_', ' ')}"
        options.html.write_text(html_report(title, about, examples), encoding="utf-8")
    if options.sheet:
        sheet = cv2.cvtColor(contact_sheet(tiles, columns=4, width=320), cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(options.sheet), sheet):
            print(f"training.evaluate: cannot write {options.sheet}: name a .png or .jpg", file=sys.stderr)
            return 2
    print(_table(numbers))
    if options.split == "none":
        print("nothing there: precision {precision} %, recall {recall} %".format(**numbers["nothing"]))
    return 0


def _example(question: Question, answer: Segmentation, result: Score) -> Example:
    picture = jpeg(drawn_answer(question, answer))
    return Example(picture, question.expression.text, answer.reasoning, answer.reason, result)


def _table(result: dict) -> str:
    columns = "n right_object box_acc50 ciou giou pr50 pr70 pr90 format_rate median_seconds".split()
    lines = [f"{'kind':>17}" + "".join(f"{name:>{max(8, len(name) + 2)}}" for name in columns)]
    for kind, row in [*result["by_kind"].items(), ("all", result)]:
        cells = (f"{row[name]:>{max(8, len(name) + 2)}}" for name in columns)
        lines.append(f"{kind:>17}" + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
