from __future__ import annotations

import numpy as np
import pytest

from lens_ros.simulation.motion import MOTIONS, Moment, Motion, moments, moving_frames
from lens_ros.simulation.renderer import TabletopSimulator

SEED, TARGET = 9701, 1


def story(simulator: TabletopSimulator, index: int, motion: Motion, target: int = TARGET) -> list[Moment]:
    layout = simulator.layout(SEED, index, count=(4, 9))
    return moments(simulator.pool(SEED, index), layout, target, motion, np.random.default_rng(index))


@pytest.mark.parametrize("motion", MOTIONS)
def test_begins_as_the_scene_is_and_moves_smoothly(simulator: TabletopSimulator, motion: Motion) -> None:
    for index in range(5):
        told = story(simulator, index, motion)
        layout = simulator.layout(SEED, index, count=(4, 9))
        assert len(told) == 100 and told[0].layout.placements == layout.placements
        assert np.allclose(told[0].camera.pose, layout.camera.pose)
        eyes = np.array([m.camera.pose[:3, 3] for m in told])
        places = np.array([[p.position for p in m.layout.placements] for m in told])
        assert np.linalg.norm(np.diff(eyes, axis=0), axis=-1).max() < 0.05  # metres in 0.1 s
        assert np.linalg.norm(np.diff(places, axis=0), axis=-1).max() < 0.06
        turns = [
            a.camera.pose[:3, :3].T @ b.camera.pose[:3, :3] for a, b in zip(told, told[1:], strict=False)
        ]
        assert max(np.arccos(np.clip((np.trace(t) - 1) / 2, -1, 1)) for t in turns) < 0.15
        moved = (np.ptp(places, axis=0).max(axis=-1) > 0.01).sum()
        assert moved == 0 if motion in ("handheld", "wrist", "leaving") else moved <= 2


def test_the_same_random_numbers_give_the_same_motion(simulator: TabletopSimulator) -> None:
    one, two = story(simulator, 3, "carried"), story(simulator, 3, "carried")
    assert [m.layout.placements for m in one] == [m.layout.placements for m in two]
    assert all(np.array_equal(a.camera.pose, b.camera.pose) for a, b in zip(one, two, strict=True))


def test_what_is_pushed_moves_and_comes_back_on_the_table(simulator: TabletopSimulator) -> None:
    moved = 0
    for index in range(6):
        told = story(simulator, index, "pushed")
        track = np.array([m.layout.placements[TARGET - 1].position for m in told])
        assert np.all(track[:, 2] == 0) and np.allclose(track[-1], track[0])
        moved += np.linalg.norm(track - track[0], axis=1).max() > 0.04
    assert moved >= 4  # now and then there is no room


def test_the_target_leaves_and_returns(simulator: TabletopSimulator) -> None:
    for index in (4, 9, 14):
        told = story(simulator, index, "leaving")
        seen = [f.objects[TARGET - 1] for f in moving_frames(simulator, SEED, index, told[::49])]
        assert seen[0].area > 0 and seen[2].area > 0
        assert seen[1].area == 0


def test_what_is_carried_comes_before_the_target(simulator: TabletopSimulator) -> None:
    hidden = []
    for index in (13, 18, 7):
        told = story(simulator, index, "carried")
        first, middle = moving_frames(simulator, SEED, index, [told[0], told[50]])
        hidden.append(first.objects[0].visible_fraction - middle.objects[0].visible_fraction)
    assert max(hidden) > 0.5


def test_refuses_what_is_not_there(simulator: TabletopSimulator) -> None:
    with pytest.raises(ValueError, match="unknown motion 'flying'"):
        story(simulator, 0, "flying")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="objects 1 to"):
        story(simulator, 0, "handheld", target=40)
