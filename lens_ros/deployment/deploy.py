"""Write a deployable folder: weights, quantised weights, ONNX, manifest, model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lens_ros import __version__
from lens_ros.choices import Precision, Scheme
from lens_ros.deployment.comparison_set import CalibrationQuestion
from lens_ros.deployment.forecast import BOARDS, forecast, parameter_counts
from lens_ros.deployment.quantize import QuantizationReport, quantize_model
from lens_ros.engine.backends import SHIPPED
from lens_ros.engine.build import build
from lens_ros.engine.cache import EngineCache, Manifest, sha256
from lens_ros.engine.compiler import Progress
from lens_ros.engine.errors import EngineError
from lens_ros.model.checkpoint import WEIGHTS, read_config
from lens_ros.model.config import LensConfig
from lens_ros.model.errors import CheckpointError
from lens_ros.whole import whole_folder

MANIFEST, CARD = "manifest.json", "README.md"
_TAKEN = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "training.json", "metrics.jsonl")


def exported_model(folder: Path) -> Path:
    """Return the folder of the model: ``folder`` itself, or what a training run in it exported.

    A run exports ``model``, or else the ``best`` so far.

    Raises:
        CheckpointError: there is none yet.
    """
    for candidate in (folder, folder / "model", folder / "best"):
        if (candidate / "config.json").is_file():
            return candidate
    raise CheckpointError(
        f"{folder} holds no model: expected config.json and {WEIGHTS}, or a training run that has exported "
        "one (in model/ when it is finished, in best/ after its first evaluation)"
    )


def deploy(
    folder: Path,
    out: Path,
    progress: Progress,
    *,
    schemes: Sequence[Scheme] = ("int8",),
    precisions: Sequence[Precision] = ("fp32", "fp16"),
    questions: Callable[[Path], Sequence[CalibrationQuestion]] = lambda folder: (),
    min_iou: float = 0.95,
) -> Path:
    """Write the folder ``out``, which loads as a model and brings its ONNX files along.

    It appears once it is complete, in place of an older one.

    Args:
        folder: of a model, or of a training run.
        out: folder to write.
        questions: the calibration set for a model's folder; without questions int4 cannot be made.

    Raises:
        CheckpointError: no usable model.
        QuantizationRefused: see :func:`~lens_ros.deployment.quantize.quantize_model`.
        EngineError: ONNX cannot be made, or ``out`` cannot be written or is not a deployed model.
    """
    source = exported_model(folder)
    config = read_config(source)
    _may_replace(out)
    try:
        with whole_folder(out) as partial:
            for name in _TAKEN:
                if (source / name).is_file():
                    shutil.copy(source / name, partial)
            asked = questions(partial)
            reports = []
            for scheme in schemes:
                progress.say(f"quantizing to {scheme}")
                reports.append(
                    quantize_model(
                        partial,
                        scheme,
                        questions=asked,
                        min_iou=min_iou if asked else None,
                        progress=_stepwise(progress),
                    )
                )
            cache = EngineCache(partial / SHIPPED)
            graphs = [
                one.entry.manifest
                for precision in precisions
                for one in build(partial, "onnxruntime", cache, progress, precision=precision)
            ]
            (partial / CARD).write_text(
                _card(config, out.name, source, reports, [g for g in graphs if g]), encoding="utf-8"
            )
            _write_manifest(partial, config)
    except OSError as error:
        raise EngineError(f"{out} cannot be written: {error}. Free space or choose another folder") from error
    return out


def verify(folder: Path) -> list[str]:
    """Return the faults of a deployed folder: files that are missing, changed or not in its manifest.

    Raises:
        EngineError: it has no readable manifest.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{folder} has no readable {MANIFEST} ({type(error).__name__}: {error}); lens deploy makes it"
        ) from error
    faults = []
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != known["bytes"] or sha256(path) != known["sha256"]:
            faults.append(f"{name} is not as it was deployed")
    there = {str(path.relative_to(folder)) for path in _files(folder)}
    return faults + [f"{name} was added" for name in sorted(there - set(files))]


def _stepwise(progress: Progress) -> Callable[[Iterable, str, int], Iterator]:
    """Return the questions in the form that :func:`quantize_model` takes."""

    def passing(items: Iterable, what: str, count: int) -> Iterator:
        for done, item in enumerate(items, 1):
            yield item
            progress.step(what, done, count)

    return passing


def _may_replace(out: Path) -> None:
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise EngineError(f"{out} exists and is not a deployed model (it has no {MANIFEST}): choose another")


def _files(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock"))
    return sorted(p for p in found if p != folder / MANIFEST)


def _write_manifest(folder: Path, config: LensConfig) -> None:
    for lock in folder.rglob("*.lock"):
        lock.unlink()
    content: dict[str, Any] = {
        "model": config.name,
        "lens_ros": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "files": {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in _files(folder)
        },
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _card(
    config: LensConfig,
    name: str,
    source: Path,
    reports: Sequence[QuantizationReport],
    graphs: Sequence[Manifest],
) -> str:
    counts = parameter_counts(config)
    lines = [
        f"# {config.name}",
        "",
        f'A model of lens_ros {__version__}: `lens segment PICTURE "TEXT" --model {name}`.',
        f"Every file with its SHA-256 is in `{MANIFEST}`.",
        "",
        "| part | million parameters |",
        "|---|---|",
        *(f"| {part} | {count / 1e6:.2f} |" for part, count in counts.items() if count),
        f"| all | {sum(counts.values()) / 1e6:.2f} |",
        "",
        f"Query positions: {config.query_positions}. Wording: {config.wording}. Thinks: {config.think}.",
        "",
        "## Weights",
        "",
        f"- `{WEIGHTS}`: all of them",
    ]
    for report in reports:
        told = "not measured"
        if report.agreement is not None:
            found = asdict(report.agreement)
            told = (
                f"masks against the full model's on {found['questions']} questions: mean IoU "
                f"{found['mean_iou']:.4f}, worst {found['worst_iou']:.4f}"
            )
        size = report.file_bytes / 1e6
        lines.append(f"- `{report.file.name}`: {report.scheme}, {size:.1f} MB; {told}")
    lines += ["", "## ONNX", ""]
    lines += [
        f"- {graph.key.part}, {graph.key.precision}: {graph.size / 1e6:.1f} MB; {graph.check_note}"
        for graph in graphs
    ]
    lines += ["", "## Memory", "", "Forecast with everything loaded, beside the system and ROS:", ""]
    for quantization in ("none", *(report.scheme for report in reports)):
        expected = forecast(config, quantization)
        boards = ", ".join(
            f"{board} GB {'fits' if expected.fits(board) else 'too small'}" for board in BOARDS
        )
        lines.append(f"- {quantization}: {expected.total / 1e9:.2f} GB; {boards}")
    record = source / "training.json"
    if record.is_file():
        training = json.loads(record.read_text(encoding="utf-8"))
        lines += ["", "## Training", "", f"Program `{training.get('program', 'unknown')}`, "
                  f"{training.get('seconds', 'unknown')} s; everything else in `training.json`."]  # fmt: skip
    return "\n".join(lines) + "\n"
