"""Read quantised weights of the language model from their file into torchao's tensors.

Beside ``model.safetensors`` may lie ``model.int8.safetensors`` or ``model.int4.safetensors``, written by
``lens quantize`` (:mod:`lens_ros.deployment.quantize`). Such a file is complete: where a quantised Linear of
the language model has its ``NAME.weight``, it holds

- int8: ``NAME.weight.values`` ``(N, K)`` int8, ``NAME.weight.scale`` ``(N, 1)`` float32;
- int4: ``NAME.weight.values`` ``(N, K/2)`` uint8, two columns a byte, the even one in the upper half, each
  with 8 added; ``NAME.weight.scale`` ``(N, K/32)`` bfloat16;

a weight being its value times the scale of its row, or of its run of 32 columns. All other tensors are those
of the full weights, bit for bit. Plain numbers under plain names: torchao's own safetensors support
(``torchao.prototype.safetensors``, 0.18) keeps a byte for each 4-bit weight on a CPU, and names its classes,
which come and go.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lens_ros.choices import Scheme
from lens_ros.model.errors import CheckpointError, first_few

if TYPE_CHECKING:
    from lens_ros.model.network import LensModel

GROUP = 32  # columns that share a scale, int4
TORCHAO = "0.18.0"  # the version that all of this was checked with
_FORMAT = "lens_ros quantised weights 1"
_VALUES, _SCALE = ".values", ".scale"
_SAMPLE = 4096  # bytes of each tensor that the fingerprint reads


@dataclass(frozen=True)
class Provenance:
    """Metadata of a file of quantised weights.

    Attributes:
        scheme: of quantisation.
        torchao: the version that chose the values.
        made_of: :func:`fingerprint` of the full weights.
        calibration: what was measured against the full weights
            (:class:`~lens_ros.deployment.quantize.Agreement` as a dictionary), None where nothing was.
    """

    scheme: Scheme
    torchao: str
    made_of: str
    calibration: dict[str, Any] | None

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata as text, which is all that safetensors keeps."""
        # One entry: safetensors writes several in an order of its own, and equal files would differ.
        return {"provenance": json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True)}


def quantized_file(folder: Path, scheme: Scheme) -> Path:
    """Return where a model's folder keeps its quantised weights."""
    return folder / f"model.{scheme}.safetensors"


def linear_weights(model: LensModel) -> list[str]:
    """Return the names of the weights to quantize: of every Linear in the language model's layers.

    The language head (tied to the embedding or not), vision tower, context module and segmenter stay as they
    are.
    """
    return [
        f"reasoner.model.language_model.layers.{name}.weight"
        for name, module in model.language_model.layers.named_modules()
        if isinstance(module, nn.Linear)
    ]


def fingerprint(weights: Path) -> str:
    """Return the hexadecimal SHA-256 over parts of a safetensors file, which takes no time to read.

    It covers the file's size, its header, and up to 4 KiB from the middle of each tensor: any training step,
    conversion or other dtype changes it. It does not guard against forgery.

    Raises:
        CheckpointError: it is not a readable safetensors file.
    """
    digest = hashlib.sha256()
    try:
        size = weights.stat().st_size
        with weights.open("rb") as file:
            start = file.read(8)
            (length,) = struct.unpack("<Q", start)
            if length > size:
                raise ValueError(f"its header claims {length} bytes, the file has {size}")
            header = file.read(length)
            digest.update(str(size).encode() + header)
            for name, entry in sorted(json.loads(header).items()):
                if name == "__metadata__":
                    continue
                begin, end = entry["data_offsets"]
                file.seek(8 + length + max(begin, (begin + end - _SAMPLE) // 2))
                digest.update(file.read(min(_SAMPLE, end - begin)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise CheckpointError(
            f"{weights} is damaged or not a safetensors file ({error}). Restore the weights from where they "
            "came."
        ) from error
    return digest.hexdigest()


def read_quantized(
    folder: Path, scheme: Scheme, full_weights: Path
) -> tuple[dict[str, torch.Tensor], Provenance]:
    """Return the tensors of a model's quantized weights, as stored.

    Args:
        folder: the model's folder.
        scheme: how they are quantized.
        full_weights: file that they must have been made of; not checked if there is no such file.

    Raises:
        CheckpointError: they are missing, damaged, of another kind, or made of other full weights.
    """
    path = quantized_file(folder, scheme)
    remedy = f"Make them anew: lens quantize {folder} --scheme {scheme}"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: this model has no {scheme} weights yet. {remedy}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged or not a safetensors file: {error}. {remedy}"
        ) from error
    try:
        stored = json.loads(metadata["provenance"])
        if (found := stored.pop("format")) != _FORMAT:
            raise ValueError(f"its format is {found!r}, not {_FORMAT!r}")
        provenance = Provenance(**stored)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say how it was made ({type(error).__name__}: {error}). {remedy}"
        ) from error
    if provenance.scheme != scheme:
        raise CheckpointError(f"{path} holds {provenance.scheme} weights, not {scheme}. {remedy}")
    if full_weights.is_file() and fingerprint(full_weights) != provenance.made_of:
        raise CheckpointError(
            f"{path} is stale: {full_weights.name} beside it has changed since it was made. {remedy}"
        )
    return tensors, provenance


def take_linears(
    tensors: dict[str, torch.Tensor], model: LensModel, scheme: Scheme, dtype: torch.dtype, source: str
) -> dict[str, torch.Tensor]:
    """Remove the quantized weights from ``tensors``; return torchao's tensors, which behave as ``dtype``.

    Raises:
        CheckpointError: one is missing or not what the model requires, or torchao is not installed.
    """
    import_torchao()
    shapes = {name: tuple(model.get_parameter(name).shape) for name in linear_weights(model)}
    parts = {name: (tensors.pop(name + _VALUES, None), tensors.pop(name + _SCALE, None)) for name in shapes}
    faults = [
        f"{name}: {wrong}"
        for name, (values, scale) in parts.items()
        if (wrong := _fault(values, scale, shapes[name], scheme))
    ]
    if faults:
        raise CheckpointError(
            f"{source} does not hold the {scheme} weights that its config.json asks for "
            f"({len(faults)} unusable: {first_few(faults)}). Make them anew: lens quantize"
        )
    make = _int8_tensor if scheme == "int8" else _int4_tensor
    return {name: make(*part, dtype) for name, part in parts.items()}


def _fault(
    values: torch.Tensor | None, scale: torch.Tensor | None, shape: tuple[int, ...], scheme: Scheme
) -> str:
    """Return what is wrong with a stored weight, or ""."""
    if values is None or scale is None:
        return "missing"
    rows, columns = shape
    if scheme == "int8":
        wanted = ((rows, columns), torch.int8), ((rows, 1), torch.float32)
    else:
        wanted = ((rows, columns // 2), torch.uint8), ((rows, columns // GROUP), torch.bfloat16)
    found = tuple((tuple(t.shape), t.dtype) for t in (values, scale))
    if found != wanted:
        return f"{found[0]} and {found[1]} instead of {wanted[0]} and {wanted[1]}"
    return "" if bool(scale.isfinite().all()) else "its scale is not finite"


def put_linears(model: LensModel, weights: dict[str, torch.Tensor]) -> None:
    """Put the result of :func:`take_linears` in its place."""
    for name, weight in weights.items():
        module = model.get_submodule(name.rsplit(".", 1)[0])
        module.weight = nn.Parameter(weight, requires_grad=False)


def place(model: LensModel, device: str) -> LensModel:
    """Move the model to ``device``, its 4-bit weights in the form that the device computes with.

    A CPU, and a GPU with other activations than bfloat16, unpack them before every product: correct, small,
    slow. A GPU of compute capability 8.0 or more takes bfloat16 through ``aten::_weight_int4pack_mm``
    (tinygemm). **That path has not been run**: there was no such device. Its arithmetic was compared on the
    CPU with the kernel's sibling, which takes the same scales.
    """
    model = model.to(device)
    if model.device.type != "cuda" or model.dtype != torch.bfloat16:
        return model
    if torch.cuda.get_device_capability(model.device)[0] < 8:
        return model
    for name in linear_weights(model):
        module = model.get_submodule(name.rsplit(".", 1)[0])
        if type(module.weight).__name__ == "IntxUnpackedToInt8Tensor":
            module.weight = nn.Parameter(_tinygemm_tensor(module.weight), requires_grad=False)
    return model


def _int8_tensor(values: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    from torchao.quantization import Int8Tensor

    return Int8Tensor(values, scale, [1, values.shape[1]], dtype, zero_point=torch.zeros_like(scale).char())


def _int4_tensor(packed: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    from torchao.quantization import IntxUnpackedToInt8Tensor

    zero = torch.zeros_like(scale).char()
    return IntxUnpackedToInt8Tensor(
        unpack(packed), scale.to(dtype), zero, torch.int4, (1, GROUP), dtype, activation_quantization=None
    )


def pack(values: torch.Tensor) -> torch.Tensor:
    """Pack ``(N, K)`` int8 in -8..7 into ``(N, K/2)`` uint8 for ``aten::_convert_weight_to_int4pack``."""
    raised = (values + 8).to(torch.uint8)
    return raised[:, ::2] << 4 | raised[:, 1::2]


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Reverse :func:`pack`."""
    return torch.stack([packed >> 4, packed & 15], dim=-1).flatten(1).to(torch.int8) - 8


def tinygemm_scales(scale: torch.Tensor) -> torch.Tensor:
    """Return ``(N, K/32)`` scales as ``(K/32, N, 2)`` bfloat16 scales and zero points.

    In the kernel a weight is (value + 8 - 8) * scale + 0.
    """
    return torch.stack([scale, torch.zeros_like(scale)], dim=-1).transpose(0, 1).contiguous().bfloat16()


def _tinygemm_tensor(weight: Any) -> torch.Tensor:
    """Return a 4-bit tensor on a GPU in tinygemm's layout. Not run, see :func:`place`.

    The padding is torchao 0.18's (``Int4TilePackedTo4dTensor.from_hp``).
    """
    from torchao.quantization import Int4TilePackedTo4dTensor

    rows, columns = weight.shape
    more_rows, more_columns = -rows % 8, -columns % 1024
    values = nn.functional.pad(weight.qdata, (0, more_columns, 0, more_rows))
    scale = nn.functional.pad(weight.scale, (0, more_columns // GROUP, 0, more_rows))
    tiles = torch.ops.aten._convert_weight_to_int4pack(pack(values).contiguous(), 8)
    return Int4TilePackedTo4dTensor(tiles, tinygemm_scales(scale), [1, GROUP], weight.shape)


def import_torchao() -> None:
    """Import torchao, which only quantized weights need.

    Raises:
        CheckpointError: it is not installed, or does not fit the installed torch.
    """
    if importlib.util.find_spec("torchao") is None:
        raise CheckpointError(
            f"quantised weights need torchao, which is not installed: pip install torchao=={TORCHAO} "
            "(a part of lens_ros[engine]), or load the model with quantization='none'"
        )
    try:
        import torchao.quantization  # noqa: F401
    except Exception as error:  # whatever its modules meet in a torch that they were not made for
        raise CheckpointError(
            f"torchao cannot be imported with torch {torch.__version__} ({type(error).__name__}: {error}). "
            f"Install torchao=={TORCHAO}, or load the model with quantization='none'"
        ) from error
