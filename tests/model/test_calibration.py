from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_ros.instances import Instance, judged, least_score
from lens_ros.model.config import LensConfig
from lens_ros.model.score_calibration import Calibration, Certainty, certainty_of

CALIBRATION = Calibration(
    bias=2.0, consistency=0.4, least_word=0.8, least_number=0.3, threshold=0.9, precision=0.95
)
shares = st.floats(0, 1)
certainties = st.builds(Certainty, st.floats(-20, 0), st.floats(-20, 0))
SURE, UNSURE = Certainty(-0.01, -0.01), Certainty(-6.0, -0.01)


@given(shares, certainties)
def test_a_probability_whatever_the_evidence(consistency: float, certainty: Certainty) -> None:
    assert 0 <= CALIBRATION.probability(consistency, certainty) <= 1


@given(shares, shares, certainties)
def test_more_evidence_is_never_less_probable(one: float, other: float, certainty: Certainty) -> None:
    low, high = sorted((one, other))
    probability = CALIBRATION.probability
    assert probability(high, certainty) >= probability(low, certainty)
    for change in ("least_word", "least_number"):
        less = dataclasses.replace(certainty, **{change: getattr(certainty, change) - 3})
        assert probability(low, certainty) >= probability(low, less)


def test_words_and_numbers_are_told_apart_and_the_end_is_a_word() -> None:
    tokens = ["so", "the", "mug", "(", "141", "9", ")"]
    log_probs = [-0.1, -0.2, -0.7, -0.1, -3.0, -0.5, 0.0]
    assert certainty_of(tokens, log_probs) == Certainty(-0.7, -3.0)
    assert certainty_of(tokens, [*log_probs, -0.9]) == Certainty(-0.9, -3.0)
    assert certainty_of(["mug"], [-0.2]) == Certainty(-0.2, 0.0)
    assert certainty_of([], []) == Certainty(0.0, 0.0)


def test_the_score_is_the_expected_iou_where_nothing_is_calibrated() -> None:
    mask = np.ones((4, 4), bool)
    instance = Instance(mask, (0, 0, 4, 4), 0.7, "mug", 0.9, expected_iou=0.7)
    assert judged(instance, None, UNSURE, 0.0) == judged(instance, None, UNSURE, None) == instance
    assert judged(instance, None, SURE, 0.8).rejected == "its score 0.70 is below the score_threshold 0.8"
    sure, unsure = (judged(instance, CALIBRATION, certainty, 0.8) for certainty in (SURE, UNSURE))
    assert sure.rejected == "" and sure.score > 0.8
    assert "below the score_threshold 0.8" in unsure.rejected and unsure.score < 0.8
    assert unsure.expected_iou == 0.7


def test_the_models_own_threshold_counts_until_the_caller_names_one() -> None:
    instance = Instance(np.ones((4, 4), bool), (0, 0, 4, 4), 0.7, "mug", 0.5, expected_iou=0.7)
    certainty = Certainty(-0.13, 0.0)  # scores just below 0.9
    told = judged(instance, CALIBRATION, certainty, None)
    assert 0.865 < told.score < 0.9
    assert told.rejected == (
        "its score 0.86 is below 0.9, the model's own threshold: 95% of what reaches it is right"
    )
    assert judged(instance, CALIBRATION, certainty, 0.0).rejected == ""
    assert judged(instance, CALIBRATION, certainty, told.score).rejected == ""
    assert [least_score(c, t) for c in (None, CALIBRATION) for t in (None, 0.0, 1.0)] == [0, 0, 1, 0.9, 0, 1]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="score_threshold is .*; expected 0 to 1"):
        least_score(CALIBRATION, threshold)


def test_what_was_rejected_keeps_its_reason_and_an_empty_mask_its_score() -> None:
    empty = Instance(np.zeros((4, 4), bool), (0, 0, 1, 1), 0.0, "mug", 0.0, rejected="no pixels")
    told = judged(empty, CALIBRATION, SURE, 0.5)
    assert told.rejected == "no pixels" and told.score == 0


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
def test_is_kept_in_the_configuration(calibration: Calibration | None) -> None:
    config = LensConfig(reasoner={}, segmenter={}, calibration=calibration)
    assert LensConfig.from_dict(dataclasses.asdict(config)) == config
    old = dataclasses.asdict(config)
    del old["calibration"]  # configurations of before
    assert LensConfig.from_dict(old).calibration is None
