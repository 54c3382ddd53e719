"""Saving and loading a model's folder: ``config.json``, ``model.safetensors`` and the tokenizer.

Only safetensors are ever opened: a checkpoint cannot execute code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from lens_ros.model.config import LensConfig
from lens_ros.model.errors import CheckpointError, first_few
from lens_ros.model.network import LensModel
from lens_ros.model.tokenizer import load_tokenizer

WEIGHTS = "model.safetensors"
TIED = "reasoner.lm_head.weight"  # shares memory with the embedding; rebuilt by tying


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a model: a path, or the name of one that came with the package (``lens-nano``).

    Raises:
        CheckpointError: there is no such folder.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    for models in _model_folders():
        if (models / path).is_dir():
            return models / path
    known = sorted({p.name for models in _model_folders() if models.is_dir() for p in models.iterdir()})
    raise CheckpointError(
        f"no model '{name_or_path}': it is neither a folder nor one of the models that came with lens_ros "
        f"({', '.join(known) or 'none found'}). Give the path of a folder that holds config.json "
        f"and {WEIGHTS}."
    )


def _model_folders() -> list[Path]:
    """Where models lie: in a checkout, in a pip-installed package, in the share folder of a ROS overlay."""
    package = Path(__file__).resolve().parents[1]
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    shares = [Path(prefix) / "share" / "lens_ros" / "models" for prefix in prefixes]
    return [package.parent / "models", package / "models", *shares]


def save_model(
    model: LensModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, dtype: torch.dtype
) -> None:
    """Writes a model's folder; floating-point tensors are stored as ``dtype``."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save(folder)
    tokenizer.save_pretrained(folder)
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != TIED
    }
    partial = folder / (WEIGHTS + ".partial")
    save_file(tensors, partial)
    os.replace(partial, folder / WEIGHTS)


def load_model(
    folder: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[LensModel, PreTrainedTokenizerFast]:
    """Loads a model's folder, on the CPU, in eval mode.

    Raises:
        CheckpointError: a file is missing or damaged, or the tensors are not the ones that the configuration
            asks for. Nothing is ever left at its random initial value.
    """
    config = _read_config(folder)
    with no_init_weights():  # every one of them is replaced
        model = LensModel(config)
    load_tensors(model, _read_weights(folder), source=str(folder / WEIGHTS), dtype=dtype)
    return model.eval(), read_tokenizer(folder)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a model's folder.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_tokenizer(folder)
    except Exception as error:  # transformers raises many kinds, up to bare Exception from its Rust core
        raise CheckpointError(
            f"{folder} has no readable tokenizer ({error}); expected tokenizer.json and "
            "tokenizer_config.json. Restore the folder from where it came."
        ) from error


def load_tensors(
    model: LensModel, tensors: dict[str, torch.Tensor], source: str, *, dtype: torch.dtype = torch.float32
) -> None:
    """Puts ``tensors``, as ``dtype``, in the place of the model's own; names and shapes must agree exactly.

    Raises:
        CheckpointError: they do not; the message lists the first of each kind.
    """
    expected = {name: t.shape for name, t in model.state_dict().items() if name != TIED}
    faults = {
        "missing": [n for n in expected if n not in tensors],
        "unexpected": [n for n in tensors if n not in expected],
        "misshapen": [
            f"{n} {tuple(tensors[n].shape)} instead of {tuple(shape)}"
            for n, shape in expected.items()
            if n in tensors and tensors[n].shape != shape
        ],
        "not floating-point": [n for n, t in tensors.items() if not t.is_floating_point()],
        "not finite": [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(v)} {kind}: {first_few(v)}" for kind, v in faults.items() if v)
        raise CheckpointError(
            f"{source} does not hold the tensors that its config.json asks for ({told}). "
            "Weights and configuration must come from the same training run."
        )
    # Strict was done above (only the tied head is absent); assigning holds no second copy in memory.
    given = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    model.load_state_dict(given, strict=False, assign=True)
    model.reasoner.tie_weights()


def _read_config(folder: Path) -> LensConfig:
    path = folder / "config.json"
    try:
        return LensConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: expected a folder that lens_ros saved.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a lens_ros configuration ({type(error).__name__}: {error}). "
            "Restore it from where the weights came."
        ) from error


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing. Restore the weights (for lens-nano: git checkout of models/lens-nano)."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged or not a safetensors file: {error}. "
            "Restore the weights (for lens-nano: git checkout of models/lens-nano)."
        ) from error
