"""Save and load a model's folder: ``config.json``, ``model.safetensors`` and the tokenizer.

Quantized weights may lie next to them (:mod:`lens_ros.model.quantized`). Only safetensors are ever opened: a
checkpoint cannot execute code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from lens_ros.choices import SCHEMES, Quantization, Scheme
from lens_ros.inputs import PathError, expand_path
from lens_ros.model.config import LensConfig
from lens_ros.model.errors import CheckpointError, first_few
from lens_ros.model.network import LensModel, build_segmenter
from lens_ros.model.quantized import put_linears, quantized_file, read_quantized, take_linears
from lens_ros.model.sam import SamSegmenter
from lens_ros.model.sam2 import Sam2Segmenter
from lens_ros.model.tensor_check import check_tensors, equal_tensors
from lens_ros.model.tokenizer import load_tokenizer
from lens_ros.resources import resource_roots
from lens_ros.whole import whole_file

WEIGHTS = "model.safetensors"
_HEAD = "reasoner.lm_head.weight"
_EMBEDDING = "reasoner.model.language_model.embed_tokens.weight"


def find_model(name_or_path: str | Path) -> Path:
    """Return a model's folder, given its path or the name of a shipped one (``lens-nano``).

    Raises:
        CheckpointError: there is no such folder.
    """
    try:
        path = expand_path(name_or_path, "the model's folder")
    except PathError as error:
        raise CheckpointError(str(error)) from error
    if path.is_dir():
        return path
    shipped = [root / "models" for root in resource_roots()]
    for models in shipped:
        if (models / path).is_dir():
            return models / path
    known = sorted({p.name for models in shipped if models.is_dir() for p in models.iterdir()})
    raise CheckpointError(
        f"no model '{name_or_path}': it is neither a folder nor one of the models that came with lens_ros "
        f"({', '.join(known) or 'none found'}). Give the path of a folder that holds config.json "
        f"and {WEIGHTS}."
    )


def is_tied(model: LensModel) -> bool:
    """Return whether the output head is the embedding: in Qwen2.5-VL 3B and lens-nano, not in 7B to 72B."""
    return bool(model.reasoner.config.tie_word_embeddings)


def without_tied_head(tensors: Mapping[str, torch.Tensor], model: LensModel) -> dict[str, torch.Tensor]:
    """Return ``tensors``, named as in ``model.state_dict()``, without the head where it is tied.

    Files do not hold a tied head: loading makes it of the embedding. A head that is not tied stays.
    """
    return {name: t for name, t in tensors.items() if name != _HEAD or not is_tied(model)}


def save_model(
    model: LensModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, dtype: torch.dtype
) -> None:
    """Write a model's folder; floating-point tensors are stored as ``dtype``.

    Raises:
        CheckpointError: the model does not hold its full weights, as with a compiled segmenter or a quantized
            language model, or its head differs from the embedding although its configuration ties them;
            nothing was written.
    """
    with torch.device("meta"):
        expected = LensModel(model.config).state_dict()
    held = model.state_dict()
    absent = [n for n in expected if n not in held or type(held[n]) is not torch.Tensor]
    if absent or len(held) != len(expected):
        raise CheckpointError(
            f"this model does not hold its full weights ({first_few(absent)}): save one that was loaded with "
            "backend 'torch' and without quantisation"
        )
    if is_tied(model) and not equal_tensors(held[_HEAD], held[_EMBEDDING]):
        raise CheckpointError(
            f"{_HEAD} differs from the embedding, although the model's configuration ties them: set "
            "tie_word_embeddings to false in config.reasoner and in its text_config, or tie the weights"
        )
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save(folder)
    tokenizer.save_pretrained(folder)
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in without_tied_head(held, model).items()
    }
    with whole_file(folder / WEIGHTS) as partial:
        save_file(tensors, partial)


def load_model(
    folder: Path, *, dtype: torch.dtype = torch.float32, quantization: Quantization = "none"
) -> tuple[LensModel, PreTrainedTokenizerFast]:
    """Load a model's folder, on the CPU, in eval mode.

    Args:
        name_or_path: as for :func:`find_model`.
        dtype: of everything that is not quantized, and of all computation.
        quantization: load the language model's Linear layers from ``model.int8.safetensors`` or
            ``model.int4.safetensors``; ``model.safetensors`` may be absent then.

    Raises:
        CheckpointError: a file is missing or damaged, or the tensors are not the ones that the configuration
            requires; quantized weights are stale, or torchao is not installed. Nothing is ever left at its
            random initial value.
    """
    model = empty_model(folder)
    if quantization == "none":
        load_tensors(model, read_weights(folder), source=str(folder / WEIGHTS), dtype=dtype)
    else:
        tensors, _ = read_quantized(folder, quantization, folder / WEIGHTS)
        source = str(quantized_file(folder, quantization))
        load_quantized_tensors(model, tensors, quantization, source, dtype=dtype)
    return model.eval(), read_tokenizer(folder)


def empty_model(folder: Path) -> LensModel:
    """Return the network that a model's folder configures, with uninitialized tensors.

    Raises:
        CheckpointError: the configuration is missing or damaged.
    """
    config = read_config(folder)
    with no_init_weights():  # every one of them is to be replaced
        return LensModel(config)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer in a model's folder.

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


def load_quantized_tensors(
    model: LensModel, tensors: dict[str, torch.Tensor], scheme: Scheme, source: str, *, dtype: torch.dtype
) -> None:
    """Load the tensors of a file of quantised weights, as :func:`load_tensors` does.

    Raises:
        CheckpointError: they are not what the model asks for, or torchao is not installed.
    """
    plain = dict(tensors)
    linears = take_linears(plain, model, scheme, dtype, source)
    load_tensors(model, plain, source, dtype=dtype, apart=linears)
    put_linears(model, linears)


def load_tensors(
    model: LensModel,
    tensors: dict[str, torch.Tensor],
    source: str,
    *,
    dtype: torch.dtype = torch.float32,
    apart: Collection[str] = (),
) -> None:
    """Replace the model's tensors by ``tensors``, as ``dtype``; names and shapes must agree exactly.

    A head that is tied to the embedding may be absent; one that is there must be equal to the embedding.

    Args:
        model: receives the tensors.
        tensors: by the names of ``model.state_dict()``.
        source: what to call them in messages.
        dtype: of floating-point tensors.
        apart: names that are not touched.

    Raises:
        CheckpointError: they do not agree, or a parameter or persistent buffer would keep its initial value;
            the message lists the first of each kind.
    """
    own = {n: t.shape for n, t in model.state_dict().items() if n not in apart}
    tied = is_tied(model)
    expected = {n: shape for n, shape in own.items() if n != _HEAD or _HEAD in tensors or not tied}
    check_tensors(tensors, expected, source, dtype=dtype, equal=(_HEAD, _EMBEDDING) if tied else None)
    given = {name: tensor.to(dtype) for name, tensor in without_tied_head(tensors, model).items()}
    if tied:
        given[_HEAD] = given[_EMBEDDING]
    # Not strict only because of what lies apart; assigning holds no second copy in memory.
    model.load_state_dict(given, strict=False, assign=True)
    model.reasoner.tie_weights()
    # The weights were not initialised: whatever was not assigned is uninitialised memory.
    unset = [n for n, t in model.state_dict().items() if n in own and not _is_view_of(t, given.get(n))]
    if unset:
        raise CheckpointError(f"{source} leaves {len(unset)} tensors without a value: {first_few(unset)}")


def _is_view_of(tensor: torch.Tensor, given: torch.Tensor | None) -> bool:
    return given is not None and tensor.shape == given.shape and tensor.data_ptr() == given.data_ptr()


def read_config(folder: Path) -> LensConfig:
    """Return the configuration in a model's folder.

    Raises:
        CheckpointError: it is missing or damaged.
    """
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


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the full weights, as stored.

    Raises:
        CheckpointError: they are missing or damaged.
    """
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


SEGMENTER = "segmenter."  # what the names of its tensors begin with


def load_segmenter(folder: Path) -> tuple[LensConfig, Sam2Segmenter | SamSegmenter, str]:
    """Load the segmenter alone, float32, on the CPU, in eval mode; read nothing else of the file.

    Returns:
        the model's configuration, the segmenter, and :func:`segmenter_digest` of its weights.

    Raises:
        CheckpointError: as :func:`load_model`, for these tensors.
    """
    config = read_config(folder)
    tensors = _read_segmenter(folder)
    with no_init_weights():  # every one of them is replaced
        segmenter = build_segmenter(config)
    shapes = {name: tensor.shape for name, tensor in segmenter.state_dict().items()}
    check_tensors(tensors, shapes, f"the segmenter in {folder / WEIGHTS}")
    segmenter.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return config, segmenter.eval(), _digest(tensors)


def segmenter_digest(folder: Path) -> str:
    """Return the hexadecimal SHA-256 of the segmenter's weights on disk.

    It covers names, shapes and values (as float32). Compiled engines are bound to it, whatever precision the
    weights are loaded in.

    Raises:
        CheckpointError: there are no weights to read.
    """
    return _digest(_read_segmenter(folder))


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.float().contiguous().numpy().data)
    return digest.hexdigest()


def _read_segmenter(folder: Path) -> dict[str, torch.Tensor]:
    # Quantised files hold the segmenter bit for bit.
    files = [folder / WEIGHTS, *(quantized_file(folder, scheme) for scheme in SCHEMES)]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise CheckpointError(f"{files[0]} is missing. Restore the weights.")
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(SEGMENTER)]
            return {name.removeprefix(SEGMENTER): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
