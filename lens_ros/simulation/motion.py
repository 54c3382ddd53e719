"""Move the camera, the target or something in front of it, with known truth.

All motion is scripted and smooth; sliding objects keep clear of the others, a lifted one does not touch them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from lens_ros.simulation.layout import Layout, Pool, fits
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Camera, Frame

Motion = Literal["handheld", "wrist", "pushed", "carried", "leaving"]
MOTIONS: tuple[Motion, ...] = get_args(Motion)

RATE = 10.0  # frames per second that the speeds below are meant for
_PUSH_TRIES = 200
_PUSH_LENGTHS = (0.10, 0.22)  # metres
_LEAST_PUSH = 0.04  # metres
_BEYOND_EDGE = 0.25  # radians that a target that leaves goes beyond the edge of the picture
_STEPS_OF_A_PATH = 12  # places along a push at which room is looked for


@dataclass(frozen=True)
class Moment:
    """A scene and the camera that sees it, at one moment of a motion."""

    layout: Layout
    camera: Camera


def moments(
    pool: Pool, layout: Layout, target: int, motion: Motion, rng: np.random.Generator, frames: int = 100
) -> list[Moment]:
    """Return ``frames`` frames of a motion after ``layout``, which is the first one.

    Args:
        pool: that the layout was drawn from.
        layout: the first frame.
        target: index of an object, from 1 as in ``Frame.objects``.
        motion: ``handheld``: the camera sways in a hand. ``wrist``: it approaches the target along an arc and
            rolls, as on an arm. ``pushed``: the target and its nearest neighbour slide over the table and
            back. ``carried``: another object, of the target's color or category if there is any, is lifted
            in front of the target, held there and brought back. ``leaving``: the camera turns until the
            target has left the picture, and returns. In the last three it sways a little.
        frames: number of frames.
        rng: source of all chance.

    Raises:
        ValueError: no such motion, or no such object.
    """
    if motion not in MOTIONS:
        raise ValueError(f"unknown motion {motion!r}: expected one of {', '.join(MOTIONS)}")
    if not 1 <= target <= len(layout.placements):
        raise ValueError(f"target {target}: the scene has objects 1 to {len(layout.placements)}")
    progress = np.linspace(0, 1, frames)
    layouts = [layout] * frames
    if motion == "handheld":
        cameras = _swaying(layout.camera, rng, frames, 1.0)
    elif motion == "wrist":
        cameras = _approaching(layout, target, rng, progress)
    elif motion == "leaving":
        cameras = _turning_away(_swaying(layout.camera, rng, frames, 0.3), pool, layout, target, progress)
    else:
        cameras = _swaying(layout.camera, rng, frames, 0.3)
        paths = _pushed(pool, layout, target, rng) if motion == "pushed" else _carried(layout, target, rng)
        layouts = [_moved(layout, paths, t) for t in progress]
    return [Moment(*each) for each in zip(layouts, cameras, strict=True)]


def moving_frames(
    simulator: TabletopSimulator, seed: int, index: int, story: Sequence[Moment]
) -> Iterator[Frame]:
    """Render :func:`moments` of the scene ``index`` of ``seed``; depth is left empty."""
    for moment in story:
        yield simulator.render(seed, index, moment.layout, camera=moment.camera, depth=False)


def _swaying(camera: Camera, rng: np.random.Generator, frames: int, strength: float) -> list[Camera]:
    """Return a hand's slow drift and tremor: about 5 cm and 3 degrees at strength 1."""
    seconds = np.arange(frames) / RATE
    drift, tremor = _waves(rng, seconds, 7, (0.08, 0.35)), _waves(rng, seconds, 7, (2.0, 4.0))
    wander = strength * (drift + 0.04 * tremor)
    eye, point = camera.pose[:3, 3], _looked_at(camera)
    return [_aimed(eye + 0.05 * w[:3], point + 0.035 * w[3:6], camera.fovy, roll=0.06 * w[6]) for w in wander]


def _waves(
    rng: np.random.Generator, seconds: np.ndarray, count: int, rates: tuple[float, float]
) -> np.ndarray:
    """Return smooth curves ``(frames, count)`` that start at 0 and stay about within -2..2."""
    phase, rate = rng.uniform(0, 2 * np.pi, (3, 1, count)), rng.uniform(*rates, (3, 1, count))
    curves = np.sin(2 * np.pi * rate * seconds[:, None] + phase).sum(axis=0) / 1.7
    return curves - curves[0]


def _approaching(layout: Layout, target: int, rng: np.random.Generator, progress: np.ndarray) -> list[Camera]:
    camera = layout.camera
    goal = np.array(layout.placements[target - 1].position) + (0, 0, 0.03)
    eye, point = camera.pose[:3, 3], _looked_at(camera)
    turn, rolled = rng.choice([-1, 1], 2) * rng.uniform((0.4, 0.2), (0.8, 0.5))
    nearer = rng.uniform(0.4, 0.6)
    cameras = []
    for t in _eased(progress):
        offset = (eye - goal) * (1 - nearer * t)
        cos, sin = np.cos(turn * t), np.sin(turn * t)
        offset = np.array([cos * offset[0] - sin * offset[1], sin * offset[0] + cos * offset[1], offset[2]])
        cameras.append(_aimed(goal + offset, point + (goal - point) * t, camera.fovy, roll=rolled * t))
    return cameras


def _turning_away(
    cameras: list[Camera], pool: Pool, layout: Layout, target: int, progress: np.ndarray
) -> list[Camera]:
    """Turn about the camera's own vertical, to the side that the target leaves first.

    The target is out of sight in the middle.
    """
    view = layout.camera
    x, _, z = (np.array(layout.placements[target - 1].position) - view.pose[:3, 3]) @ view.pose[:3, :3]
    width, height = pool.image_size
    half_view = np.arctan(np.tan(np.radians(view.fovy) / 2) * width / height)
    angle = half_view + _BEYOND_EDGE - abs(np.arctan2(x, z))
    share = np.interp(progress, (0.08, 0.4, 0.6, 0.92), (0, 1, 1, 0))
    turned = []
    for camera, t in zip(cameras, _eased(share), strict=True):
        a = angle * t * (1 if x < 0 else -1)
        pose = camera.pose.copy()
        pose[:3, :3] @= np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
        turned.append(Camera(pose, camera.fovy))
    return turned


_Path = tuple[np.ndarray, np.ndarray, np.ndarray]  # moments (K,), positions (K, 3), yaws (K,)


def _pushed(pool: Pool, layout: Layout, target: int, rng: np.random.Generator) -> dict[int, _Path]:
    """Push the target out, rest, and pull it back; also its nearest neighbour where there is room."""
    here = np.array([p.position for p in layout.placements])
    order = np.argsort(np.linalg.norm(here - here[target - 1], axis=1))[:2]
    footprints = [pool.shapes[p.pool_index].footprint for p in layout.placements]
    standing = {k: [(*p.position[:2], p.yaw)] for k, p in enumerate(layout.placements)}
    paths: dict[int, _Path] = {}
    for number in map(int, order):
        start = here[number]
        others = [(footprints[k], place) for k, places in standing.items() if k != number for place in places]
        best = start
        for _ in range(_PUSH_TRIES):
            bearing, length = rng.uniform(0, 2 * np.pi), rng.uniform(*_PUSH_LENGTHS)
            end = start + length * np.array([np.cos(bearing), np.sin(bearing), 0])
            way = [start + (end - start) * s for s in np.linspace(0, 1, _STEPS_OF_A_PATH)]
            places = [(w[0], w[1], layout.placements[number].yaw) for w in way]
            if all(fits(footprints[number], place, others) for place in places):
                best = end
                standing[number] = places
                break
        if np.linalg.norm(best - start) < _LEAST_PUSH:
            continue
        begin = rng.uniform(0.05, 0.2)
        times = np.array([begin, begin + 0.25, begin + 0.4, begin + 0.65])
        yaw = layout.placements[number].yaw
        paths[number] = (times, np.stack([start, best, best, start]), np.full(4, yaw))
    return paths


def _carried(layout: Layout, target: int, rng: np.random.Generator) -> dict[int, _Path]:
    """Carry an object up and in front of the target, rest there, and return."""
    aim = layout.placements[target - 1]
    others = [k for k in range(len(layout.placements)) if k != target - 1]
    if not others:
        return {}
    likeness = [
        2 * (layout.placements[k].category == aim.category) + (layout.placements[k].color == aim.color)
        for k in others
    ]
    number = others[int(np.argmax(np.array(likeness) + 0.1 * rng.random(len(others))))]
    item = layout.placements[number]
    start, eye = np.array(item.position), layout.camera.pose[:3, 3]
    before = np.array(aim.position) + rng.uniform(0.25, 0.4) * (eye - np.array(aim.position)) + (0, 0, -0.02)
    height = max(0.12, before[2])
    stations = np.stack([start, (*start[:2], height), before, before, (*start[:2], height), start])
    times = np.array([0.06, 0.2, 0.42, 0.58, 0.8, 0.94])
    return {number: (times, stations, np.full(6, item.yaw) + np.array([0, 0, 1, 1.2, 0, 0]) * 0.5)}


def _moved(layout: Layout, paths: dict[int, _Path], t: float) -> Layout:
    placements = list(layout.placements)
    for number, (times, positions, yaws) in paths.items():
        leg = int(np.clip(np.searchsorted(times, t) - 1, 0, len(times) - 2))
        share = float(_eased(np.clip((t - times[leg]) / (times[leg + 1] - times[leg]), 0, 1)))
        x, y, z = positions[leg] + share * (positions[leg + 1] - positions[leg])
        yaw = float(yaws[leg] + share * (yaws[leg + 1] - yaws[leg]))
        placements[number] = replace(placements[number], position=(float(x), float(y), float(z)), yaw=yaw)
    return replace(layout, placements=tuple(placements))


def _looked_at(camera: Camera) -> np.ndarray:
    """Return the point of the table's plane on the camera's axis."""
    eye, axis = camera.pose[:3, 3], camera.pose[:3, 2]
    return eye + axis * (eye[2] / -axis[2])


def _aimed(eye: np.ndarray, point: np.ndarray, fovy: float, *, roll: float) -> Camera:
    camera = Camera.looking_at(eye, point, fovy)
    around = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    camera.pose[:3, :3] = camera.pose[:3, :3] @ around
    return camera


def _eased(share: np.ndarray) -> np.ndarray:
    """Map 0..1 to 0..1, at rest at both ends."""
    return share * share * (3 - 2 * share)
