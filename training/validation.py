"""Evaluation during training: greedy answers through the same path as a user; keep the best model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from transformers import PreTrainedTokenizerFast

from lens_ros.evaluation.metrics import Score, summarize
from lens_ros.lens import Lens
from lens_ros.model.network import LensModel
from lens_ros.visualization import Tile, contact_sheet
from training.config import RunConfig
from training.data.questions import tabletop_questions
from training.evaluate import ask
from training.export import RECORD
from training.pictures import answer_tile

SCORE = "ciou"  # metric that decides which model is better: cIoU of the masks
_PICTURES = 12  # number of answers on a contact sheet


class Validation:
    """Evaluation with the same questions each time, on scenes of the configured validation seed."""

    def __init__(self, config: RunConfig) -> None:
        """Render the scenes.

        Raises:
            SimulatorUnavailable: There is no OpenGL.
        """
        count = config.validation_expressions
        self._questions = list(tabletop_questions(config.validation_seed, (count + 1) // 2, count))

    def run(
        self, model: LensModel, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[dict[str, float], np.ndarray]:
        """Return the summary of all answers and a contact sheet of the first ones.

        Leaves ``model`` in eval mode.
        """
        scores: list[Score] = []
        tiles: list[Tile] = []
        for question, answer, result in ask(Lens(model.eval(), tokenizer), self._questions):
            scores.append(result)
            if len(tiles) < _PICTURES:
                tiles.append(answer_tile(question, answer, result))
        return summarize(scores), contact_sheet(tiles, columns=4, width=320)


def save_picture(rgb: np.ndarray, path: Path) -> None:
    """Write ``(H, W, 3)`` uint8 RGB in the format given by the file name's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def best_so_far(best: Path, config: RunConfig) -> float:
    """Return the score of the model in the folder ``best`` on these questions.

    Minus infinity if there is no such model, or if it was evaluated on other questions.
    """
    record = best / RECORD
    if not record.exists():
        return float("-inf")
    told = json.loads(record.read_text(encoding="utf-8"))
    same = all(told["config"][f] == getattr(config, f) for f in ("validation_seed", "validation_expressions"))
    return told["evaluation"][SCORE] if same else float("-inf")
