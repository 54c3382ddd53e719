"""Evaluate tracking on simulated tabletops in motion.

python -m training.evaluate_tracking --model lens-nano --seed 9601 --sequences 25 --json out/tracking.json

Each sequence has 100 frames (10 s). The camera sways in a hand, approaches on an arm, or turns away and
returns; the target is pushed; another object is moved in front of it. Each sequence begins with a right
answer (mask IoU above 0.5; other scenes are skipped), because the evaluation measures how well that answer is
tracked. The methods:

  hold          the first mask stays where it was
  ask_always    the reasoner answers on every frame (on the first sequence of each motion)
  box           the box of the last mask is the prompt, nothing is checked
  mask          as box, with the last mask as an additional prompt
  checked       lens_ros.tracking.tracker without reasoning again
  default       lens_ros.tracking.tracker with reasoning again when it asks for it; the answer arrives
                two frames later and refers to the frame of the question
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from lens_ros.evaluation.metrics import mask_iou
from lens_ros.evaluation.tracking import Step, step_of, summarize_tracking
from lens_ros.lens import Lens, SeenImage
from lens_ros.model.checkpoint import find_model
from lens_ros.model.errors import CheckpointError
from lens_ros.segmentation import Segmentation
from lens_ros.simulation.motion import MOTIONS, RATE
from lens_ros.simulation.renderer import SimulatorUnavailable
from lens_ros.simulation.scene import Frame
from lens_ros.tracking.tracker import Checks, ReasonAgain, Tracker
from lens_ros.visualization import Tile, contact_sheet, overlay
from training.data.moving import MovingScene, moving_scenes
from training.evaluate import refuse_rendered_seeds

METHODS = ("hold", "ask_always", "box", "mask", "checked", "default")
_ANSWER_AFTER = 2  # frames from a question to its answer
_UNCHECKED = Checks(
    likeness=0, overlap=0, score=0, growth=float("inf"), apart=1, regain=0, regain_growth=float("inf")
)
_SHOWN = 6  # frames per sequence in the picture


def follow(
    lens: Lens, scene: MovingScene, first: Segmentation, method: str, every: int
) -> Iterator[tuple[Step, Segmentation]]:
    """Yield the result of ``method`` on each ``every``-th frame after the first."""
    unchecked = method in ("box", "mask")
    tracker = Tracker(lens, _UNCHECKED if unchecked else None, mask_prompts=method == "mask")
    tracker.start("it", scene.frames[0].rgb, first)
    again = ReasonAgain()
    pending: tuple[int, Frame, Segmentation] | None = None
    for number in range(every, len(scene.frames), every):
        frame, now = scene.frames[number], number / RATE
        asked = False
        started = time.perf_counter()
        if method == "hold":
            answer = first
        elif method == "ask_always":
            answer, asked = _ask(lens, frame.rgb, scene.instruction), True
        else:
            if pending and number >= pending[0]:
                if any(not instance.rejected for instance in pending[2].instances):
                    tracker.start("it", pending[1].rgb, pending[2])
                pending = None
            seen = lens.look(frame.rgb)
            carried = tracker.update(seen)["it"]
            answer = carried.segmentation
        seconds = time.perf_counter() - started
        if method == "default":
            again.observe(now, not carried.tracked)
            if pending is None and again.due(now):
                again.asked(now)
                asked = True
                pending = (number + _ANSWER_AFTER, frame, _ask(lens, seen, scene.instruction))
        yield _held_against(answer, scene, number, asked, seconds), answer


def _ask(lens: Lens, image: SeenImage | np.ndarray, instruction: str) -> Segmentation:
    """Segment ``image`` with the score threshold off, since only tracking is measured."""
    return lens.segment(image, instruction, score_threshold=0.0)


def _held_against(answer: Segmentation, scene: MovingScene, number: int, asked: bool, seconds: float) -> Step:
    frame = scene.frames[number]
    return step_of(
        answer.mask, frame.instances, scene.target, progress=number / (len(scene.frames) - 1),
        visible=frame.objects[scene.target - 1].visible_fraction, asked=asked, seconds=seconds,
    )  # fmt: skip


def _tiles(scene: MovingScene, first: Segmentation, later: list[tuple[Step, Segmentation]]) -> list[Tile]:
    """Return tiles of some frames of a sequence, with the mask in green and the result."""
    picked = [round(k) for k in np.linspace(0, len(later) - 1, _SHOWN - 1)]
    tiles = [Tile(overlay(scene.frames[0].rgb, first), scene.motion, scene.instruction)]
    for k in picked:
        step, answer = later[k]
        frame = scene.frames[round(step.progress * (len(scene.frames) - 1))]
        state = "lost" if not step.masked else "wrong object" if step.wrong else f"IoU {step.iou:.2f}"
        title = f"{_time_of(step, scene)}: {state}"
        tiles.append(Tile(overlay(frame.rgb, answer), title, f"{100 * step.visible:.0f} % visible"))
    return tiles


def _time_of(step: Step, scene: MovingScene) -> str:
    return f"{step.progress * (len(scene.frames) - 1) / RATE:.1f} s"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="lens-nano", help="name or folder (default: lens-nano)")
    parser.add_argument("--seed", type=int, required=True, help="of the scenes; not one of training")
    parser.add_argument("--sequences", type=int, default=25)
    parser.add_argument("--frames", type=int, default=100, help="per sequence (default: 100)")
    parser.add_argument("--every", type=int, default=1, help="a slower camera: only each n-th frame is seen")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--sheet", type=Path, help="write a picture of the last method here")
    options = parser.parse_args(arguments)
    if min(options.sequences, options.threads, options.every) < 1 or options.frames <= 4 * options.every:
        parser.error("--sequences, --threads and --every must be at least 1, --frames above 4 times --every")
    torch.set_num_threads(options.threads)
    steps: dict[str, list[Step]] = {method: [] for method in options.methods}
    by_motion: dict[str, dict[str, list[Step]]] = {m: {name: [] for name in MOTIONS} for m in options.methods}
    tiles: list[Tile] = []
    try:
        for path in filter(None, (options.json, options.sheet)):
            path.parent.mkdir(parents=True, exist_ok=True)
        refuse_rendered_seeds(find_model(options.model), options.seed)
        lens = Lens.from_pretrained(options.model)
        answers: dict[int, Segmentation] = {}

        def right(frame: Frame, instruction: str, target: int) -> bool:
            answer = _ask(lens, frame.rgb, instruction)
            answers[0] = answer
            return mask_iou(answer.mask, frame.instances == target) > 0.5

        scenes = moving_scenes(options.seed, options.sequences, options.frames, right)
        for number, scene in enumerate(tqdm(scenes, total=options.sequences, unit="sequence")):
            for method in options.methods:
                if method == "ask_always" and number >= len(MOTIONS):
                    continue
                later = list(follow(lens, scene, answers[0], method, options.every))
                mine = [step for step, _ in later]
                steps[method] += mine
                by_motion[method][scene.motion] += mine
                if method == options.methods[-1] and number < len(MOTIONS):
                    tiles += _tiles(scene, answers[0], later)
    except (CheckpointError, SimulatorUnavailable, OSError, ValueError) as error:
        print(f"training.evaluate_tracking: {error}", file=sys.stderr)
        return 2
    numbers = {
        **{name: getattr(options, name) for name in ("model", "seed", "sequences", "frames", "every")},
        "methods": {
            method: {
                **summarize_tracking(mine),
                "by_motion": {k: summarize_tracking(v) for k, v in by_motion[method].items() if v},
            }
            for method, mine in steps.items()
        },
    }
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if options.sheet:
        sheet = cv2.cvtColor(contact_sheet(tiles, columns=_SHOWN, width=170), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(options.sheet), sheet, [cv2.IMWRITE_JPEG_QUALITY, 70])
    print(_table(numbers["methods"]))
    return 0


def _table(methods: dict[str, dict]) -> str:
    columns = [name for name in next(iter(methods.values())) if name != "by_motion"]
    lines = [f"{'method':>12}" + "".join(f"{name:>{len(name) + 2}}" for name in columns)]
    for method, row in methods.items():
        lines.append(f"{method:>12}" + "".join(f"{row[name]!s:>{len(name) + 2}}" for name in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
