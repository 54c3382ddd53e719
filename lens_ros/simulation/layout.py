"""Draw random scenes: objects, light and camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lens_ros.simulation import catalog
from lens_ros.simulation.meshes import Shape, make_shape
from lens_ros.simulation.scene import Camera, Placement
from lens_ros.simulation.textures import make_texture, make_unseen_texture

SCENES_PER_BLOCK = 64
TABLE_HALF_SIZE = (0.55, 0.45)  # metres
SURFACES = ("table", "floor", "back_wall", "left_wall", "right_wall")

_SHAPES_PER_CATEGORY = 3
_TEXTURES_PER_POOL = 6
_UNSEEN_TEXTURES = 1  # salt of their random numbers
_SIZES = (0.80, 1.0, 1.25)  # times a jitter of 3 %: instances of one category differ clearly
_IMAGE_SIZES = ((320, 240), (256, 256), (384, 216))
_IMAGE_SIZE_SHARES = (0.6, 0.2, 0.2)
_SAME_CATEGORY_SHARE = 0.7
_CLUSTER_SHARE = 0.5
_HELD_OUT_SHARE = 0.5
_GAP = 0.004  # metres between footprints
_PLACEMENT_TRIES = 60


@dataclass(frozen=True)
class Pool:
    """Shapes, textures and the image size that the 64 scenes of a block share.

    textures: (N, S, S, 3) uint8. texture_repeat: (N,) repetitions over a surface.
    image_size: (width, height).
    """

    categories: tuple[str, ...]
    shapes: tuple[Shape, ...]
    glossy: tuple[bool, ...]
    textures: np.ndarray
    texture_repeat: np.ndarray
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Lighting:
    """Light of a scene, each value an RGB or scalar intensity; a white table under it never exceeds 1."""

    key_position: tuple[float, float, float]
    key: tuple[float, float, float]
    fill_direction: tuple[float, float, float]
    fill: float
    ambient: float
    headlight: float


@dataclass(frozen=True)
class Layout:
    """A scene before it is rendered. surfaces: texture index of each of SURFACES."""

    placements: tuple[Placement, ...]
    camera: Camera
    lighting: Lighting
    surfaces: tuple[int, ...]


def sample_pool(seed: int, block: int, *, unseen_textures: bool = False) -> Pool:
    """Draw the pool of a block, a pure function of its arguments.

    Args:
        unseen_textures: the same pool with surfaces that training never shows.
    """
    rng = np.random.default_rng([seed, block, SCENES_PER_BLOCK])
    image_size = _IMAGE_SIZES[rng.choice(len(_IMAGE_SIZES), p=_IMAGE_SIZE_SHARES)]
    categories: list[str] = []
    shapes: list[Shape] = []
    for category in catalog.CATEGORIES:
        for size in rng.permutation(_SIZES):
            categories.append(category)
            shapes.append(make_shape(category, rng, size * rng.uniform(0.97, 1.03)))
    textures = np.stack([make_texture(rng) for _ in range(_TEXTURES_PER_POOL)])
    if unseen_textures:  # from random numbers of their own, so that nothing else of the pool changes
        apart = np.random.default_rng([seed, block, SCENES_PER_BLOCK, _UNSEEN_TEXTURES])
        textures = np.stack([make_unseen_texture(apart) for _ in range(_TEXTURES_PER_POOL)])
    return Pool(
        tuple(categories),
        tuple(shapes),
        tuple(bool(glossy) for glossy in rng.random(len(shapes)) < 0.5),
        textures,
        rng.uniform(1, 3, _TEXTURES_PER_POOL),
        image_size,
    )


def sample_layout(
    pool: Pool, seed: int, index: int, *, count: tuple[int, int] = (3, 9), held_out_pairs: bool = False
) -> Layout:
    """Return scene `index` of `seed`, a pure function of its arguments.

    count: fewest and most objects, both inclusive; a very full table may take fewer than drawn.
    held_out_pairs: allow the pairs of catalog.HELD_OUT_PAIRS, and prefer them half of the time.
    Raises ValueError for a count outside 1..255 or beyond the pool.
    """
    fewest, most = count
    if not 1 <= fewest <= most <= len(pool.shapes):
        raise ValueError(f"count={count}: expected 1 <= fewest <= most <= {len(pool.shapes)} (the pool)")
    rng = np.random.default_rng([seed, index])
    camera, target, distance = _sample_camera(rng)
    lighting = _sample_lighting(rng)
    surfaces = tuple(int(i) for i in rng.integers(len(pool.textures), size=len(SURFACES)))
    chosen = _choose_shapes(rng, pool, int(rng.integers(fewest, most + 1)))
    spots = place_shapes(rng, [pool.shapes[i] for i in chosen], camera, target, distance, pool.image_size)
    placements = []
    for pool_index, spot in zip(chosen, spots, strict=True):
        color, albedo = _sample_color(rng, pool.categories[pool_index], held_out_pairs)
        if spot is not None:
            x, y, yaw = spot
            category = pool.categories[pool_index]
            placements.append(Placement(pool_index, category, color, albedo, (x, y, 0.0), yaw))
    return Layout(tuple(placements), camera, lighting, surfaces)


def place_shapes(
    rng: np.random.Generator,
    shapes: Sequence[Shape],
    camera: Camera,
    target: np.ndarray,
    distance: float,
    image_size: tuple[int, int],
) -> list[tuple[float, float, float] | None]:
    """Return (x, y, yaw) per shape, on the table, apart and in view; None if there was no room.

    target: (3,) world point that `camera` looks at from `distance` metres. image_size: (width, height).
    """
    right = camera.pose[:2, 0]
    ground = camera.pose[:2, 2] / np.linalg.norm(camera.pose[:2, 2])
    reach = distance * np.tan(np.radians(camera.fovy / 2)) * 0.86
    across, along = reach * image_size[0] / image_size[1], reach * 0.8
    center = np.zeros(2)
    if rng.random() < _CLUSTER_SHARE:  # crowd the objects together: real occlusion
        shrink = rng.uniform(0.4, 0.7)
        center = rng.uniform(-1, 1, 2) * (across, along) * (1 - shrink)
        across, along = across * shrink, along * shrink
    occupied = np.zeros((0, 3))
    spots: list[tuple[float, float, float] | None] = []
    for shape in shapes:
        spots.append(None)
        for _ in range(_PLACEMENT_TRIES):
            u, v = center + rng.uniform(-1, 1, 2) * (across, along)
            x, y = target[:2] + u * right + v * ground
            yaw = float(rng.uniform(0, 2 * np.pi))
            circles = _turned(shape.footprint, x, y, yaw)
            if _on_table(circles) and _free(circles, occupied):
                occupied = np.concatenate([occupied, circles])
                spots[-1] = (float(x), float(y), yaw)
                break
    return spots


def fits(
    footprint: np.ndarray,
    place: tuple[float, float, float],
    others: Sequence[tuple[np.ndarray, tuple[float, float, float]]],
) -> bool:
    """Return whether an object has room on the table.

    Footprints are (K, 3) circles at (x, y, yaw): its own, and the same of every other object.
    """
    circles = _turned(footprint, *place)
    taken = [_turned(each, *where) for each, where in others]
    return _on_table(circles) and _free(circles, np.concatenate([np.zeros((0, 3)), *taken]))


def _sample_camera(rng: np.random.Generator) -> tuple[Camera, np.ndarray, float]:
    azimuth = rng.uniform(-0.5, 0.5) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
    elevation = rng.uniform(0.55, 1.2)
    distance = rng.uniform(0.58, 0.92)
    target = np.array([rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05), rng.uniform(0.0, 0.05)])
    direction = np.array(
        [np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)]
    )
    return Camera.looking_at(target + distance * direction, target, rng.uniform(38, 50)), target, distance


def _sample_lighting(rng: np.random.Generator) -> Lighting:
    """Split a capped exposure over the lights, so that no white table clips."""
    exposure = rng.uniform(0.8, 1.15)
    shares = np.array(
        [rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.6), rng.uniform(0, 0.2), rng.uniform(0.05, 0.15)]
    )
    ambient, key, fill, headlight = exposure * shares / shares.sum()
    position = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8), rng.uniform(1.1, 1.7)])
    incidence = position[2] / np.linalg.norm(position)
    tint = np.array([1.0, rng.uniform(0.92, 1.0), rng.uniform(0.84, 1.0)])
    fill_direction = (float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)), -1.0)
    return Lighting(
        tuple(map(float, position)),  # type: ignore[arg-type]
        tuple(map(float, key / incidence * tint)),  # type: ignore[arg-type]
        fill_direction,
        float(fill),
        float(ambient),
        float(headlight),
    )


def _choose_shapes(rng: np.random.Generator, pool: Pool, number: int) -> list[int]:
    """Pool indices; most scenes get two or three of one category, so that a category alone is ambiguous."""
    order = [int(i) for i in rng.permutation(len(pool.shapes))]
    chosen: list[int] = []
    if rng.random() < _SAME_CATEGORY_SHARE:
        category = pool.categories[order[0]]
        siblings = [i for i in order if pool.categories[i] == category]
        chosen = siblings[: int(rng.integers(2, 4))]
    return (chosen + [i for i in order if i not in chosen])[:number]


def _turned(circles: np.ndarray, x: float, y: float, yaw: float) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    centers = circles[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    return np.concatenate([centers, circles[:, 2:]], axis=1)


def _on_table(circles: np.ndarray) -> bool:
    return bool((np.abs(circles[:, :2]) + circles[:, 2:] < TABLE_HALF_SIZE).all())


def _free(circles: np.ndarray, occupied: np.ndarray) -> bool:
    gaps = np.linalg.norm(circles[:, None, :2] - occupied[None, :, :2], axis=-1)
    return bool((gaps > circles[:, None, 2] + occupied[None, :, 2] + _GAP).all())


def _sample_color(
    rng: np.random.Generator, category: str, held_out_pairs: bool
) -> tuple[str, tuple[float, float, float]]:
    colors = catalog.training_colors(category)
    if held_out_pairs:
        rare = catalog.held_out_colors(category)
        colors = rare if rare and rng.random() < _HELD_OUT_SHARE else catalog.natural_colors(category)
    color = colors[rng.integers(len(colors))]
    albedo = np.array(catalog.COLOR_ALBEDO[color]) * rng.uniform(0.9, 1.08) + rng.normal(0, 0.015, 3)
    red, green, blue = (float(value) for value in np.clip(albedo, 0.02, 0.97))
    return color, (red, green, blue)
