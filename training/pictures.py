"""Pictures of answers next to the truth."""

from __future__ import annotations

import cv2
import numpy as np

from lens_ros.evaluation.metrics import Score
from lens_ros.segmentation import Segmentation
from lens_ros.visualization import Tile, overlay
from training.data.questions import Question


def drawn_answer(question: Question, answer: Segmentation) -> np.ndarray:
    """Return ``(H, W, 3)`` uint8 RGB: the answer as an overlay, the true boxes in white."""
    picture = overlay(question.frame.rgb, answer)
    for o in question.frame.objects:
        if o.index in question.expression.targets:
            x1, y1, x2, y2 = o.box
            # Black outline, since white is invisible on a white table.
            cv2.rectangle(picture, (x1 - 1, y1 - 1), (x2, y2), (0, 0, 0), 1)
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), (255, 255, 255), 1)
    return picture


def answer_tile(question: Question, answer: Segmentation, result: Score) -> Tile:
    """Return :func:`drawn_answer` with instruction and mask IoU as the title and the reasoning below."""
    title = f"{question.expression.text}  [{result.iou:.2f}]"
    return Tile(drawn_answer(question, answer), title, answer.reasoning)
