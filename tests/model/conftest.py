from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.lens import Lens
from lens_ros.model import prompts
from lens_ros.model.images import visual_grid
from lens_ros.model.network import LensModel
from training.nano import build_nano

GOLDEN = Path(__file__).parents[1] / "fixtures" / "parity"


@pytest.fixture(scope="session")
def checker() -> ModuleType:
    """Import the parity checker that came with the golden outputs."""
    spec = importlib.util.spec_from_file_location("parity_check", GOLDEN / "parity_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def released_folder(checker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small bf16 checkpoint as the reference saves it; tests must not change it."""
    folder = tmp_path_factory.mktemp("released")
    checker.rebuild_checkpoint(GOLDEN, folder)
    return folder


@pytest.fixture(scope="session")
def untrained() -> tuple[LensModel, PreTrainedTokenizerFast]:
    """Return an untrained lens-nano in eval mode; tests must not change it."""
    model, tokenizer = build_nano(seed=0)
    # At birth the language head repeats one token; noise makes greedy answers worth comparing.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.language_model.layers.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval(), tokenizer


@pytest.fixture(scope="session")
def lens(untrained: tuple[LensModel, PreTrainedTokenizerFast]) -> Lens:
    return Lens(*untrained)


@pytest.fixture(scope="session")
def prefix_ids(untrained: tuple[LensModel, PreTrainedTokenizerFast]) -> torch.Tensor:
    """Return the token ids that begin every prompt about an image of lens-nano."""
    model, tokenizer = untrained
    side = model.config.image.reasoner_size
    rows, cols = visual_grid(side, side)
    return torch.tensor(tokenizer.encode(prompts.image_prefix(rows * cols), add_special_tokens=False))


@pytest.fixture(scope="session")
def question_ids(
    untrained: tuple[LensModel, PreTrainedTokenizerFast],
) -> Callable[[str], torch.Tensor]:
    tokenizer = untrained[1]

    def encode(instruction: str) -> torch.Tensor:
        return torch.tensor(tokenizer.encode(prompts.question(instruction), add_special_tokens=False))

    return encode


@pytest.fixture(scope="session")
def picture() -> torch.Tensor:
    """Return ``(1, 224, 224, 3)`` uint8 noise."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8))
