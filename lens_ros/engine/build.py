"""Build engines from a model's folder: export, compile in a subprocess, self-check.

Precisions form a ladder: each half is made in the first one whose masks agree with torch's
(:mod:`lens_ros.engine.selfcheck`); where the check cannot run (no GPU here), in the first one, and the check
is made up for where the engine is first opened.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from lens_ros.choices import PARTS, Backend, Part, Precision
from lens_ros.engine import graphs
from lens_ros.engine.cache import GRAPH, PLAN, EngineCache, Entry, Key, Manifest, sha256, write_manifest
from lens_ros.engine.compiler import Progress, need_memory, run_compiler
from lens_ros.engine.errors import EngineError, EngineMissing
from lens_ros.engine.export import FORMAT, GraphInfo, describe, export, read_info
from lens_ros.engine.selfcheck import LEAST_IOU, Check, check
from lens_ros.engine.sessions import OnnxSession, Session, TensorRTSession
from lens_ros.engine.tensorrt_api import Library, import_tensorrt
from lens_ros.model.checkpoint import load_segmenter
from lens_ros.model.config import LensConfig
from lens_ros.model.sam import SamSegmenter
from lens_ros.model.sam2 import Sam2Segmenter
from lens_ros.system.machine import Gpu, find_gpu

LADDER: dict[str, tuple[Precision, ...]] = {
    "tensorrt": ("fp16", "bf16", "fp32"),
    "tensorrt_rtx": ("fp16", "bf16", "fp32"),
    "onnxruntime": ("fp32",),  # half precision is slower on a CPU
}
EVERY_RTX = (
    "SM80",
    "SM86",
    "SM89",
    "SM120",
)  # Ampere to Blackwell desktops: what RTX engines are for, if no GPU is here
_SPACE_FACTOR = 2.5  # of the ONNX file; engines of small graphs are larger than these by some 8 MB
_SPACE_BASE = 32e6


@dataclass(frozen=True)
class Built:
    """A built half: its folder, whether it was there already, seconds of work."""

    part: Part
    precision: Precision
    entry: Entry
    reused: bool
    seconds: float


@dataclass(frozen=True)
class Source:
    """The segmenter to compile, float32 on the CPU, and the digest of its weights."""

    folder: Path
    config: LensConfig
    segmenter: Sam2Segmenter | SamSegmenter
    digest: str

    @classmethod
    def read(cls, folder: Path) -> Source:
        """Read what is needed of a model's folder.

        Raises:
            CheckpointError: the folder holds no usable model.
        """
        return cls(folder, *load_segmenter(folder))


def engine_key(
    config: LensConfig, digest: str, part: Part, precision: Precision, backend: Backend, device: str = ""
) -> Key:
    """Return what identifies an engine of these weights on this machine.

    Args:
        config: the model's.
        part: encoder or decoder.
        precision: of the engine.
        backend: that runs it.
        digest: of the segmenter's weights.
        device: for TensorRT :attr:`Gpu.label`, for TensorRT-RTX the capabilities, joined by commas.

    Raises:
        EngineError: the backend's library does not import.
    """
    library = "" if backend == "onnxruntime" else import_tensorrt(backend).label
    profile = f"1x3xSxS, {graphs.MAX_INSTANCES} instances, {graphs.MAX_TOKENS} tokens"
    return Key(config.name, part, precision, backend, digest, FORMAT, profile, library, device)


def build(
    folder: Path,
    backend: Backend,
    cache: EngineCache,
    progress: Progress,
    *,
    parts: Sequence[Part] = PARTS,
    precision: Precision | None = None,
    capabilities: tuple[str, ...] = (),
    force: bool = False,
) -> list[Built]:
    """Build, or find, the engines of a model.

    Args:
        folder: of the model.
        backend: that runs the engines.
        cache: where they are kept.
        progress: receives lines and steps.
        precision: this one and no other.
        capabilities: TensorRT-RTX only: what the engines are for; this machine's GPU, or without one every
            desktop GPU since Ampere.
        force: build them again.

    Raises:
        CheckpointError: the model cannot be read.
        EngineError: an engine cannot be built; those built before it stay.
    """
    builder = _Builder(
        source=Source.read(folder),
        backend=backend,
        library=None if backend == "onnxruntime" else import_tensorrt(backend),
        gpu=find_gpu(),
        cache=cache,
        progress=progress,
        capabilities=capabilities,
        force=force,
    )
    return [builder.part(part, (precision,) if precision else LADDER[backend]) for part in parts]


@dataclass(frozen=True)
class _Builder:
    """State shared by all engines of one call."""

    source: Source
    backend: Backend
    library: Library | None  # None: ONNX Runtime takes the graphs themselves
    gpu: Gpu | None
    cache: EngineCache
    progress: Progress
    capabilities: tuple[str, ...]
    force: bool

    def __post_init__(self) -> None:
        if self.library is not None and not self.library.is_rtx and self.gpu is None:
            raise EngineError(
                f"{self.library.label} compiles on the GPU that the engine is for, and torch sees none here. "
                "Build on the robot, or use the backend tensorrt_rtx (RTX desktops) or onnxruntime."
            )

    def part(self, part: Part, ladder: Sequence[Precision]) -> Built:
        """Return the half in the first precision whose masks are right."""
        tried = []
        for rung in ladder:
            started = time.monotonic()
            key = self._key(part, rung, self.backend, self._device())
            entry = None if self.force else self._present(key)
            reused = entry is not None
            if entry is None:
                entry = self._graph(key) if self.library is None else self._engine(key, self.library)
            assert entry.manifest is not None
            note = entry.manifest.check_note
            if entry.manifest.check is None or entry.manifest.check >= LEAST_IOU:
                self.progress.say(f"{part} {rung}: {note}")
                return Built(part, rung, entry, reused, time.monotonic() - started)
            tried.append(f"{rung}: {note}")
            self.progress.say(
                f"{part} {rung} does not do what torch does ({note}); trying the next precision"
            )
        raise EngineError(
            f"no precision of the {part} passes the self-check (mask IoU of {LEAST_IOU} or more): "
            f"{'; '.join(tried)}. Use the backend torch for this model, or another --precision."
        )

    def _key(self, part: Part, precision: Precision, backend: Backend, device: str = "") -> Key:
        return engine_key(self.source.config, self.source.digest, part, precision, backend, device)

    def _device(self) -> str:
        if self.library is None:
            return ""
        if self.library.is_rtx:
            return ",".join(self.capabilities or ((self.gpu.architecture,) if self.gpu else EVERY_RTX))
        return self.gpu.label if self.gpu else ""

    def _present(self, key: Key) -> Entry | None:
        """Return the cached engine if it is usable; if not, say why."""
        try:
            entry = self.cache.find(key)
        except EngineMissing:
            return None
        except EngineError as error:
            self.progress.say(f"{key.part} {key.precision}: {error}")
            return None
        self.progress.say(f"{key.part} {key.precision}: up to date in {entry.folder}")
        return entry

    def _staging(self, key: Key, need: int) -> AbstractContextManager[Path]:
        other = f"{key.part} {key.precision}: another process makes it; waiting for that"
        return self.cache.staging(key, need, waits=lambda: self.progress.say(other))

    def _made_meanwhile(self, key: Key) -> Entry | None:
        """Return what another process has built while this one waited for the lock."""
        try:
            return None if self.force else self.cache.find(key)
        except EngineError:
            return None

    def _engine(self, key: Key, library: Library) -> Entry:
        graph_key = self._key(key.part, key.precision, "onnxruntime")
        try:
            graph = self.cache.find(graph_key)
        except EngineError:
            graph = self._graph(graph_key)
        started = time.monotonic()
        onnx = graph.file
        size = onnx.stat().st_size
        with self._staging(key, int(_SPACE_BASE + _SPACE_FACTOR * size)) as made:
            if (entry := self._made_meanwhile(key)) is not None:
                return entry
            need_memory(size, key.part)
            self.progress.say(f"{key.part} {key.precision}: compiling with {library.label} for {key.device}")
            made.mkdir()
            tensors = run_compiler(
                library.flavour,
                onnx,
                made / PLAN,
                _profile(read_info(onnx)),
                tuple(key.device.split(",")) if library.is_rtx else (),
                _Phases(self.progress, f"{key.part} {key.precision}: "),
            )
            manifest = _manifest(key, made / PLAN, started, tensors=tuple(tensors), onnx_sha256=sha256(onnx))
            if self.gpu is None:
                note = "not checked: no GPU here; done where it is first opened"
                return self.cache.commit(made, replace(manifest, check_note=note))
            session = TensorRTSession(library, (made / PLAN).read_bytes(), torch.device("cuda"))
            result = self_check(self.source, key.part, session)
            return self.cache.commit(made, replace(manifest, check=result.iou, check_note=result.note))

    def _graph(self, key: Key) -> Entry:
        started = time.monotonic()
        segmenter = self.source.segmenter
        info = describe(segmenter, self.source.config, key.part, key.precision, self.source.digest)
        weights = sum(p.numel() for p in segmenter.parameters()) * (4 if key.precision == "fp32" else 2)
        what = f"{key.part} {key.precision}"
        with self._staging(key, int(_SPACE_BASE + weights)) as made:
            if (entry := self._made_meanwhile(key)) is not None:
                return entry
            self.progress.say(f"{what}: exporting to ONNX")
            made.mkdir()
            difference = export(
                segmenter,
                info,
                made / GRAPH,
                progress=lambda done, of: self.progress.step(f"{what}: exporting", done, of),
            )
            self.progress.say(f"{what}: comparing its masks with torch's")
            manifest = _manifest(key, made / GRAPH, started)
            if key.precision == "bf16":
                note = "not checked: ONNX Runtime has no bfloat16 on a CPU"
                return self.cache.commit(made, replace(manifest, check_note=note))
            result = self_check(self.source, key.part, OnnxSession(made / GRAPH, torch.device("cpu")))
            note = f"{result.note}; {difference:.1g} from torch on random input"
            return self.cache.commit(made, replace(manifest, check=result.iou, check_note=note))


@dataclass(frozen=True)
class _Phases:
    """Progress whose phases name the half and precision."""

    progress: Progress
    what: str

    def say(self, text: str) -> None:
        self.progress.say(text)

    def step(self, phase: str, done: int, of: int) -> None:
        self.progress.step(self.what + phase, done, of)


def self_check(source: Source, part: Part, session: Session) -> Check:
    """Check one compiled half on its device."""
    segmenter = source.segmenter.to(session.device)
    try:
        return check(segmenter, source.config.image, **{part: session})
    finally:
        segmenter.cpu()


def record_check(entry: Entry, manifest: Manifest, result: Check) -> Manifest:
    """Write the result of a late self-check into the manifest.

    If the folder cannot be written, the check is repeated next time.
    """
    manifest = replace(manifest, check=result.iou, check_note=result.note)
    try:
        write_manifest(entry.folder, manifest)
    except OSError:
        pass
    return manifest


def _profile(info: GraphInfo) -> dict[str, Any]:
    """Return the least, usual and largest shapes of the decoder's inputs; an encoder has none to choose."""
    if info.part == "encoder":
        return {}
    side, width = info.side // 4, info.width
    sizes = ((1, 1), (1, 1), (info.max_instances, info.max_tokens))
    return {
        "prompts": tuple((n, t, width) for n, t in sizes),
        "previous": tuple((n, side, side) for n, _ in sizes),
        "has_previous": tuple((n,) for n, _ in sizes),
    }


def _manifest(key: Key, file: Path, started: float, **more: Any) -> Manifest:
    return Manifest(
        key=key,
        file=file.name,
        size=file.stat().st_size,
        sha256=sha256(file),
        seconds=round(time.monotonic() - started, 2),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **more,
    )


def as_json(built: Sequence[Built]) -> list[dict[str, Any]]:
    """Return the result for ``lens build-engine --json``."""
    return [
        {
            "part": one.part,
            "precision": one.precision,
            "file": str(one.entry.file),
            "reused": one.reused,
            "seconds": round(one.seconds, 2),
            **({"manifest": asdict(one.entry.manifest)} if one.entry.manifest else {}),
        }
        for one in built
    ]
