from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu.scenes import draw_shard
from training.data.tabletop import TabletopShards


@pytest.fixture(scope="session", autouse=True)
def _template(template: None) -> None:
    """Start the template before the first test that forks it."""


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one shard of 16 drawn scenes: colored rectangles labelled mug, bowl, box and ball."""
    out = tmp_path_factory.mktemp("shards")
    draw_shard(out, 16)
    return out


@pytest.fixture(scope="session")
def shards(shard_folder: Path) -> TabletopShards:
    return TabletopShards(shard_folder)
