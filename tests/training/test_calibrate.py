from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from training.tools.calibrate import Case, calibration_error, fitted, scores, threshold_for, with_threshold


def drawn(weights: tuple[float, float, float, float], count: int, seed: int) -> list[Case]:
    """Draw cases whose truth follows a regression with these weights; the last one is the bias."""
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(count, 3)) * (2, 1, 1) + (3, -1, -2)
    p = 1 / (1 + np.exp(-(evidence @ weights[:3] + weights[3])))
    right = rng.random(count) < p
    return [
        Case("in_distribution", 0.9, tuple(map(float, e)), bool(r))
        for e, r in zip(evidence, right, strict=True)
    ]


def test_finds_the_weights_that_truth_follows_and_is_calibrated_on_other_cases() -> None:
    weights = (0.3, 0.8, 0.5, 2.0)
    known = drawn(weights, 20_000, 1)
    calibration = with_threshold(fitted(known), known)
    found = [getattr(calibration, f.name) for f in dataclasses.fields(calibration)][:4]
    assert found == pytest.approx([weights[3], *weights[:3]], abs=0.12)
    others = drawn(weights, 20_000, 2)
    right = np.array([c.right for c in others])
    score = scores(calibration, others)
    assert calibration_error(score, right) < 0.015
    assert right[score >= calibration.threshold].mean() > 0.95
    for case, value in list(zip(others, score, strict=True))[:20]:
        logit = np.array(case.evidence) @ found[1:] + found[0]
        assert value == pytest.approx(1 / (1 + np.exp(-logit)))


def test_refuses_what_holds_no_contrast() -> None:
    with pytest.raises(ValueError, match="all are wrong"):
        fitted([dataclasses.replace(c, right=True) for c in drawn((0, 0, 0, 0), 50, 1)])


def test_the_threshold_is_the_least_that_will_do() -> None:
    score = np.repeat([0.2, 0.5, 0.8], 100)
    right = np.r_[np.arange(100) < 50, np.arange(100) < 90, np.arange(100) < 99]
    assert threshold_for(score, right, 0.94) == pytest.approx(0.21)
    assert threshold_for(score, right, 0.98) == pytest.approx(0.51)
    assert threshold_for(score, right, 0.999) == 1.0


def test_calibration_error_by_hand() -> None:
    score = np.array([0.95, 0.95, 0.95, 0.95, 0.15, 0.15])
    right = np.array([True, True, True, False, False, False])
    assert calibration_error(score, right) == pytest.approx((4 * 0.2 + 2 * 0.15) / 6)
    assert calibration_error(np.array([1.0]), np.array([True])) == 0
