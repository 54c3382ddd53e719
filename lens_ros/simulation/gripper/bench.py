"""Many trials: rates by kind and category, and a picture of successes and failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from lens_ros.geometry.gripper import Gripper
from lens_ros.simulation.gripper.trial import GRIPPER, Masks, Trial, run_trial
from lens_ros.simulation.renderer import TabletopSimulator

TILE, CAPTION, COLUMNS, MOST_SHOWN = (320, 240), 34, 4, 12
_COLORS = {
    "lifted": (90, 220, 90),
    "wrong": (240, 70, 70),
    "nothing": (250, 170, 60),
    "abstained": (190, 190, 190),
}


def run_trials(scenes: int, seed: int, masks: str | Masks, gripper: Gripper = GRIPPER) -> list[Trial]:
    """Run `scenes` trials; scenes that permit none are passed over. Raises SimulatorUnavailable."""
    trials: list[Trial] = []
    index = 0
    with TabletopSimulator() as simulator, tqdm(total=scenes, unit="scene") as bar:
        while len(trials) < scenes:
            trial = run_trial(simulator, seed, index, masks, gripper)
            index += 1
            if trial is not None:
                trials.append(trial)
                bar.update()
    return trials


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the rates, overall and by kind of expression and category of the target.

    lift_rate: share of all trials that lifted the target. right_object: share whose mask lies mostly on the
    target. wrong_object: share that lifted only something else. abstained: share without a grasp.
    """
    result: dict[str, Any] = dict(_rates(trials))
    for name in ("kind", "category"):
        values = sorted({getattr(trial, name) for trial in trials})
        result[f"by_{name}"] = {
            value: _rates([trial for trial in trials if getattr(trial, name) == value]) for value in values
        }
    result["failures"] = [
        {
            "index": trial.index,
            "category": trial.category,
            "instruction": trial.instruction,
            "result": trial.result,
            "reason": str(trial.reason),
        }
        for trial in trials
        if trial.result != "lifted"
    ]
    return result


def _rates(trials: Sequence[Trial]) -> dict[str, float]:
    count = len(trials)

    def share(chosen: Sequence[bool]) -> float:
        return round(sum(chosen) / max(count, 1), 4)

    return {
        "lift_rate": share([trial.result == "lifted" for trial in trials]),
        "right_object": share([trial.mask_on_target for trial in trials]),
        "wrong_object": share([trial.result == "wrong" for trial in trials]),
        "abstained": share([trial.result == "abstained" for trial in trials]),
        "n": count,
    }


def contact_sheet(trials: Sequence[Trial]) -> np.ndarray:
    """Return rgb (H, W, 3) uint8: up to 12 failures, then up to 12 successes, each with its reason."""
    failures = [trial for trial in trials if trial.result != "lifted"][:MOST_SHOWN]
    successes = [trial for trial in trials if trial.result == "lifted"][:MOST_SHOWN]
    tiles = [_tile(trial) for trial in failures + successes]
    blank = np.zeros((TILE[1] + CAPTION, TILE[0], 3), np.uint8)
    tiles += [blank] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[k : k + COLUMNS], 1) for k in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows) if rows else blank


def _tile(trial: Trial) -> np.ndarray:
    picture = trial.frame.rgb.copy()
    picture[trial.mask] = picture[trial.mask] // 2 + np.array([0, 110, 0], np.uint8)
    if trial.grasp is not None:
        _draw_grasp(picture, trial)
    picture = cv2.resize(picture, TILE, interpolation=cv2.INTER_AREA)
    caption = np.zeros((CAPTION, TILE[0], 3), np.uint8)
    color, font = _COLORS[trial.result], cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(caption, f"{trial.index} {trial.instruction}"[:52], (3, 13), font, 0.36, (255, 255, 255), 1)
    cv2.putText(caption, f"{trial.result} {trial.reason}"[:54], (3, 28), font, 0.34, color, 1)
    return np.concatenate([picture, caption])


def _draw_grasp(picture: np.ndarray, trial: Trial) -> None:
    """Draw the two fingers and the bar between them, in the grasp's own frame."""
    grasp = trial.grasp
    assert grasp is not None
    half, tip, base = grasp.opening / 2, GRIPPER.tcp_depth, GRIPPER.tcp_depth - GRIPPER.finger_length
    line = np.array([(-half, tip), (-half, base), (half, base), (half, tip)])
    frame = grasp.pose[:3, :3] @ GRIPPER.tcp_rotation().T
    points = grasp.pose[:3, 3] + line[:, :1] * frame[:, 0] + line[:, 1:] * frame[:, 2]
    pixels = points @ trial.frame.intrinsics.T
    corners = (pixels[:, :2] / pixels[:, 2:]).round().astype(np.int32)
    cv2.polylines(picture, [corners], False, (255, 230, 0), 2, cv2.LINE_AA)
