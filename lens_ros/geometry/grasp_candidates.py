"""Where a parallel-jaw gripper could take an object, before anything is checked.

Coordinates: metres, z is the height above the support plane. A candidate is a rotation whose columns are the
closing, lateral and approach directions, a point on the object that lies between the fingers, how deep the
fingertips reach beyond the nearest point of the slice between them, and how far along the closing direction
that slice reaches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

TOP, SIDE, RIM = range(3)
KINDS = ("top", "side", "rim")
ANGLES = 24  # of top-down grasps, over half a turn
ALONG = np.linspace(-0.75, 0.75, 7)  # positions along the object, as shares of its half extent
TOP_DEPTHS = (0.045, 0.03, 0.018)
SIDE_AZIMUTHS = 16
SIDE_ELEVATIONS = np.radians([0.0, 25.0, 50.0])
SIDE_DEPTHS = (0.05, 0.035)
RIM_AZIMUTHS = 24
RIM_ELEVATIONS = np.radians([90.0, 65.0, 50.0, 43.0])
RIM_DEPTHS = (0.022, 0.014, 0.009, 0.0065)
RIM_REACH = 0.012  # half the window, along the closing direction, in which the wall is looked for
LEAST_HOLLOW = 0.006  # metres between rim and bottom of what counts as hollow
LEAST_RIM = 0.02  # radius, metres
UNBOUNDED = 1.0


@dataclass(frozen=True)
class Candidates:
    """K candidates: kind (K,), rotation (K, 3, 3), anchor (K, 3), depth (K,), reach (K,).

    alignment: (K,) cosine between the closing direction and the normal of a rim's wall; 1 for other kinds.
    """

    kind: np.ndarray
    rotation: np.ndarray
    anchor: np.ndarray
    depth: np.ndarray
    reach: np.ndarray
    alignment: np.ndarray


def candidates(points: np.ndarray) -> Candidates:
    """Return candidates of every kind for an object's points (M, 3)."""
    parts = [_from_above(points), _from_the_side(points), *_at_the_rim(points)]
    return Candidates(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Candidates.__annotations__)
    )


def _make(
    kind: int, closing: np.ndarray, approach: np.ndarray, anchor: np.ndarray, depth: np.ndarray, reach: float
) -> Candidates:
    lateral = np.cross(approach, closing)
    rotation = np.stack([closing, lateral, approach], -1)
    count = len(rotation)
    return Candidates(np.full(count, kind), rotation, anchor, depth, np.full(count, reach), np.ones(count))


def _from_above(points: np.ndarray) -> Candidates:
    angles = np.arange(ANGLES) * np.pi / ANGLES
    closing = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    along = np.stack([-np.sin(angles), np.cos(angles), 0 * angles], 1)
    projected = points @ along.T
    low, high = projected.min(0), projected.max(0)
    middle = (points.min(0) + points.max(0)) / 2
    places = (low + high)[:, None] / 2 + ALONG * (high - low)[:, None] / 2  # (A, L)
    anchor = along[:, None] * places[..., None] + closing[:, None] * (closing @ middle)[:, None, None]
    shape = (ANGLES, len(ALONG), len(TOP_DEPTHS))
    wide = np.broadcast_to(closing[:, None, None], (*shape, 3)).reshape(-1, 3)
    return _make(
        TOP,
        wide,
        np.broadcast_to((0.0, 0.0, -1.0), wide.shape),
        np.broadcast_to(anchor[:, :, None], (*shape, 3)).reshape(-1, 3),
        np.broadcast_to(TOP_DEPTHS, shape).ravel(),
        UNBOUNDED,
    )


def _from_the_side(points: np.ndarray) -> Candidates:
    """Return candidates that approach level or downwards and close horizontally."""
    turns = np.arange(SIDE_AZIMUTHS) * 2 * np.pi / SIDE_AZIMUTHS
    low, high = points.min(0), points.max(0)
    heights = low[2] + np.array([0.5, 0.8]) * (high[2] - low[2])
    grid = np.meshgrid(turns, SIDE_ELEVATIONS, heights, SIDE_DEPTHS, indexing="ij")
    turn, tilt, height, depth = (axis.ravel() for axis in grid)
    approach = np.stack([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), -np.sin(tilt)], 1)
    closing = np.stack([-np.sin(turn), np.cos(turn), 0 * turn], 1)
    middle = (low + high) / 2
    anchor = np.stack([0 * turn + middle[0], 0 * turn + middle[1], height], 1)
    return _make(SIDE, closing, approach, anchor, depth, UNBOUNDED)


def _at_the_rim(points: np.ndarray) -> list[Candidates]:
    """Close across the wall of something hollow; nothing if no rim is seen around a lower middle."""
    top = np.percentile(points[:, 2], 99)
    band = points[points[:, 2] > top - max(0.006, 0.1 * top)]
    if len(band) < 12:
        return []
    center, radius = _circle(band[:, :2])
    offset = points[:, :2] - center
    distance = np.linalg.norm(offset, axis=1)
    inside = distance < 0.6 * radius
    if radius < LEAST_RIM or not inside.any() or top - np.median(points[inside, 2]) < LEAST_HOLLOW:
        return []
    near = np.abs(distance - radius) < max(0.01, 0.15 * radius)
    sector = np.round(np.arctan2(offset[:, 1], offset[:, 0]) / (2 * np.pi) * RIM_AZIMUTHS).astype(int)
    sector %= RIM_AZIMUTHS
    sectors = np.arange(RIM_AZIMUTHS)
    heights = np.where(near, points[:, 2], -np.inf)
    crest = np.asarray(ndimage.maximum(heights, sector, sectors))
    seen = sectors[
        np.isfinite(crest) & (np.bincount(sector, minlength=RIM_AZIMUTHS) > 0) & (crest > 0.7 * top)
    ]
    if len(seen) == 0:
        return []
    row = np.asarray(ndimage.maximum_position(heights, sector, seen), int).ravel()
    grid = np.meshgrid(np.arange(len(seen)), RIM_ELEVATIONS, RIM_DEPTHS, indexing="ij")
    which, tilt, depth = (axis.ravel() for axis in grid)
    outward = offset[row] / distance[row, None]
    outward = np.concatenate([outward, np.zeros((len(row), 1))], 1)[which]
    up = np.array([0.0, 0.0, 1.0])
    approach = -np.cos(tilt)[:, None] * outward - np.sin(tilt)[:, None] * up
    closing = np.sin(tilt)[:, None] * outward - np.cos(tilt)[:, None] * up
    wall = points[near & (distance < radius + 0.002)]
    spread = np.linalg.norm(wall[:, :2] - center, axis=1)
    slope = np.arctan2(np.std(wall[:, 2]), max(float(np.std(spread)), 1e-6)) if len(wall) else np.pi / 2
    made = _make(RIM, closing, approach, points[row][which], depth, RIM_REACH)
    return [replace(made, alignment=np.cos(tilt - slope))]


def _circle(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return center (2,) and radius of the circle of least algebraic error (Kasa)."""
    middle = points.mean(0)
    local = points - middle
    system = np.concatenate([2 * local, np.ones((len(local), 1))], 1)
    solution = np.linalg.lstsq(system, (local**2).sum(1), rcond=None)[0]
    return solution[:2] + middle, float(np.sqrt(max(solution[2] + solution[:2] @ solution[:2], 0)))
