from __future__ import annotations

import numpy as np
import pytest

from lens_ros.evaluation.tracking import Step, step_of, summarize_tracking

INSTANCES = np.zeros((20, 40), np.uint8)
INSTANCES[5:15, 5:15] = 1
INSTANCES[5:15, 15:25] = 2


def step(mask: np.ndarray, target: int = 1) -> Step:
    return step_of(mask, INSTANCES, target, progress=0.5, visible=1.0, asked=False, seconds=0.01)


def test_the_wrong_object_is_the_one_that_fits_better() -> None:
    right = step(INSTANCES == 1)
    assert right.iou == 1 and right.masked and not right.wrong
    other = step(INSTANCES == 2)
    assert other.iou == 0 and other.wrong
    shifted = INSTANCES == 1
    assert not step(np.roll(shifted, 4, axis=1)).wrong
    assert step(np.roll(shifted, 6, axis=1)).wrong
    table = np.zeros_like(shifted)
    table[:4, 30:] = True
    assert step(table).wrong
    nothing = step(np.zeros_like(shifted))
    assert not nothing.masked and not nothing.wrong and nothing.iou == 0


def test_a_mask_of_what_cannot_be_seen_is_wrong() -> None:
    assert step(INSTANCES == 1, target=3).wrong
    assert step(np.zeros_like(INSTANCES, dtype=bool), target=3).iou == 1


def test_numbers_by_hand() -> None:
    def at(progress: float, visible: float, iou: float, masked: bool, wrong: bool, asked: bool) -> Step:
        return Step(progress, visible, iou, masked, wrong, asked, seconds=0.02)

    result = summarize_tracking(
        [
            at(0.1, 1.0, 0.9, True, False, False),
            at(0.3, 0.4, 0.5, True, False, False),
            at(0.5, 0.0, 0.0, True, True, False),
            at(0.6, 0.0, 1.0, False, False, True),
            at(0.9, 1.0, 0.0, False, False, True),
        ]
    )
    assert result == {
        "frames": 5, "j": 46.67, "j_last_quarter": 0.0, "j_masked": 70.0, "wrong_object": 33.33,
        "lost_in_view": 50.0, "lost_hidden": 50.0, "asked": 40.0, "median_ms": 20.0, "p95_ms": 20.0,
    }  # fmt: skip
    assert summarize_tracking([at(0.9, 1.0, 0.8, True, False, False)])["lost_hidden"] is None
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarize_tracking([])
