"""Quantise a language model with torchao, and measure it before it is kept.

``int8``: weight-only, symmetric, a scale for each row (``Int8WeightOnlyConfig``). ``int4``: weight-only,
symmetric, a scale for every 32 columns, chosen by HQQ's search (``IntxWeightOnlyConfig`` with
``HQQ_SCALE_ONLY``). Activations stay as they are: quantising them too doubles the noise of reading on from
the cache. Only the Linear layers of the language model are touched
(:func:`~lens_ros.model.quantized.linear_weights`).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from lens_ros.choices import Scheme
from lens_ros.deployment.comparison_set import CalibrationQuestion
from lens_ros.evaluation.metrics import mask_iou
from lens_ros.inputs import check_device
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import (
    WEIGHTS,
    empty_model,
    load_quantized_tensors,
    read_tokenizer,
    read_weights,
)
from lens_ros.model.errors import CheckpointError, first_few
from lens_ros.model.network import LensModel
from lens_ros.model.quantized import (
    GROUP,
    Provenance,
    fingerprint,
    import_torchao,
    linear_weights,
    pack,
    place,
    quantized_file,
)
from lens_ros.segmentation import Segmentation
from lens_ros.whole import whole_file

Progress = Callable[[Iterable, str, int], Iterable]  # items, what is done, how many
_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


class QuantizationRefused(Exception):
    """The quantised model differs too much from the full one; the message holds the numbers."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of the quantised model's answers with those of the full one.

    Attributes:
        questions: how many.
        mean_iou, worst_iou: of the masks that may be acted upon; 1 where both models find nothing.
        same_answer: share of answers with the very same text.
        both_nothing: share of questions where neither found anything.
    """

    questions: int
    mean_iou: float
    worst_iou: float
    same_answer: float
    both_nothing: float


@dataclass(frozen=True)
class QuantizationReport:
    """Result of a quantisation, with sizes in bytes.

    Sizes are those of the full weights and of the quantized file, and in them of the quantized layers.
    """

    scheme: Scheme
    file: Path
    layers: int
    full_bytes: int
    file_bytes: int
    full_layer_bytes: int
    layer_bytes: int
    agreement: Agreement | None


def quantize_model(
    folder: Path,
    scheme: Scheme,
    *,
    out: Path | None = None,
    questions: Sequence[CalibrationQuestion] = (),
    min_iou: float | None = None,
    device: str = "cpu",
    progress: Progress = lambda items, what, count: items,
) -> QuantizationReport:
    """Write ``model.int8.safetensors`` or ``model.int4.safetensors``.

    Args:
        folder: of the model.
        scheme: of the quantization.
        out: folder to write to; None writes next to the full weights. Another folder also gets configuration
            and tokenizer and can be loaded by itself, with this quantization only.
        questions: on which both models are asked and compared; none for no comparison.
        min_iou: least mean IoU of both models' masks; None for no condition.
        device: where they are asked: in float32 on a CPU, bfloat16 elsewhere.
        progress: called with an iterable, what it is about and its length; iterated over instead.

    Raises:
        CheckpointError: the model cannot be used, or torchao is not installed.
        QuantizationRefused: the masks agree less than ``min_iou``; nothing was written.
        DeviceError: there is no such device.
        ValueError: a condition without questions to measure it on.
        OSError: the file cannot be written.
    """
    if min_iou is not None and not questions:
        raise ValueError("a least IoU needs a calibration set to measure it on")
    check_device(device)
    import_torchao()
    model, stored = empty_model(folder), read_weights(folder)
    names = linear_weights(model)
    absent = [name for name in names if name not in stored]
    if absent:
        told = first_few(absent)
        raise CheckpointError(f"{folder / WEIGHTS} holds no {told}: it does not fit its config.json")
    full_layer_bytes = sum(_bytes(stored[name]) for name in names)
    tensors = {name: tensor for name, tensor in stored.items() if name not in names}
    for name in progress(names, f"quantizing to {scheme}", len(names)):
        tensors |= quantized_weight(name, stored.pop(name), scheme)
    del stored
    agreement = _agreement(folder, model, scheme, tensors, questions, device, progress) if questions else None
    if agreement is not None and min_iou is not None and agreement.mean_iou < min_iou:
        raise QuantizationRefused(
            f"the {scheme} model's masks have a mean IoU of {agreement.mean_iou:.4f} with those of the full "
            f"model on {agreement.questions} calibration questions (worst {agreement.worst_iou:.4f}, same "
            f"answer {100 * agreement.same_answer:.0f} %), less than the {min_iou:g} asked for: nothing was "
            "written. Use --scheme int8, or accept it with a lower --min-iou"
        )
    provenance = Provenance(
        scheme,
        torchao=importlib.metadata.version("torchao"),
        made_of=fingerprint(folder / WEIGHTS),
        calibration=None if agreement is None else dataclasses.asdict(agreement),
    )
    path = _write(tensors, provenance, folder, folder if out is None else out)
    return QuantizationReport(
        scheme,
        path,
        layers=len(names),
        full_bytes=(folder / WEIGHTS).stat().st_size,
        file_bytes=path.stat().st_size,
        full_layer_bytes=full_layer_bytes,
        layer_bytes=sum(_bytes(t) for n, t in tensors.items() if n.rsplit(".", 1)[0] in names),
        agreement=agreement,
    )


def quantized_weight(name: str, weight: torch.Tensor, scheme: Scheme) -> dict[str, torch.Tensor]:
    """Return a weight ``(N, K)`` as the tensors that the file holds (:mod:`lens_ros.model.quantized`).

    Raises:
        CheckpointError: int4, and ``K`` is not a multiple of 32.
    """
    from torchao.quantization import (
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
        quantize_,
    )
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    rows, columns = weight.shape
    if scheme == "int4" and columns % GROUP:
        raise CheckpointError(f"{name} has {columns} columns; int4 needs a multiple of {GROUP}. Use int8")
    linear = nn.Linear(columns, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(weight.float(), requires_grad=False)
    if scheme == "int8":
        # Settings of the compiler are global; whoever compiles chooses them.
        quantize_(linear, Int8WeightOnlyConfig(set_inductor_config=False))
        values = linear.weight.qdata
    else:
        config = IntxWeightOnlyConfig(
            weight_dtype=torch.int4,
            granularity=PerGroup(GROUP),
            scale_dtype=torch.bfloat16,
            intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY,
        )
        quantize_(linear, config)
        values = pack(linear.weight.qdata)
    return {f"{name}.values": values.contiguous(), f"{name}.scale": linear.weight.scale.contiguous()}


def _agreement(
    folder: Path,
    model: LensModel,
    scheme: Scheme,
    tensors: dict[str, torch.Tensor],
    questions: Sequence[CalibrationQuestion],
    device: str,
    progress: Progress,
) -> Agreement:
    """Ask the full model, then the quantised one, without holding both; fill ``model``."""
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    full = Lens.from_pretrained(folder, device=device, dtype=dtype)
    expected = _answers(full, questions, progress, "asking the full model")
    del full
    load_quantized_tensors(model, tensors, scheme, f"the {scheme} weights", dtype=dtype)
    lens = Lens(place(model.eval(), device), read_tokenizer(folder))
    found = _answers(lens, questions, progress, f"asking the {scheme} model")
    return agreement_of(expected, found)


def _answers(
    lens: Lens, questions: Sequence[CalibrationQuestion], progress: Progress, what: str
) -> list[Segmentation]:
    # Whatever their score: a mask at the threshold may be accepted from the one and not from the other.
    return [
        lens.segment(q.rgb, q.text, score_threshold=0.0) for q in progress(questions, what, len(questions))
    ]


def agreement_of(expected: Sequence[Segmentation], found: Sequence[Segmentation]) -> Agreement:
    """Compare answers to the same questions."""
    overlaps = [mask_iou(a.mask, b.mask) for a, b in zip(expected, found, strict=True)]
    same = [a.answer == b.answer for a, b in zip(expected, found, strict=True)]
    nothing = [not (a.mask.any() or b.mask.any()) for a, b in zip(expected, found, strict=True)]
    return Agreement(
        questions=len(overlaps),
        mean_iou=float(np.mean(overlaps)),
        worst_iou=float(np.min(overlaps)),
        same_answer=float(np.mean(same)),
        both_nothing=float(np.mean(nothing)),
    )


def _write(tensors: dict[str, torch.Tensor], provenance: Provenance, folder: Path, out: Path) -> Path:
    """Write the file so that it appears only when it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    if out.resolve() != folder.resolve():
        for name in _MODEL_FILES:
            shutil.copyfile(folder / name, out / name)
    path = quantized_file(out, provenance.scheme)
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata=provenance.to_metadata())
        shutil.copymode(folder / "config.json", partial)  # safetensors lets none but the owner read it
    return path


def _bytes(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size()
