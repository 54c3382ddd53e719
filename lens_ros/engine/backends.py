"""Choose the backend of a model's segmenter: TensorRT, TensorRT-RTX, ONNX Runtime or torch.

Engines are never made here (``lens build-engine`` and :mod:`lens_ros.engine.background_build` do that), only
opened; what cannot be opened is named, and the next backend serves.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch

from lens_ros.choices import BACKEND_CHOICES, PARTS, PRECISIONS, Backend, BackendChoice, Part, Precision
from lens_ros.engine.build import LADDER, Source, engine_key, record_check, self_check
from lens_ros.engine.cache import EngineCache, Entry
from lens_ros.engine.compiled_segmenter import CompiledSegmenter
from lens_ros.engine.errors import EngineError, EngineMissing
from lens_ros.engine.export import import_onnxruntime
from lens_ros.engine.selfcheck import LEAST_IOU
from lens_ros.engine.sessions import OnnxSession, Session, TensorRTSession
from lens_ros.engine.tensorrt_api import import_tensorrt
from lens_ros.model.checkpoint import load_segmenter, segmenter_digest
from lens_ros.model.config import LensConfig
from lens_ros.model.sam import SamSegmenter
from lens_ros.model.sam2 import Sam2Segmenter
from lens_ros.system.machine import find_gpu

SHIPPED = "engines"  # a model's folder may bring engines along, in a cache of this name

log = logging.getLogger("lens_ros.engine")


@dataclass(frozen=True)
class Opened:
    """The backend of one half of the segmenter.

    ``label`` is such as ``tensorrt fp16``, ``reason`` one sentence. torch has neither ``session`` nor
    ``entry`` in a cache. ``refused`` holds engines that would have been preferred but cannot serve, with the
    reason.
    """

    part: Part
    label: str
    reason: str
    session: Session | None = None
    entry: Entry | None = None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engines:
    """The backends of the two halves of a segmenter."""

    encoder: Opened
    decoder: Opened

    def __str__(self) -> str:
        if (self.encoder.label, self.encoder.reason) == (self.decoder.label, self.decoder.reason):
            return f"{self.encoder.label}: {self.encoder.reason}"
        return "; ".join(f"{half.part} {half.label}: {half.reason}" for half in self.halves)

    @property
    def halves(self) -> tuple[Opened, Opened]:
        return self.encoder, self.decoder

    @property
    def labels(self) -> str:
        """The backends without the reasons: ``torch``, or ``torch and onnxruntime fp32``."""
        return " and ".join(dict.fromkeys(half.label for half in self.halves))

    @property
    def refused(self) -> list[str]:
        """Engines that exist and cannot serve, with the reason."""
        return [f"{half.part} {text}" for half in self.halves for text in half.refused]

    def are(self, backend: Backend) -> bool:
        """Return whether this backend runs both halves."""
        return all(half.label.split()[0] == backend for half in self.halves)

    @property
    def faults(self) -> list[str]:
        """Files that were changed or removed since they were opened, with what happened to them."""
        opened = [(half.part, half.entry) for half in self.halves if half.entry is not None]
        return [
            f"the engine of the {part}, {entry.folder}: {fault}"
            for part, entry in opened
            if (fault := entry.read_again().fault)
        ]


def torch_alone(reason: str) -> Engines:
    """Return torch for both halves."""
    return Engines(*(Opened(part, "torch", reason) for part in PARTS))


def open_engines(
    folder: Path,
    config: LensConfig,
    *,
    backend: BackendChoice = "auto",
    precision: Precision | None = None,
    device: str | torch.device = "cpu",
    cache: EngineCache | None = None,
) -> Engines:
    """Open the best engines that are ready for a model's folder; log which, and why.

    Args:
        folder: of the model.
        config: the model's.
        backend: ``"auto"`` takes TensorRT, TensorRT-RTX, then ONNX Runtime on a GPU, ONNX Runtime on a CPU,
            and torch if none is ready. One that is named but cannot serve falls back to torch, with a
        warning. precision: only engines of this one.
        device: as torch names it.
        cache: where engines are searched first.

    Raises:
        ValueError: no such backend or precision.
        CheckpointError: the folder holds no weights.
    """
    if backend not in BACKEND_CHOICES or precision not in (None, *PRECISIONS):
        raise ValueError(
            f"backend '{backend}', precision '{precision}'; expected one of "
            f"{', '.join(BACKEND_CHOICES)} and one of {', '.join(PRECISIONS)} or none"
        )
    device = torch.device(device)
    caches = [cache or EngineCache(), EngineCache(folder / SHIPPED)]
    if backend == "torch":
        return torch_alone("it was asked for")
    order: tuple[Backend, ...] = (backend,) if backend != "auto" else _order(device)
    if backend == "auto" and not any(place.entries(config.name) for place in caches):
        engines = torch_alone(
            f"no engines of '{config.name}' in {caches[0].root} (lens build-engine makes them)"
        )
    else:
        opener = _Opener(folder, config, precision, device, caches)
        engines = Engines(*(opener.part(part, order) for part in PARTS))
    if shortfall := shortfall_of(engines, backend):
        log.warning("segmenter of '%s': %s", config.name, shortfall)
    else:
        log.info("segmenter of '%s': %s", config.name, engines)
    return engines


def shortfall_of(engines: Engines, backend: BackendChoice) -> str:
    """Return which engines should serve and cannot, and why, or the empty string.

    Args:
        backend: what was asked for.
    """
    if backend not in ("auto", "torch") and any(half.session is None for half in engines.halves):
        return f"backend {backend} was asked for, and cannot serve: {engines}"
    if engines.refused:
        return f"engines cannot serve ({'; '.join(engines.refused)}); {engines.labels} serves"
    return ""


def compiled(segmenter: Sam2Segmenter | SamSegmenter, engines: Engines) -> Sam2Segmenter | SamSegmenter:
    """Return the segmenter with its compiled halves; the torch weights that they replace are dropped."""
    if engines.encoder.session is None and engines.decoder.session is None:
        return segmenter
    made = CompiledSegmenter(segmenter, encoder=engines.encoder.session, decoder=engines.decoder.session)
    return made.slim()  # type: ignore[return-value]  # the same interface


def exchanged(
    segmenter: Sam2Segmenter | SamSegmenter | CompiledSegmenter, engines: Engines, folder: Path
) -> Sam2Segmenter | SamSegmenter:
    """Return a segmenter, which may have compiled halves, with these halves instead.

    Torch weights that were dropped for the old ones and are needed again are read from the ``folder``.

    Raises:
        CheckpointError: they are not there any more.
    """
    if isinstance(segmenter, CompiledSegmenter):
        old, torch_one = segmenter, segmenter.torch
        dropped_encoder = old.encoder is not None and engines.encoder.session is None
        dropped_decoder = None not in (old.encoder, old.decoder) and engines.decoder.session is None
        if dropped_encoder or dropped_decoder:
            like = torch_one.no_mask_embedding
            torch_one = load_segmenter(folder)[1].to(like.device, like.dtype)
        segmenter = torch_one
    return compiled(segmenter, engines)


def to_be_made(engines: Engines, backend: BackendChoice, device: str | torch.device) -> Backend | None:
    """Return the backend that would serve if its engines were built here; None if the present one is best.

    Args:
        engines: what serves now.
        backend: what was asked for; for ``"auto"`` only backends whose libraries are complete are considered.
        device: as torch names it.
    """
    device = torch.device(device)
    if backend == "torch":
        return None
    for candidate in (backend,) if backend != "auto" else _order(device):
        if candidate != "onnxruntime" and device.type != "cuda":
            continue  # it could be made, but not used
        if backend == "auto" and not _at_hand(candidate, device):
            continue
        return None if engines.are(candidate) else candidate
    return None


def _at_hand(backend: Backend, device: torch.device) -> bool:
    """Return whether the libraries that build and run its engines are installed."""
    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        return False  # the self-check of a graph runs in ONNX Runtime, whatever becomes of it
    if backend == "onnxruntime":
        provider = "CUDAExecutionProvider"
        return device.type == "cpu" or provider in import_onnxruntime().get_available_providers()
    try:
        import_tensorrt(backend)
    except EngineError:
        return False
    return True


def _order(device: torch.device) -> tuple[Backend, ...]:
    return ("tensorrt", "tensorrt_rtx", "onnxruntime") if device.type == "cuda" else ("onnxruntime",)


@dataclass(frozen=True)
class _Opener:
    """State shared while both halves are opened."""

    folder: Path
    config: LensConfig
    precision: Precision | None
    device: torch.device
    caches: list[EngineCache]

    @cached_property
    def digest(self) -> str:
        return segmenter_digest(self.folder)

    def part(self, part: Part, order: Sequence[Backend]) -> Opened:
        """Return the first backend and precision that serve; torch if none does."""
        refusals: list[str] = []
        refused: list[str] = []
        for backend in order:
            if backend != "onnxruntime" and self.device.type != "cuda":
                refusals.append(f"{backend} needs a GPU, the device is {self.device}")
                continue
            for rung in (self.precision,) if self.precision else LADDER[backend]:
                try:
                    entry = self._find(part, rung, backend)
                    session = self._open(entry, backend)
                    note = self._checked(part, entry, session)
                except EngineMissing as error:
                    refusals.append(f"{backend} {rung}: {error}")
                    continue
                except EngineError as error:
                    refusals.append(f"{backend} {rung}: {error}")
                except Exception as error:  # CUDA and the libraries raise kinds of their own
                    refusals.append(f"{backend} {rung}: {type(error).__name__}: {error}")
                else:
                    return Opened(part, f"{backend} {rung}", note, session, entry, tuple(refused))
                refused.append(refusals[-1])
        return Opened(part, "torch", "; ".join(refusals), refused=tuple(refused))

    def _find(self, part: Part, precision: Precision, backend: Backend) -> Entry:
        """Return the engine of the first cache that has it."""
        refusals = []
        for label in self._labels(backend):
            key = engine_key(self.config, self.digest, part, precision, backend, label)
            for cache in self.caches:
                try:
                    return cache.find(key)
                except EngineError as error:
                    refusals.append(error)
        raise next((each for each in refusals if not isinstance(each, EngineMissing)), refusals[0])

    def _labels(self, backend: Backend) -> list[str]:
        """Return the labels of the devices that an engine may be for and run here."""
        gpu = find_gpu(self.device)
        if gpu is None or backend == "onnxruntime":
            return [""]
        if backend == "tensorrt":
            return [gpu.label]
        entries = [entry for cache in self.caches for entry in cache.entries(self.config.name)]
        several = {entry.manifest.key.device for entry in entries if entry.manifest}
        fitting = sorted(d for d in several - {gpu.architecture} if gpu.architecture in d.split(","))
        return [gpu.architecture, *fitting]

    def _open(self, entry: Entry, backend: Backend) -> Session:
        if backend == "onnxruntime":
            return OnnxSession(entry.file, self.device)
        return TensorRTSession(import_tensorrt(backend), entry.file.read_bytes(), self.device)

    def _checked(self, part: Part, entry: Entry, session: Session) -> str:
        manifest = entry.manifest
        assert manifest is not None
        if manifest.check is None:
            manifest = record_check(entry, manifest, self_check(Source.read(self.folder), part, session))
        if not (manifest.check or 0.0) >= LEAST_IOU:
            raise EngineError(f"it does not do what torch does: {manifest.check_note}")
        return f"ready, {manifest.check_note}"
