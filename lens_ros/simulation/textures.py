"""Make procedural textures for the table, the floor and the walls.

`make_texture` draws the families that training sees, `make_unseen_texture` others, kept for evaluation.
"""

from __future__ import annotations

import cv2
import numpy as np

TEXTURE_SIZE = 192

_WOOD_TONES = ((0.62, 0.45, 0.28), (0.45, 0.30, 0.18), (0.72, 0.58, 0.40), (0.33, 0.22, 0.14))
_STONE_TONES = ((0.78, 0.76, 0.72), (0.55, 0.56, 0.58), (0.30, 0.33, 0.36), (0.66, 0.62, 0.56))


def make_texture(rng: np.random.Generator, size: int = TEXTURE_SIZE) -> np.ndarray:
    """Return a random surface: wood, stone, cloth, tiles or paint; (size, size, 3) uint8 RGB.

    The mean albedo stays within 0.12..0.84, so that black and white objects remain visible.
    """
    kind = rng.choice(["wood", "stone", "cloth", "tiles", "paint"], p=[0.32, 0.25, 0.15, 0.13, 0.15])
    if kind == "wood":
        base, pattern = _tone(rng, _WOOD_TONES), _wood_grain(rng, size)
    elif kind == "stone":
        base, pattern = _tone(rng, _STONE_TONES), _mottle(rng, size)
    elif kind == "tiles":
        base, pattern = _tone(rng, _STONE_TONES + _WOOD_TONES), 0.4 * _mottle(rng, size) + _tiles(rng, size)
    elif kind == "cloth":
        base, pattern = _muted(rng), _weave(rng, size)
    else:
        base, pattern = _muted(rng), 0.25 * _mottle(rng, size)
    contrast = rng.uniform(0.06, 0.15)
    albedo = base * (1 + contrast * pattern[..., None])
    return (np.clip(albedo, 0.05, 0.9) * 255).astype(np.uint8)


def make_unseen_texture(rng: np.random.Generator, size: int = TEXTURE_SIZE) -> np.ndarray:
    """Return a random surface of a family that `make_texture` never draws.

    Terrazzo, striped carpet, printed paper or plaid; (size, size, 3) uint8 RGB, bolder than the others, and
    within the same bounds.
    """
    pattern = (_terrazzo, _carpet, _paper, _plaid)[rng.integers(4)]
    albedo = pattern(rng, size) * (1 + 0.04 * _mottle(rng, size)[..., None])
    return (np.clip(albedo, 0.05, 0.9) * 255).astype(np.uint8)


def _tone(rng: np.random.Generator, tones: tuple) -> np.ndarray:
    tone = np.array(tones[rng.integers(len(tones))])
    return np.clip(tone * rng.uniform(0.8, 1.15) + rng.normal(0, 0.015, 3), 0.12, 0.84)


def _muted(rng: np.random.Generator) -> np.ndarray:
    """Return a color of low saturation: strong colors are for the objects."""
    gray = rng.uniform(0.18, 0.8)
    return np.clip(gray + (rng.uniform(0, 1, 3) - 0.5) * 0.28, 0.12, 0.84)


def _wood_grain(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    warp = 0.1 * np.sin(2 * np.pi * (x * rng.integers(1, 3) + rng.random()))
    rings = sum(
        rng.uniform(0.2, 1) * np.sin(2 * np.pi * (frequency * y + rng.random() + warp))
        for frequency in rng.integers(3, rng.integers(9, 20), 5)
    )
    fibers = rng.normal(size=(size, 1)) * np.ones((1, size))
    return rings / 2.5 + 0.3 * fibers


def _mottle(rng: np.random.Generator, size: int) -> np.ndarray:
    noise = np.zeros((size, size), np.float32)
    for cells in (6, 16, 48, size):
        layer = rng.normal(size=(cells, cells)).astype(np.float32)
        noise += 0.35 * cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC)
    return noise


def _tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    columns, rows = rng.integers(3, 9, 2)
    if rng.random() < 0.5:
        return 1.6 * (((x * columns).astype(int) + (y * rows).astype(int)) % 2)
    joint = ((x * columns) % 1 < 0.06) | ((y * rows) % 1 < 0.06)
    return -3.0 * joint


def _weave(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    period = int(rng.integers(4, 9))
    threads = np.sin(2 * np.pi * x / period) + np.sin(2 * np.pi * y / period)
    stripes = np.sin(2 * np.pi * x / size * rng.integers(2, 8)) * (rng.random() < 0.4)
    return 0.5 * threads + 1.2 * stripes + 0.3 * _mottle(rng, size)


def _other(rng: np.random.Generator, color: np.ndarray) -> np.ndarray:
    """Return a muted color that is clearly lighter or darker."""
    shift = rng.uniform(0.2, 0.3)
    lighter = color.mean() + shift < 0.8 and (color.mean() - shift < 0.16 or rng.random() < 0.5)
    return np.clip(color + (shift if lighter else -shift) + rng.normal(0, 0.03, 3), 0.12, 0.84)


def _terrazzo(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint angular chips of some tones, scattered in one ground."""
    ground = _muted(rng)
    chips = np.stack([_other(rng, ground), _other(rng, ground), _muted(rng)])
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = ground
    for _ in range(int(rng.integers(140, 260))):
        corners = int(rng.integers(3, 7))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        reach = rng.uniform(0.4, 1, corners) * rng.uniform(2, 7) * size / TEXTURE_SIZE
        spokes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        outline = rng.uniform(0, size, 2) + reach[:, None] * spokes
        color = chips[rng.integers(len(chips))].tolist()
        cv2.fillPoly(picture, [(outline * 16).astype(np.int32)], color, cv2.LINE_AA, shift=4)
    return picture


def _carpet(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint stripes of several widths and three tones, straight or slanting."""
    ground = _muted(rng)
    tones = np.stack([ground, _other(rng, ground), _muted(rng)])
    widths = rng.uniform(0.4, 1.6, int(rng.integers(8, 20)))
    borders = np.cumsum(widths) / widths.sum()
    colors = np.cumsum(rng.integers(1, 3, len(widths))) % 3  # never twice the same
    y, x = np.mgrid[0:size, 0:size] / size
    place = (x + rng.integers(-1, 2) * y) % 1
    return tones[colors[np.searchsorted(borders[:-1], place)]]


def _paper(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint dots or diamonds in staggered rows."""
    ground = _muted(rng)
    y, x = np.mgrid[0:size, 0:size] / size
    columns = int(rng.integers(5, 12))
    row = np.floor(2 * columns * y)
    u, v = (columns * x + 0.5 * (row % 2)) % 1 - 0.5, (2 * columns * y) % 1 - 0.5
    reach = np.hypot(u, v / 2) if rng.random() < 0.5 else np.abs(u) + np.abs(v / 2)
    return np.where((reach < rng.uniform(0.12, 0.24))[..., None], _other(rng, ground), ground)


def _plaid(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint bands across bands: where they cross, both tones add."""
    ground = _muted(rng)
    band = _other(rng, ground) - ground
    x = np.arange(size) / size
    repeats = int(rng.integers(2, 6))
    across = 0.55 * ((x * repeats) % 1 < rng.uniform(0.3, 0.5)) + 0.3 * ((x * repeats + 0.3) % 1 < 0.08)
    return ground + band * (across[:, None] + across[None, :])[..., None]
