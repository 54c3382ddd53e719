"""Training data that needs no renderer: rectangles labelled mug, bowl, box and ball."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from lens_ros.simulation.scene import SceneObject

_COLORS = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (30, 40, 220), "yellow": (230, 220, 30)}
_CATEGORIES = ("mug", "bowl", "box", "ball")


def draw_shard(out: Path, scenes: int) -> None:
    """Write one shard of drawn scenes into ``out``, as ``training.data.tabletop`` writes rendered ones."""
    folder = out / "5-00000"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    drawn = [_scene(rng) for _ in range(scenes)]
    np.save(folder / "rgb.npy", np.stack([rgb for rgb, _, _ in drawn]))
    np.save(folder / "instances.npy", np.stack([instances for _, instances, _ in drawn]))
    described = [[dataclasses.asdict(o) for o in objects] for _, _, objects in drawn]
    (folder / "objects.json").write_text(json.dumps(described), encoding="utf-8")


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[SceneObject]]:
    rgb = np.full((240, 320, 3), 120, dtype=np.uint8)
    instances = np.zeros((240, 320), dtype=np.uint8)
    objects = []
    colors = rng.permutation(list(_COLORS))
    for index, (category, color) in enumerate(zip(_CATEGORIES, colors, strict=True), start=1):
        left, top = 20 + 75 * (index - 1), int(rng.integers(30, 150))
        width, height = (int(v) for v in rng.integers(30, 55, size=2))
        box = (left, top, left + width, top + height)
        rgb[top : top + height, left : left + width] = _COLORS[color]
        instances[top : top + height, left : left + width] = index
        objects.append(
            SceneObject(
                index=index,
                category=category,
                color=str(color),
                extent=width / 500,
                position=((left - 160) / 400, (120 - top) / 400, 0.0),
                yaw=0.0,
                box=box,
                area=width * height,
                visible_fraction=1.0,
                lateral=(left - 160) / 400,
                forward=0.6 + (120 - top) / 400,
                distance=0.9 + (120 - top) / 400,
            )
        )
    return rgb, instances, objects
