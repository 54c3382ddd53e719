"""Compare the tensors of a file with those that a network needs."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lens_ros.model.errors import CheckpointError, first_few

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # others hold scaled or packed values


def tensor_faults(
    tensors: Mapping[str, torch.Tensor],
    shapes: Mapping[str, torch.Size],
    *,
    dtype: torch.dtype = torch.float32,
    equal: tuple[str, str] | None = None,
) -> str:
    """Say where the tensors of a file are not exactly those that a network needs.

    Args:
        tensors: what the file holds, by name.
        shapes: name and shape of every tensor that is needed.
        dtype: the network's dtype; every value must be finite in it.
        equal: names of a head and of the embedding it is tied to. They must be equal where both are there.

    Returns:
        Number and first names of each kind of fault, separated by semicolons; empty where there is none.
    """
    floating = {name: tensor for name, tensor in tensors.items() if tensor.dtype in _DTYPES}
    faults = {
        "missing": [name for name in shapes if name not in tensors],
        "unexpected": [name for name in tensors if name not in shapes],
        "misshapen": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
            for name, shape in shapes.items()
            if name in tensors and tensors[name].shape != shape
        ],
        "not floating-point": [
            f"{name} ({_named(tensor.dtype)})" for name, tensor in tensors.items() if name not in floating
        ],
        f"not finite as {_named(dtype)}": [
            name for name, tensor in floating.items() if not _fits(tensor, dtype)
        ],
    }
    if equal is not None:
        head, embedding = equal
        both = head in tensors and embedding in tensors
        kind = f"not equal to {embedding}, although one table serves as both"
        faults[kind] = [head] if both and not equal_tensors(tensors[head], tensors[embedding]) else []
    return "; ".join(f"{len(names)} {kind}: {first_few(names)}" for kind, names in faults.items() if names)


def check_tensors(
    tensors: Mapping[str, torch.Tensor],
    shapes: Mapping[str, torch.Size],
    source: str,
    *,
    dtype: torch.dtype = torch.float32,
    equal: tuple[str, str] | None = None,
) -> None:
    """Raise :class:`CheckpointError` for :func:`tensor_faults` of a model folder, which `source` names."""
    told = tensor_faults(tensors, shapes, dtype=dtype, equal=equal)
    if told:
        raise CheckpointError(
            f"{source} does not hold the tensors that its config.json asks for ({told}). Weights and "
            "configuration must come from the same training run: copy or download the whole folder again."
        )


def equal_tensors(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Tell whether two tensors have the same dtype, shape and values."""
    return first is second or (first.dtype == second.dtype and torch.equal(first, second))


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fits(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Tell whether all values are finite in this dtype, without a copy of the tensor's size."""
    if tensor.numel() == 0:
        return True
    low, high = (float(end) for end in torch.aminmax(tensor))  # both are NaN if any value is
    limit = torch.finfo(dtype).max
    return -limit <= low and high <= limit
