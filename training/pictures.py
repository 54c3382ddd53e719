"""Pictures of answers beside the truth."""

from __future__ import annotations

import cv2

from lens_ros.evaluation.metrics import Score
from lens_ros.lens import Segmentation
from lens_ros.visualization import Tile, overlay
from training.data.questions import Question


def answer_tile(question: Question, answer: Segmentation, result: Score) -> Tile:
    """The answer as an overlay, the true boxes in white, instruction and mask IoU as the title."""
    picture = overlay(question.frame.rgb, answer)
    for o in question.frame.objects:
        if o.index in question.expression.targets:
            x1, y1, x2, y2 = o.box
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), (255, 255, 255), 1)
    return Tile(picture, f"{question.expression.text}  [{result.iou:.2f}]", answer.reasoning)
