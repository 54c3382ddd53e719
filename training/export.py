"""Export the result of a run: a model folder with a record of its training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model.checkpoint import find_model, save_model
from lens_ros.model.network import LensModel
from lens_ros.whole import whole_folder
from training.config import RunConfig, plain
from training.lora import merged
from training.progress import METRICS

RECORD = "training.json"


def export(
    model: LensModel,
    tokenizer: PreTrainedTokenizerFast,
    config: RunConfig,
    folder: Path,
    *,
    program: str,
    seconds: float,
    **more: Any,
) -> Path:
    """Write the model as it is published (float16, adapters merged), its record and its curves.

    The record holds configuration, seeds, time, and ``more``. The folder appears only when it is complete.

    Args:
        model: The trained model.
        tokenizer: Tokenizer of the model.
        config: Configuration of the run.
        folder: The folder to write.
        program: Program that trained the model, such as ``"training.supervise"``.
        seconds: Duration of training.
        more: Further entries of the record.
    """
    parent = _record(find_model(config.start_from)) if config.start_from else {}
    record = {
        "program": program,
        "seconds": round(seconds),
        "rendered_seeds": sorted(
            {config.data_seed, config.validation_seed, *parent.get("rendered_seeds", ())}
        ),
        # Leave out the folders, which mean nothing on another machine.
        "config": {
            **{k: v for k, v in plain(config).items() if k not in ("data", "out")},
            "start_from": Path(config.start_from).name,
        },
        **more,
        **({"started_from": parent} if parent else {}),
    }
    with whole_folder(folder) as partial:
        save_trained(merged(model), tokenizer, partial)
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        shutil.copy(Path(config.out) / METRICS, partial)
    return folder


def save_trained(model: LensModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the weights as they are published, in float16 and without a calibration.

    A calibration that was fitted for the initial weights does not apply to the trained ones
    (``training.tools.calibrate --write`` fits a new one).
    """
    model.config = dataclasses.replace(model.config, calibration=None)
    save_model(model, tokenizer, folder, dtype=torch.float16)


def _record(folder: Path) -> dict[str, Any]:
    """Return the training record in a folder, empty for a model that was not trained here."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
