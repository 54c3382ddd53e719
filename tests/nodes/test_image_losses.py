"""Images that are lost in transit are distinguished from a camera with a low rate."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_ros.nodes.perception.image_losses import ImageLosses, Loss

MS = 1_000_000
BEGIN = 1_700_000_000_000 * MS


class Watch:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def played(
    frames: int,
    arrives: Iterable[int],
    *,
    period_ms: float = 33.0,
    speed: float = 1.0,
    infos: bool = True,
    info_offset_ms: int = 0,
) -> tuple[ImageLosses, list[Loss]]:
    """Play a camera's frames, of which some images arrive; return every loss noticed, once a second.

    Args:
        frames: Number of frames.
        arrives: Numbers of the frames that arrive.
        period_ms: Time between frames.
        speed: Seconds of the stamps' time per second of the clock.
        infos: Whether the camera sends CameraInfo.
        info_offset_ms: Difference of the CameraInfo's stamp.
    """
    watch = Watch()
    losses, noticed, arriving, asked = ImageLosses(clock=watch), [], set(arrives), 0.0
    for number in range(frames):
        stamp = BEGIN + int(number * period_ms * MS)
        watch.now = number * period_ms / 1000 / speed
        if infos:
            losses.info(stamp + info_offset_ms * MS)
        if number in arriving:
            losses.image(stamp)
        if watch.now >= asked:
            asked = watch.now + 1.0
            if (loss := losses.loss()) is not None:
                noticed.append(loss)
    return losses, noticed


def survivors(frames: int, share: float, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [number for number in range(frames) if draw.random() < share]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.33])
def test_a_camera_most_of_whose_images_get_lost_is_noticed(share: float) -> None:
    for seed in range(5):
        losses, noticed = played(5000, survivors(5000, share, seed))
        assert noticed
        assert all(loss.images_hz < loss.infos_hz / 2 for loss in noticed)
        assert noticed[-1].infos_hz == pytest.approx(1000 / 33, rel=0.01)


def test_it_ends_when_images_arrive_again() -> None:
    arrives = [*survivors(900, 0.1, 1), *range(900, 990)]
    losses, noticed = played(990, arrives)
    assert noticed and losses.loss() is None


@pytest.mark.parametrize("share", [0.7, 0.9, 1.0])
def test_some_loss_is_no_trouble(share: float) -> None:
    assert not any(played(3000, survivors(3000, share, seed))[1] for seed in range(5))


@pytest.mark.parametrize(
    ("period_ms", "speed"), [(1000.0, 1.0), (33.0, 0.1), (33.0, 1.0), (5000.0, 1.0)], ids=str
)
def test_a_slow_camera_and_a_slow_recording_are_fine(period_ms: float, speed: float) -> None:
    assert not played(600, range(600), period_ms=period_ms, speed=speed)[1]


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 60), st.integers(0, 2**32))
def test_a_throttled_topic_is_fine(every: int, seed: int) -> None:
    """It forwards an image when its period is over: sometimes a frame sooner or later."""
    draw = random.Random(seed)
    arrives, at = [], 0
    while at < 60 * every:
        arrives.append(at)
        at += every + (draw.choice((-1, 0, 0, 0, 1)) if every > 2 else draw.choice((0, 0, 0, 1)))
    assert not played(60 * every, arrives)[1]


def test_a_pause_is_fine() -> None:
    watch = Watch()
    losses = ImageLosses(clock=watch)
    for number in range(60):
        watch.now += 30.0 if number % 20 == 19 else 0.03
        losses.info(BEGIN + number * 33 * MS)
        losses.image(BEGIN + number * 33 * MS)
        assert losses.loss() is None


def test_camera_info_of_another_camera_proves_nothing() -> None:
    assert not played(3000, survivors(3000, 0.1, 0), info_offset_ms=7)[1]
    assert not played(3000, survivors(3000, 0.1, 0), infos=False)[1]


def test_two_cameras_on_one_topic_and_a_recording_that_starts_over_prove_nothing() -> None:
    losses = ImageLosses(clock=Watch())
    for number in survivors(2000, 0.1, 0):
        for camera in (0, 500):
            stamp = BEGIN + (number - camera) * 33 * MS
            losses.info(stamp)
            losses.image(stamp)
            assert losses.loss() is None


def test_messages_without_a_stamp_are_ignored() -> None:
    losses = ImageLosses(clock=Watch())
    for _ in range(100):
        losses.info(0)
        losses.image(0)
    assert losses.loss() is None and losses.infos_since(1.0) == 0


def test_camera_info_is_counted_while_images_stay_away() -> None:
    losses, _ = played(300, range(20))
    assert losses.infos_since(5.0) == pytest.approx(5000 / 33, abs=1)
    losses.clear()
    assert losses.infos_since(5.0) == 0
