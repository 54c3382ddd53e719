"""Compute cIoU, gIoU and the rates on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lens_ros.evaluation.metrics import Score, overlap, summarize, summarize_by_kind, summarize_nothing


def make(kind: str, intersection: int, union: int, **values: object) -> Score:
    defaults = {"box_iou": 0.0, "right_object": False, "well_formed": True, "accepted": True, "seconds": 0.1}
    return Score(kind, intersection, union, **{**defaults, **values})


def test_ciou_weighs_pixels_and_giou_weighs_answers() -> None:
    result = summarize([make("a", 90, 100), make("a", 0, 300)])
    assert result["ciou"] == 22.5
    assert result["giou"] == 45.0


def test_two_empty_masks_agree() -> None:
    assert make("a", 0, 0).iou == 1.0


def test_rates() -> None:
    scores = [
        make("a", 1, 2, box_iou=0.5, right_object=True),
        make("a", 1, 2, box_iou=0.51, right_object=True, well_formed=False),
        make("b", 1, 2, accepted=False, seconds=0.3),
    ]
    result = summarize(scores)
    assert (result["n"], result["box_acc50"], result["right_object"]) == (3, 33.33, 66.67)
    assert (result["format_rate"], result["accepted_rate"]) == (66.67, 66.67)
    assert result["median_seconds"] == 0.1
    by_kind = summarize_by_kind(scores)
    assert list(by_kind) == ["a", "b"] and by_kind["b"]["n"] == 1


def test_precision_counts_answers_above_each_threshold() -> None:
    scores = [make("a", overlap, 100) for overlap in (50, 51, 65, 75, 85, 90, 91, 100)]
    result = summarize(scores)
    assert [result[f"pr{t}"] for t in (50, 60, 70, 80, 90)] == [87.5, 75.0, 62.5, 50.0, 25.0]
    assert summarize([make("none", 0, 0)])["pr90"] == 100.0


def test_nothing_there_by_hand() -> None:
    there, said = {"nothing_there": True}, {"nothing_said": True}
    right, missed, false = (
        make("none", 0, 0, **there, **said), make("none", 0, 5, **there), make("a", 1, 2, **said)
    )  # fmt: skip
    scores = [right, right, right, missed, false]
    assert summarize_nothing(scores) == {"precision": 75.0, "recall": 75.0, "questions": 4, "answers": 4}
    silent = [make("a", 1, 2)]
    assert summarize_nothing(silent) == {"precision": None, "recall": None, "questions": 0, "answers": 0}


def test_nothing_to_summarize() -> None:
    with pytest.raises(ValueError, match="nothing"):
        summarize([])


def test_overlap() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:2], b[1:3] = True, True
    assert overlap(a, b) == (4, 12)
