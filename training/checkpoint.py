"""Checkpoints of a training run, with everything that the next step depends on, so that resuming is exact.

``OUT/checkpoints/step-000100/`` is either complete or absent: it is written under another name and then
renamed. Before deletion it is renamed again. ``OUT/checkpoints/last`` is a link to the newest. Accelerate
writes and reads the contents (module and optimisers, sharded or not). Only tensors and plain values are ever
unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from torch import nn

from training.config import RunConfig, plain, save_config

CONFIG, PROGRESS = "config.yaml", "progress.json"
_NAME = "step-{:06d}"


@dataclass(frozen=True)
class Progress:
    """Progress of a run: ``step`` completed optimiser steps, which took ``seconds``."""

    step: int = 0
    seconds: float = 0.0


class Checkpoints:
    """Checkpoints of one run. Every process of the run must call every method at the same point."""

    def __init__(self, accelerator: Accelerator, config: RunConfig) -> None:
        self._accelerator, self._config = accelerator, config
        self._folder = Path(config.out) / "checkpoints"
        accelerator.register_save_state_pre_hook(self._as_if_alone)
        accelerator.register_load_state_pre_hook(self._unwrapped)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint and delete the oldest.

        If the process is killed at any moment, only this checkpoint is lost.
        """
        name = _NAME.format(progress.step)
        partial = self._folder / f".{name}"
        # Use accelerate's own file format: safetensors would warn about the tied head each time.
        self._accelerator.save_state(str(partial), safe_serialization=False)
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            save_config(self._config, partial / CONFIG)
            (partial / PROGRESS).write_text(json.dumps(vars(progress)), encoding="utf-8")
            os.replace(partial, self._folder / name)
            point(self._folder / "last", name)
            for old in finished(self._folder)[: -self._config.keep_checkpoints]:
                hidden = old.with_name(f".{old.name}")
                os.replace(old, hidden)
                shutil.rmtree(hidden)

    def resume(self) -> Progress:
        """Load the newest checkpoint, if there is one, into what accelerate has prepared.

        Returns:
            The progress of that checkpoint; zero if there is none.

        Raises:
            ValueError: The checkpoint belongs to a run with another configuration; the message names the
                fields.
        """
        if self._accelerator.is_main_process:
            for leftover in self._folder.glob(".step-*"):
                shutil.rmtree(leftover)
        self._accelerator.wait_for_everyone()
        whole = finished(self._folder)
        if not whole:
            return Progress()
        newest = whole[-1]
        changed = _changes(newest, self._config)
        self._accelerator.load_state(str(newest))
        if changed:
            told = "; ".join(f"{name}: {old!r}, now {new!r}" for name, (old, new) in changed.items())
            self._accelerator.print(f"{newest}: resumed with {told}")
        return Progress(**json.loads((newest / PROGRESS).read_text(encoding="utf-8")))

    def _as_if_alone(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        """Save parameter names without the wrapper's prefix, so that any number of processes can resume."""
        weights[:] = [self._accelerator.unwrap_model(model).state_dict() for model in models[: len(weights)]]

    def _unwrapped(self, models: list[nn.Module], folder: str) -> None:
        models[:] = [self._accelerator.unwrap_model(model) for model in models]


def finished(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def point(link: Path, name: str) -> None:
    """Make ``link`` point to its sibling ``name``, atomically."""
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    os.replace(fresh, link)


def _changes(checkpoint: Path, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    before = yaml.safe_load((checkpoint / CONFIG).read_text(encoding="utf-8"))
    now = plain(config)
    changed = {
        name: (before.get(name), now.get(name))
        for name in [*now, *(before.keys() - now.keys())]
        if before.get(name) != now.get(name)
    }
    if refused := [name for name in changed if name not in config.FREE_ON_RESUME]:
        told = "; ".join(f"{name} was {changed[name][0]!r}, is {changed[name][1]!r}" for name in refused)
        raise ValueError(
            f"{checkpoint} belongs to a run with another configuration ({told}). Use another 'out' for "
            "another run; its 'start_from' can be a model that this one exported"
        )
    return changed
