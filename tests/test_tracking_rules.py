from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_ros.tracking.colors import color_histogram, color_peak
from lens_ros.tracking.rules import FIRST_WAIT_S, LONGEST_WAIT_S, Checks, Observation, ReasonAgain, why_lost

shares = st.floats(0, 1)
observations = st.builds(
    Observation,
    area=st.integers(0, 5000),
    last_area=st.floats(1, 5000),
    likeness=shares,
    overlap=shares,
    score=shares,
)
SAME = Observation(area=500, last_area=500, likeness=0.95, overlap=0.9, score=0.9)
CHECKS = Checks()


@given(observations)
def test_a_verdict_says_exactly_what_the_thresholds_say(seen: Observation) -> None:
    factor = seen.area / seen.last_area
    fine = (
        seen.area > 0
        and seen.likeness >= CHECKS.likeness
        and seen.overlap >= CHECKS.overlap
        and seen.score >= CHECKS.score
        and 1 / CHECKS.growth <= factor <= CHECKS.growth
    )
    assert (why_lost(seen, CHECKS, was_lost=False) == "") == fine


@given(observations)
def test_what_was_lost_is_taken_up_more_strictly(seen: Observation) -> None:
    if not why_lost(seen, CHECKS, was_lost=True):
        assert not why_lost(seen, CHECKS, was_lost=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"area": 0}, "no pixels"),
        ({"likeness": 0.2}, "other colors (alike by 0.20"),
        ({"score": 0.1}, "not sure"),
        ({"area": 100}, "factor of 0.20"),
        ({"area": 5000}, "factor of 10.00"),
        ({"overlap": 0.01}, "does not fit its place"),
        ({"likeness": math.nan}, "other colors"),
        ({"score": math.nan}, "not sure"),
    ],
)
def test_a_loss_is_told_in_words(change: dict, words: str) -> None:
    assert why_lost(SAME, CHECKS, was_lost=False) == why_lost(SAME, CHECKS, was_lost=True) == ""
    lost = Observation(**{**SAME.__dict__, **change})
    assert words in why_lost(lost, CHECKS, was_lost=False)


@pytest.mark.parametrize("wrong", [{"likeness": 1.2}, {"score": -0.1}, {"growth": 0.9}, {"regain": math.nan}])
def test_impossible_checks_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Checks(**wrong)


@given(step=st.floats(0.02, 0.3), start=st.floats(0, 1e6))
def test_a_target_that_stays_lost_is_asked_about_ever_more_rarely(step: float, start: float) -> None:
    again = ReasonAgain()
    asked = []
    for tick in range(1000):
        now = start + tick * step
        again.observe(now, lost=True)
        if again.due(now):
            again.asked(now)
            assert not again.due(now)
            asked.append(now)
    assert asked[0] >= start + FIRST_WAIT_S - 1e-9
    waits = np.diff(asked)
    assert all(later >= earlier - 2 * step for earlier, later in zip(waits, waits[1:], strict=False))
    assert all(wait <= LONGEST_WAIT_S + step + 1e-6 for wait in waits)


def test_nothing_is_due_while_the_target_is_held() -> None:
    again = ReasonAgain()
    for tick in range(100):
        again.observe(tick * 0.1, lost=False)
        assert not again.due(tick * 0.1)


def test_what_passes_by_is_waited_for_and_a_held_target_starts_anew() -> None:
    again = ReasonAgain()
    again.observe(0.0, lost=True)
    again.observe(0.25, lost=False)  # it only passed by
    again.observe(0.5, lost=True)
    assert not again.due(0.75) and again.due(0.81)
    again.asked(1.0)  # the next wait is 0.6 s
    again.observe(1.2, lost=False)
    again.observe(1.3, lost=True)  # lost at once: the wait stays long
    assert not again.due(1.85) and again.due(1.95)
    again.asked(2.0)  # 1.2 s
    again.observe(2.1, lost=False)
    again.observe(4.0, lost=False)  # held for long: as at the beginning
    again.observe(5.0, lost=True)
    assert not again.due(5.25) and again.due(5.35)


def picture(color: tuple[int, int, int], x: int, y: int, size: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.full((120, 160, 3), 128, np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[y : y + size, x : x + size] = True
    rgb[mask] = color
    return rgb, mask


colors = st.tuples(*[st.integers(0, 255)] * 3)


@given(colors, st.integers(-6, 6))
def test_a_color_is_nearly_itself_in_slightly_other_light(color: tuple, light: int) -> None:
    here, mask = picture(color, 40, 40)
    there, _ = picture(tuple(int(np.clip(c + light, 0, 255)) for c in color), 40, 40)
    one, two = color_histogram(here, mask), color_histogram(there, mask)
    assert one.sum() == pytest.approx(1, abs=1e-5)
    assert np.minimum(one, one).sum() == pytest.approx(1, abs=1e-5)
    assert np.minimum(one, two).sum() > 0.25


def test_colors_tell_things_apart_and_none_has_none() -> None:
    red, mask = picture((200, 20, 20), 40, 40)
    blue, _ = picture((20, 60, 200), 40, 40)
    assert np.minimum(color_histogram(red, mask), color_histogram(blue, mask)).sum() < 0.01
    assert color_histogram(red, np.zeros_like(mask)).sum() == 0


@given(st.integers(-18, 18), st.integers(-18, 18))
def test_finds_where_its_colors_went(dx: int, dy: int) -> None:
    before, mask = picture((200, 20, 20), 60, 50)
    after, _ = picture((200, 20, 20), 60 + dx, 50 + dy)
    x1, y1, x2, y2 = color_peak(after, color_histogram(before, mask), (60, 50, 80, 70))
    assert (x2 - x1, y2 - y1) == (20, 20)
    assert abs(x1 - 60 - dx) <= 2 and abs(y1 - 50 - dy) <= 2


def test_a_box_outside_of_the_image_stays_where_it_is() -> None:
    rgb, mask = picture((200, 20, 20), 60, 50)
    box = (400.0, 300.0, 420.0, 320.0)
    assert color_peak(rgb, color_histogram(rgb, mask), box) == box
