"""Turn an answer and its masks into objects, each accepted or rejected with a reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lens_ros.codes import Code, Coded
from lens_ros.model.answer_parsing import Box, ParsedAnswer
from lens_ros.model.score_calibration import Calibration, Certainty

MIN_CONSISTENCY = 0.3  # IoU of the answer's box and the mask's box below which an instance is rejected


@dataclass(frozen=True)
class Instance:
    """One object that was found.

    Attributes:
        mask: ``(H, W)`` bool.
        box: ``x1, y1, x2, y2`` of the mask in pixels, ``x2``/``y2`` exclusive; the answer's box where the
            mask is empty.
        score: how probable it is that this is an object that was asked for, with a mask IoU of at least 0.5,
            where the model is calibrated (:mod:`lens_ros.model.score_calibration`); else ``expected_iou``.
        expected_iou: the segmenter's own estimate of the mask's IoU, 0..1.
        label: what the reasoner calls it, such as ``"gray cup"``.
        consistency: IoU of the answer's box and the mask's box, 0..1.
        rejected: ``""``, or why this mask must not be acted upon.
    """

    mask: np.ndarray
    box: tuple[float, float, float, float]
    score: float
    label: str
    consistency: float
    rejected: str = ""
    expected_iou: float = 0.0


def shared_out(mask: np.ndarray, score: float, boxes: Sequence[Box]) -> tuple[Instance, ...]:
    """Give each pixel of LENS's one mask for all targets to the box with the nearest centre.

    Args:
        mask: ``(H, W)`` bool.
    """
    height, width = mask.shape
    parts = _share(mask, [_pixels(box, height, width) for box in boxes])
    return tuple(_instance(part, box, score) for part, box in zip(parts, boxes, strict=True))


def one_each(masks: np.ndarray, scores: Sequence[float], boxes: Sequence[Box]) -> tuple[Instance, ...]:
    """Return one instance per box and mask ``(N, H, W)`` bool (the decoupled path)."""
    return tuple(_instance(*each) for each in zip(masks, boxes, scores, strict=True))


def least_score(calibration: Calibration | None, score_threshold: float | None) -> float:
    """Return the threshold: the caller's, else the model's own, else 0 without a calibration.

    Raises:
        ValueError: it is not a number from 0 to 1.
    """
    if score_threshold is None:
        return 0.0 if calibration is None else calibration.threshold
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold is {score_threshold}; expected 0 to 1, or None: the model's own")
    return score_threshold


def judged(
    instance: Instance,
    calibration: Calibration | None,
    certainty: Certainty,
    score_threshold: float | None,
) -> Instance:
    """Return the instance with its score, rejected if that is below the threshold.

    Args:
        instance: as the segmenter made it.
        calibration: the model's; None scores by the expected IoU.
        certainty: of the answer that it is from.
        score_threshold: as for :func:`least_score`.
    """
    score, least = instance.expected_iou, least_score(calibration, score_threshold)
    if calibration is not None and instance.mask.any():
        score = calibration.probability(instance.consistency, certainty)
    rejected = instance.rejected
    if not rejected and score < least:
        shown = math.floor(100 * score + 1e-9) / 100  # rounded up, it might not look below
        reason = f"its score {shown:.2f} is below the score_threshold {least:g}"
        if calibration is not None and score_threshold is None:
            reason = (
                f"its score {shown:.2f} is below {least:g}, the model's own threshold: "
                f"{calibration.precision:.0%} of what reaches it is right"
            )
        rejected = Coded(reason, Code.LOW_SCORE)
    return dataclasses.replace(instance, score=score, rejected=rejected)


def why_nothing(answer: ParsedAnswer, instances: Sequence[Instance]) -> str:
    """Return the reason why there is no accepted instance; ``""`` if there is one."""
    if any(not instance.rejected for instance in instances):
        return ""
    if instances:
        return all_rejected(instances)
    if answer.well_formed:
        return Coded("the reasoner found nothing that fits the instruction", Code.NOTHING_FITS)
    return Coded("the reasoner's answer holds no readable box", Code.UNREADABLE_ANSWER)


def all_rejected(instances: Sequence[Instance]) -> Coded:
    """Return the reasons of rejected instances as one."""
    return Coded("; ".join(instance.rejected for instance in instances), Code.ALL_REJECTED)


def without_specks(mask: np.ndarray, share: float) -> np.ndarray:
    """Return the mask without connected parts smaller than ``share`` of the largest.

    ``(H, W)`` bool; pixels with a common corner are connected.
    """
    if share <= 0 or not mask.any():
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the background
    return (areas >= share * areas.max())[labels] & mask


def box_iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Return the intersection over union of two ``x1, y1, x2, y2`` boxes; 0 where both are empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return the box ``x1, y1, x2, y2`` of the pixels of a mask ``(H, W)`` bool.

    ``x2``/``y2`` are exclusive; zeros for an empty mask.
    """
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return 0.0, 0.0, 0.0, 0.0
    return float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1)


def union(instances: Sequence[Instance], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of all accepted instances, ``(H, W)`` bool."""
    mask = np.zeros(size, dtype=bool)
    for instance in instances:
        if not instance.rejected:
            mask |= instance.mask
    return mask


def _pixels(box: Box, height: int, width: int) -> tuple[float, float, float, float]:
    return box.x1 * width, box.y1 * height, box.x2 * width, box.y2 * height


def _share(mask: np.ndarray, boxes: Sequence[tuple[float, float, float, float]]) -> list[np.ndarray]:
    if len(boxes) == 1:
        return [mask]
    y, x = np.nonzero(mask)
    parts = [np.zeros_like(mask) for _ in boxes]
    if boxes and x.size:
        distance = np.array([np.hypot(x - (x1 + x2) / 2, y - (y1 + y2) / 2) for x1, y1, x2, y2 in boxes])
        owner = distance.argmin(axis=0)
        for index, part in enumerate(parts):
            part[y[owner == index], x[owner == index]] = True
    return parts


def _instance(mask: np.ndarray, found: Box, score: float) -> Instance:
    box = _pixels(found, *mask.shape)
    if not mask.any():
        empty = Coded("the segmenter found no pixels for it", Code.EMPTY_MASK)
        return Instance(mask, box, 0.0, found.label, 0.0, rejected=empty)
    mask_box = box_of(mask)
    consistency = box_iou(box, mask_box)
    rejected = ""
    if consistency < MIN_CONSISTENCY:
        reason = f"the answer's box and the mask disagree (IoU {consistency:.2f} < {MIN_CONSISTENCY})"
        rejected = Coded(reason, Code.INCONSISTENT)
    return Instance(mask, mask_box, score, found.label, consistency, rejected, score)
