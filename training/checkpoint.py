"""Checkpoints of a training run: everything that the next step depends on, so that resuming is exact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"


def save_state(folder: Path, **state: Any) -> None:
    """Writes ``folder/state.pt`` so that a kill at any moment leaves the old or the new one, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (STATE + ".partial")
    torch.save(state, partial)
    os.replace(partial, folder / STATE)


def load_state(folder: Path) -> dict[str, Any] | None:
    """What :func:`save_state` wrote, or None for a new run."""
    path = folder / STATE
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
