from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import Sam2Config

from lens_ros.choices import Precision
from lens_ros.engine.build import Built, build
from lens_ros.engine.cache import EngineCache
from lens_ros.engine.export import describe, export
from lens_ros.model.checkpoint import find_model, load_segmenter
from lens_ros.model.config import ContextConfig, ImageConfig, LensConfig
from lens_ros.model.sam import SamSegmenter, SamSizes
from lens_ros.model.sam2 import Sam2Segmenter


class Recorder:
    """Progress receiver of a build that records everything."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, phase: str, done: int, of: int) -> None:
        self.steps.append((phase, done, of))


def makers(cache: EngineCache, module: str = "lens_ros.engine.") -> list[int]:
    """Return the ids of processes that build in this cache and run a module with this prefix."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has ended
            continue
        if module.encode() in command and str(cache.root).encode() in command:
            found.append(int(path.parent.name))
    return found


def config_of(name: str) -> LensConfig:
    """Return the configuration of a segmenter that is exported alone."""
    return LensConfig(reasoner={}, segmenter={}, image=ImageConfig(), context=ContextConfig(), name=name)


@pytest.fixture(scope="session")
def nano() -> tuple[LensConfig, Sam2Segmenter | SamSegmenter, str]:
    """Return lens-nano's configuration, segmenter and digest; tests must not change it."""
    return load_segmenter(find_model("lens-nano"))


@pytest.fixture(scope="session")
def sam2_decoder() -> Sam2Segmenter:
    """Return a SAM 2 with the decoder's real width (256) and picture (1024), and initial weights."""
    torch.manual_seed(0)
    segmenter = Sam2Segmenter(Sam2Config(), "hiera")
    segmenter.initialize_from_scratch()
    return segmenter.eval()


@pytest.fixture(scope="session")
def sam2_onnx(sam2_decoder: Sam2Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that exports the decoder once per precision; tests must not change the files."""
    folder = tmp_path_factory.mktemp("sam2")

    def make(precision: Precision) -> Path:
        path = folder / f"{precision}.onnx"
        if not path.exists():
            config = config_of("sam2")
            export(sam2_decoder, describe(sam2_decoder, config, "decoder", precision, "0" * 64), path)
        return path

    return make


@pytest.fixture(scope="session")
def sam() -> SamSegmenter:
    """Return a small SAM of segment-anything."""
    torch.manual_seed(0)
    sizes = SamSizes(32, 2, 2, global_attention=(1,), image_size=256, window_size=7)
    segmenter = SamSegmenter(sizes)
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return segmenter.eval()


@pytest.fixture(scope="session")
def rtx_engines(nano_cache: EngineCache, tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    """Build lens-nano's engines for RTX desktops in a cache that also holds its ONNX files."""
    root = tmp_path_factory.mktemp("rtx") / "engines"
    shutil.copytree(nano_cache.root, root)
    return build(find_model("lens-nano"), "tensorrt_rtx", EngineCache(root), Recorder())


@pytest.fixture
def own_cache(nano_cache: EngineCache, tmp_path: Path) -> Iterator[EngineCache]:
    """Yield a copy of the cache that a test may damage."""
    shutil.copytree(nano_cache.root, tmp_path / "engines")
    yield EngineCache(tmp_path / "engines")
