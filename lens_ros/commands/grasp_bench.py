"""``lens grasp-bench``: from words, or from true masks, to lifted objects in simulated physics."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens_ros.simulation.gripper.trial import Masks


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument("--scenes", type=int, default=60, metavar="N", help="how many (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: 0)")
    parser.add_argument(
        "--masks",
        choices=("truth", "shifted", "model"),
        default="truth",
        help="the simulator's, those shifted by 25 pixels, or a model's for the instruction (default: truth)",
    )
    parser.add_argument("--model", default="lens-nano", help="name or folder, for --masks model")
    parser.add_argument(
        "--score-threshold", type=float, metavar="S", help="for --masks model (default: the model's own)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rates here")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="write successes and failures here (.png)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    import cv2

    from lens_ros.simulation.gripper.bench import contact_sheet, run_trials, summary
    from lens_ros.simulation.renderer import SimulatorUnavailable

    if options.scenes < 1 or options.seed < 0:
        print("lens grasp-bench: --scenes must be 1 or more and --seed 0 or more", file=sys.stderr)
        return 2
    masks = _model_masks(options) if options.masks == "model" else options.masks
    try:
        trials = run_trials(options.scenes, options.seed, masks)
    except SimulatorUnavailable as error:
        print(f"lens grasp-bench: {error}", file=sys.stderr)
        return 2
    result = {"masks": options.masks, "seed": options.seed, **summary(trials)}
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.picture is not None:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(options.picture), contact_sheet(trials)[..., ::-1])
    for name in ("n", "lift_rate", "right_object", "wrong_object", "abstained"):
        print(f"{name:13} {result[name]}")
    for category, rates in result["by_category"].items():
        print(f"  {category:12} {rates['lift_rate']:.2f} of {rates['n']}")
    return 0


def _model_masks(options: argparse.Namespace) -> Masks:
    """Return a function from picture and instruction to the mask of the model's best accepted object."""
    import numpy as np

    from lens_ros.lens import Lens

    lens = Lens.from_pretrained(options.model)

    def best(rgb: np.ndarray, instruction: str) -> np.ndarray:
        answer = lens.segment(rgb, instruction, score_threshold=options.score_threshold)
        accepted = [instance for instance in answer.instances if not instance.rejected]
        if not accepted:
            return np.zeros(rgb.shape[:2], bool)
        return max(accepted, key=lambda instance: instance.score).mask

    return best
