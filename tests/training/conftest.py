from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from forked import start_template

from lens_ros.simulation.scene import SceneObject
from training.data.tabletop import TabletopShards

_COLORS = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (30, 40, 220), "yellow": (230, 220, 30)}
_CATEGORIES = ("mug", "bowl", "box", "ball")


@pytest.fixture(scope="session", autouse=True)
def template() -> None:
    """Have the process that the tests fork import while the first tests run."""
    start_template()


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of 16 drawn scenes: colored rectangles that call themselves mug, bowl, box and ball."""
    out = tmp_path_factory.mktemp("shards")
    folder = out / "5-00000"
    folder.mkdir()
    rng = np.random.default_rng(0)
    scenes = [_scene(rng) for _ in range(16)]
    np.save(folder / "rgb.npy", np.stack([rgb for rgb, _, _ in scenes]))
    np.save(folder / "instances.npy", np.stack([instances for _, instances, _ in scenes]))
    described = [[dataclasses.asdict(o) for o in objects] for _, _, objects in scenes]
    (folder / "objects.json").write_text(json.dumps(described))
    return out


@pytest.fixture(scope="session")
def shards(shard_folder: Path) -> TabletopShards:
    return TabletopShards(shard_folder)


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
