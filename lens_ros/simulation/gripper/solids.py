"""Convex pieces that fill the simulator's objects, so that hollow ones are hollow for physics too."""

from __future__ import annotations

import numpy as np

from lens_ros.simulation.meshes import Part, Shape, Surface

HOLLOW = ("mug", "cup", "bowl", "plate")  # the first part is a wall of revolution
SECTORS = 18


def pieces(category: str, shape: Shape) -> list[np.ndarray]:
    """Return point sets (K, 3) whose convex hulls fill the object."""
    found: list[np.ndarray] = []
    for number, part in enumerate(shape.parts):
        if category in HOLLOW and number == 0:
            found += _wall(part.surface)
        elif _is_bent(category, part):
            found += [hull for hull in part.surface.hulls if _has_volume(hull)]
        else:
            found.append(part.surface.vertices)
    return found


def _is_bent(category: str, part: Part) -> bool:
    return len(part.surface.hulls) > 1 and category in (
        "mug",
        "banana",
        "hammer",
        "spoon",
        "bottle",
        "screwdriver",
    )


def _wall(surface: Surface) -> list[np.ndarray]:
    """Split a vessel into sectors, and each sector from the middle of the bottom up to the rim."""
    axis = (surface.vertices[:, :2].min(0) + surface.vertices[:, :2].max(0)) / 2
    radius = np.linalg.norm(surface.vertices[:, :2] - axis, axis=1)
    points = np.stack([radius, surface.vertices[:, 2]], 1).round(7)
    profile = points[np.sort(np.unique(points, axis=0, return_index=True)[1])]
    rim = int(np.argmax(profile[:, 0] + 1e-3 * profile[:, 1]))
    outer, inner = profile[: rim + 1], profile[rim + 1 :][::-1]
    shares = np.linspace(0, 1, 9)
    outer, inner = _resampled(outer, shares), _resampled(inner, shares)
    found = []
    for sector in range(SECTORS):
        turns = (sector + np.array([0.0, 1.0])) * 2 * np.pi / SECTORS
        for low in range(len(shares) - 1):
            ring = np.concatenate([outer[low : low + 2], inner[low : low + 2]])
            piece = [
                np.stack([axis[0] + ring[:, 0] * np.cos(t), axis[1] + ring[:, 0] * np.sin(t), ring[:, 1]], 1)
                for t in turns
            ]
            found.append(np.concatenate(piece))
    return found


def _resampled(chain: np.ndarray, shares: np.ndarray) -> np.ndarray:
    steps = np.linalg.norm(np.diff(chain, axis=0), axis=1)
    length = np.concatenate([[0], np.cumsum(steps)]) / steps.sum()
    return np.stack([np.interp(shares, length, chain[:, k]) for k in (0, 1)], 1)


def _has_volume(hull: np.ndarray) -> bool:
    unique = np.unique(hull.round(7), axis=0)
    return len(unique) > 3 and np.linalg.svd(unique - unique.mean(0), compute_uv=False)[2] > 1e-5
