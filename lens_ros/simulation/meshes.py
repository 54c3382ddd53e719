"""Make procedural meshes of the 16 tabletop categories: surfaces of revolution, sweeps and boxes.

All lengths are metres. A shape stands on the plane z = 0 around its local origin, z up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_SHARP_CORNER = np.cos(np.radians(35.0))


@dataclass(frozen=True)
class Surface:
    """A triangle mesh.

    vertices: (V, 3) float64 metres. faces: (F, 3) int, counter-clockwise seen from outside.
    hulls: point sets (K, 3) whose convex hulls together fill the solid; they give cheap silhouettes.
    """

    vertices: np.ndarray
    faces: np.ndarray
    hulls: tuple[np.ndarray, ...]

    def transformed(
        self, scale: float | Sequence[float] = 1.0, offset: Sequence[float] = (0, 0, 0)
    ) -> Surface:
        """Return the surface scaled (per axis or as a whole), then shifted by `offset` metres."""
        factor, shift = np.asarray(scale, float), np.asarray(offset, float)
        hulls = tuple(hull * factor + shift for hull in self.hulls)
        return Surface(self.vertices * factor + shift, self.faces, hulls)


@dataclass(frozen=True)
class Part:
    """A surface and the role that decides its color: main, dark, light, accent, metal or stem."""

    surface: Surface
    role: str


@dataclass(frozen=True)
class Shape:
    """One object's geometry.

    extent: largest horizontal extent, metres. height: metres above the table.
    footprint: (K, 3) circles (x, y, radius) in the local frame that cover the object seen from above.
    """

    parts: tuple[Part, ...]
    extent: float
    height: float
    footprint: np.ndarray


def make_shape(category: str, rng: np.random.Generator, size: float = 1.0) -> Shape:
    """Return a random member of `category`; `size` scales it as a whole.

    Raises:
        KeyError: the category is unknown.
    """
    parts = [Part(part.surface.transformed(size), part.role) for part in _BUILDERS[category](rng)]
    points = np.concatenate([part.surface.vertices for part in parts])
    if category != "mug":  # a mug's origin is its axis, the handle sticks out
        center = (points.min(0) + points.max(0)) / 2
        shift = (-center[0], -center[1], 0.0)
        parts = [Part(part.surface.transformed(offset=shift), part.role) for part in parts]
        points = points + shift
    return Shape(tuple(parts), _diameter(points[:, :2]), float(points[:, 2].max()), _footprint(points[:, :2]))


def lathe(profile: Sequence[tuple[float, float]] | np.ndarray, sides: int = 28) -> Surface:
    """Return a surface of revolution about z.

    profile: (N, 2) of (radius, z), from the bottom outwards and up.
    """
    points = _split_corners(np.asarray(profile, float))
    angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    rings = np.stack(
        [
            points[:, :1] * np.cos(angles),
            points[:, :1] * np.sin(angles),
            np.repeat(points[:, 1:], sides, 1),
        ],
        axis=-1,
    )
    return _tube(rings)


def sweep(
    path: Sequence | np.ndarray,
    radius: float | Sequence[float] | np.ndarray,
    sides: int = 12,
    flatness: float = 1.0,
) -> Surface:
    """Return a tube along `path` (N, 3) with a radius per point.

    `flatness` scales the section's second axis.
    """
    centers = np.asarray(path, float)
    radii = np.broadcast_to(np.asarray(radius, float), (len(centers),))
    tangents = np.gradient(centers, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    # the section's second axis is as close as possible to an axis that the path never runs along
    steepness = np.abs(tangents).max(0)
    up = np.eye(3)[2 if steepness[2] < 0.9 else int(np.argmin(steepness))]
    side = np.cross(up, tangents)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    normal = np.cross(tangents, side)
    angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None, :, None]
    section = np.cos(angles) * side[:, None] + flatness * np.sin(angles) * normal[:, None]
    rings = centers[:, None] + radii[:, None, None] * section
    caps = [np.repeat(centers[[i]], sides, 0)[None] for i in (0, -1)]
    # the end rings appear twice so that the caps are shaded flat
    return _tube(np.concatenate([caps[0], rings[:1], rings, rings[-1:], caps[1]]))


def box(x: float, y: float, z: float, center_z: float | None = None) -> Surface:
    """Return an axis-aligned box with half sizes x, y, z.

    It stands on z = 0 unless `center_z` is given.
    """
    signs = np.array([[sx, sy, sz] for sx in (-1, 1) for sy in (-1, 1) for sz in (-1, 1)], float)
    corners = signs * (x, y, z) + (0, 0, z if center_z is None else center_z)
    faces = np.array(
        [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1),
         (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]
    )  # fmt: skip
    # every triangle owns its vertices: sharp edges
    return Surface(corners[faces.ravel()], np.arange(36).reshape(-1, 3), (corners,))


def ellipsoid(
    rx: float, ry: float, rz: float, center: Sequence[float] = (0, 0, 0), sides: int = 24
) -> Surface:
    """Return an ellipsoid with the given half axes."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 13)
    profile = np.stack([np.cos(latitude), np.sin(latitude)], 1)
    profile[[0, -1], 0] = 0
    return lathe(profile, sides).transformed((rx, ry, rz), center)


def _tube(rings: np.ndarray) -> Surface:
    """Return a surface through `rings` (R, S, 3); a ring of zero size closes the tube."""
    count, sides = rings.shape[:2]
    vertices = rings.reshape(-1, 3)
    ring, side = np.meshgrid(np.arange(count - 1), np.arange(sides), indexing="ij")
    near, far = ring * sides + side, ring * sides + (side + 1) % sides
    faces = np.stack([near, far, far + sides, near, far + sides, near + sides], -1).reshape(-1, 3)
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    hulls = tuple(
        rings[i : i + 2].reshape(-1, 3) for i in range(count - 1) if not np.allclose(rings[i], rings[i + 1])
    )
    return Surface(vertices, faces[areas > 1e-12], hulls)


def _split_corners(profile: np.ndarray) -> np.ndarray:
    """Double the points of sharp corners, so that averaged normals do not smear over an edge."""
    steps = np.diff(profile, axis=0)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    sharp = (steps[:-1] * steps[1:]).sum(1) < _SHARP_CORNER
    repeats = np.concatenate([[1], 1 + sharp, [1]])
    return np.repeat(profile, repeats, axis=0)


def _diameter(points: np.ndarray) -> float:
    angles = np.linspace(0, np.pi, 60, endpoint=False)
    along = points @ np.stack([np.cos(angles), np.sin(angles)])
    return float((along.max(0) - along.min(0)).max())


def _footprint(points: np.ndarray) -> np.ndarray:
    low, high = points.min(0), points.max(0)
    center, half = (low + high) / 2, (high - low) / 2
    axis = int(np.argmax(half))
    radius = half[1 - axis]
    count = max(1, int(np.ceil(half[axis] / max(radius, 1e-6))))
    circles = np.tile([*center, radius * 1.1], (count, 1))
    circles[:, axis] += np.linspace(-1, 1, count) * (half[axis] - radius) if count > 1 else 0.0
    if count == 1:
        circles[:, 2] = half.max() * 1.1
    return circles


def _cup_wall(bottom: float, top: float, height: float, wall: float) -> Surface:
    profile = [(0, 0), (bottom, 0), (top, height), (top - wall, height), (bottom - wall, wall), (0, wall)]
    return lathe(profile)


def _mug(rng: np.random.Generator) -> list[Part]:
    radius, height = 0.038 * rng.uniform(0.9, 1.15), 0.085 * rng.uniform(0.85, 1.2)
    angles, reach = np.linspace(-1.35, 1.35, 9), height * 0.3
    handle = np.stack(
        [radius * 0.93 + reach * 0.95 * np.cos(angles), 0 * angles, height * 0.52 + reach * np.sin(angles)], 1
    )
    body = _cup_wall(radius * rng.uniform(0.9, 1.0), radius, height, 0.004)
    return [Part(body, "main"), Part(sweep(handle, 0.0058), "main")]


def _cup(rng: np.random.Generator) -> list[Part]:
    radius, height = 0.036 * rng.uniform(0.9, 1.2), 0.095 * rng.uniform(0.85, 1.25)
    return [Part(_cup_wall(radius * rng.uniform(0.6, 0.75), radius, height, 0.003), "main")]


def _bowl(rng: np.random.Generator) -> list[Part]:
    radius = 0.068 * rng.uniform(0.9, 1.2)
    height, wall, angles = radius * rng.uniform(0.48, 0.65), 0.004, np.linspace(0.12, np.pi / 2, 8)
    outer = [(radius * np.sin(a) ** 0.8, height * (1 - np.cos(a))) for a in angles]
    inner = [
        ((radius - wall) * np.sin(a) ** 0.8, wall + (height - wall) * (1 - np.cos(a))) for a in angles[::-1]
    ]
    return [Part(lathe([(0, 0), (outer[0][0], 0), *outer[1:], *inner, (0, wall)]), "main")]


def _plate(rng: np.random.Generator) -> list[Part]:
    r = 0.092 * rng.uniform(0.85, 1.1)
    profile = [(0, 0), (r * 0.6, 0), (r * 0.7, 0.004), (r, 0.014), (r - 0.003, 0.017), (r * 0.68, 0.008),
               (r * 0.6, 0.005), (0, 0.005)]  # fmt: skip
    return [Part(lathe(profile, 36), "main")]


def _bottle(rng: np.random.Generator) -> list[Part]:
    r, h = 0.032 * rng.uniform(0.9, 1.15), 0.18 * rng.uniform(0.85, 1.12)
    shoulder, neck = rng.uniform(0.55, 0.66), r * rng.uniform(0.34, 0.45)
    profile = [(0, 0), (r * 0.95, 0), (r, 0.005), (r, h * shoulder), (r * 0.9, h * (shoulder + 0.07)),
               (neck * 1.3, h * (shoulder + 0.2)), (neck, h * (shoulder + 0.24)), (neck, h * 0.95),
               (0, h * 0.95)]  # fmt: skip
    cap = lathe([(0, h * 0.93), (neck * 1.3, h * 0.93), (neck * 1.3, h), (0, h)], 16)
    return [Part(lathe(profile), "main"), Part(cap, "accent")]


def _can(rng: np.random.Generator) -> list[Part]:
    r, h = 0.034 * rng.uniform(0.95, 1.1), 0.115 * rng.uniform(0.78, 1.1)
    body = lathe([(0, 0), (r * 0.85, 0), (r, 0.006), (r, h - 0.008), (r * 0.88, h), (0, h)])
    lid = lathe([(0, h - 0.001), (r * 0.88, h - 0.001), (r * 0.88, h + 0.003), (r * 0.78, h + 0.003),
                 (r * 0.78, h + 0.0005), (0, h + 0.0005)])  # fmt: skip
    return [Part(body, "main"), Part(lid, "metal")]


def _ball(rng: np.random.Generator) -> list[Part]:
    r = 0.036 * rng.uniform(0.82, 1.2)
    return [Part(ellipsoid(r, r, r, (0, 0, r)), "main")]


def _box(rng: np.random.Generator) -> list[Part]:
    x, y, z = 0.05 * rng.uniform(0.9, 1.35), 0.032 * rng.uniform(0.85, 1.2), 0.035 * rng.uniform(0.55, 1.6)
    tape = box(x * 1.004, y * 0.25, z * 1.003, z)  # a band over the lid and down both ends
    return [Part(box(x, y, z), "main"), Part(tape, "light")]


def _cube(rng: np.random.Generator) -> list[Part]:
    half = 0.026 * rng.uniform(0.88, 1.15)
    return [Part(box(half, half, half), "main")]


def _sponge(rng: np.random.Generator) -> list[Part]:
    x, y = 0.05 * rng.uniform(0.9, 1.1), 0.033 * rng.uniform(0.9, 1.1)
    scourer, foam = 0.004, 0.010  # half heights
    return [Part(box(x, y, foam, 2 * scourer + foam), "main"), Part(box(x, y, scourer), "dark")]


def _banana(rng: np.random.Generator) -> list[Part]:
    bend, thickness = 0.085 * rng.uniform(0.9, 1.15), 0.0175 * rng.uniform(0.92, 1.1)

    def arc(angles: np.ndarray) -> np.ndarray:
        return np.stack([bend * np.sin(angles), bend * np.cos(angles), 0 * angles + thickness], 1)

    angles = np.linspace(-0.85, 0.85, 14)
    radii = thickness * np.clip(1.15 - np.abs(angles / 0.95) ** 4, 0.22, 1)
    tip = sweep(arc(np.array([0.84, 0.99])), 0.005, 8)
    return [Part(sweep(arc(angles), radii, 10), "main"), Part(tip, "stem")]


def _apple(rng: np.random.Generator) -> list[Part]:
    r = 0.037 * rng.uniform(0.9, 1.1)
    t = np.linspace(-np.pi / 2, np.pi / 2, 13)
    radii = r * np.cos(t) * (1 + 0.12 * np.sin(t))
    radii[[0, -1]] = 0
    heights = (
        0.92 * r * np.sin(t) + 0.9 * r - 0.16 * r * np.exp(-((np.cos(t) / 0.35) ** 2)) * np.sign(np.sin(t))
    )
    profile = np.stack([radii, heights - heights.min()], 1)
    stem = sweep([[0, 0, 1.5 * r], [0.002, 0, 1.8 * r], [0.006, 0, 2.15 * r]], 0.0028, 6)
    return [Part(lathe(profile, 24), "main"), Part(stem, "stem")]


def _spoon(rng: np.random.Generator) -> list[Part]:
    length = 0.15 * rng.uniform(0.88, 1.1)
    x = np.linspace(0, length, 8)
    handle = np.stack([x - 0.45 * length, 0 * x, 0.006 + 0.006 * np.sin(x / length * 2.5)], 1)
    head = ellipsoid(0.028, 0.020, 0.007, (-0.45 * length - 0.023, 0, 0.0075), 16)
    return [Part(sweep(handle, 0.0050, 8, 0.6), "main"), Part(head, "main")]


def _screwdriver(rng: np.random.Generator) -> list[Part]:
    shaft, grip, radius = (
        0.095 * rng.uniform(0.85, 1.2),
        0.085 * rng.uniform(0.9, 1.1),
        0.0145 * rng.uniform(0.9, 1.2),
    )
    x = np.linspace(0, grip, 7)
    handle = np.stack([x - grip, 0 * x, 0 * x + radius], 1)
    grip_radii = radius * np.array([0.75, 1, 0.95, 0.85, 0.95, 1, 0.6])
    return [
        Part(sweep(handle, grip_radii, 10), "main"),
        Part(sweep([[-0.002, 0, radius], [shaft, 0, radius]], 0.0045, 8), "metal"),
    ]


def _hammer(rng: np.random.Generator) -> list[Part]:
    length, radius, z = 0.19 * rng.uniform(0.85, 1.1), 0.0105 * rng.uniform(0.9, 1.2), 0.016
    end = 0.5 * length
    handle = sweep([[-end, 0, z], [-0.1 * length, 0, z], [end, 0, z]], radius * np.array([1.15, 1, 0.8]), 10)
    head = [[end, -0.045, z], [end, -0.02, z], [end, 0.02, z], [end, 0.05, z]]
    return [Part(handle, "main"), Part(sweep(head, [0.0155, 0.0115, 0.0115, 0.005], 10), "metal")]


def _marker(rng: np.random.Generator) -> list[Part]:
    length, r = 0.12 * rng.uniform(0.92, 1.15), 0.0095 * rng.uniform(0.9, 1.15)
    barrel = sweep([[-0.46 * length, 0, r], [0.05 * length, 0, r]], r, 12)
    cap = sweep(
        [[0.03 * length, 0, r], [0.4 * length, 0, r], [0.5 * length, 0, r]],
        r * np.array([1.12, 1.1, 0.6]),
        12,
    )
    plug = sweep([[-0.5 * length, 0, r], [-0.44 * length, 0, r]], r * 1.02, 12)
    return [Part(barrel, "light"), Part(cap, "main"), Part(plug, "main")]


_BUILDERS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "mug": _mug,
    "cup": _cup,
    "bowl": _bowl,
    "plate": _plate,
    "bottle": _bottle,
    "can": _can,
    "ball": _ball,
    "box": _box,
    "banana": _banana,
    "apple": _apple,
    "spoon": _spoon,
    "screwdriver": _screwdriver,
    "hammer": _hammer,
    "marker": _marker,
    "sponge": _sponge,
    "cube": _cube,
}
