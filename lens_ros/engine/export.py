"""Export a segmenter's halves to ONNX: strongly typed, one file each, compared with torch.

The file says what it is (``metadata_props``): without that it is refused. Inputs and outputs are float32
whatever the precision inside; see :mod:`lens_ros.engine.graphs` for names and shapes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lens_ros.choices import Part, Precision
from lens_ros.engine import graphs
from lens_ros.engine.errors import EngineError
from lens_ros.engine.graphs import MAX_INSTANCES, MAX_TOKENS
from lens_ros.model.config import ImageConfig, LensConfig
from lens_ros.model.sam import SamSegmenter
from lens_ros.model.sam2 import Sam2Segmenter
from lens_ros.whole import whole_file

FORMAT = 1  # of the graphs' inputs, outputs and meaning; counts up when an older file no longer fits
_OPSET = {"fp32": 18, "fp16": 18, "bf16": 22}  # 22 is the first with bfloat16 convolutions
_STEPS = 3  # of an export: traced, written, compared with torch
_KEY = "lens_ros"  # of the metadata
# Largest difference from torch over the largest value, on random inputs; measured: 1e-6, 2e-3.
_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}


@dataclass(frozen=True)
class GraphInfo:
    """Metadata of an ONNX file.

    ``source`` identifies the weights (:func:`lens_ros.model.checkpoint.segmenter_digest`); ``side`` is S in
    pixels; ``width`` the prompts' C. ``mean`` and ``std`` are the normalisation of ``pixels``, for values in
    0..1.
    """

    model: str
    part: Part
    precision: Precision
    source: str
    side: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_instances: int = MAX_INSTANCES
    max_tokens: int = MAX_TOKENS
    format: int = FORMAT


def describe(
    segmenter: Sam2Segmenter | SamSegmenter, config: LensConfig, part: Part, precision: Precision, source: str
) -> GraphInfo:
    """Return what the exported file of this half records about itself."""
    image: ImageConfig = config.image
    side, width = graphs.picture_side(segmenter), segmenter.prompt_width
    return GraphInfo(
        config.name, part, precision, source, side, width, image.segmenter_mean, image.segmenter_std
    )


def export(
    segmenter: Sam2Segmenter | SamSegmenter,
    info: GraphInfo,
    path: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> float:
    """Write one half as ONNX; the file appears once it is complete and checked.

    ONNX Runtime compares it on the CPU with torch, with several numbers of instances and tokens. bfloat16,
    which it does not run there, is checked for structure only.

    Args:
        segmenter: float32, on the CPU, in eval mode.
        info: what the file records about itself.
        path: file to write.
        progress: called with steps done and steps in all.

    Returns:
        The largest difference from torch in float32, relative to the largest value (bf16: 0).

    Raises:
        EngineError: ONNX is not installed, the graph cannot be exported, differs, or cannot be written.
    """
    onnx = _import_onnx()
    module = graphs.graph(segmenter, info.part, info.precision)
    names = graphs.input_names(segmenter, info.part)
    progress(0, _STEPS)
    # Once: for a decoder the encoder runs, which may be ten times as large.
    samples = graphs.sample_inputs(
        segmenter, info.part, instances=info.max_instances, tokens=info.max_tokens, seed=1
    )
    program = _exported(module, segmenter, info, names, samples)
    progress(1, _STEPS)
    for key, value in _metadata(info).items():
        program.model.metadata_props[key] = value
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            with _quiet():
                program.save(partial, external_data=False)
            onnx.checker.check_model(str(partial))
            progress(2, _STEPS)
            difference = _check(segmenter, info, partial, names, samples)
            progress(_STEPS, _STEPS)
    except OSError as error:
        raise EngineError(
            f"the ONNX file cannot be written to {path.parent}: {error}. Free space there or choose another "
            "folder."
        ) from error
    return difference


def read_info(path: Path) -> GraphInfo:
    """Return what an ONNX file records about itself.

    Raises:
        EngineError: it is absent, damaged, not one of ours, or of another format.
    """
    onnx = _import_onnx()
    if not path.is_file():
        raise EngineError(f"{path} does not exist; `lens build-engine` makes it")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx raise kinds of their own
        raise EngineError(
            f"{path} ({path.stat().st_size} bytes) is damaged or not an ONNX file ({type(error).__name__}). "
            "Delete it and build again: lens build-engine"
        ) from error
    stored = {entry.key: entry.value for entry in model.metadata_props}.get(_KEY)
    try:
        if stored is None:
            raise ValueError(f"its metadata lacks {_KEY!r}")
        values = json.loads(stored)
        if values.get("format") != FORMAT:
            raise ValueError(f"it has format {values.get('format')}, this version of lens_ros needs {FORMAT}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return GraphInfo(**fields)
    except (ValueError, TypeError) as error:
        raise EngineError(
            f"{path} does not say which model it was exported from: {error}. Build it again: "
            "lens build-engine"
        ) from error


def cpu_session(path: Path, *, threads: int = 0):
    """Return an ``onnxruntime.InferenceSession`` on the CPU.

    ``threads`` 0 leaves their number to ONNX Runtime.

    Raises:
        EngineError: ONNX Runtime is not installed, or does not take the file.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin after their work is done take the cores from the reasoner.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = (
        3  # errors: it warns of half-precision constants that it cannot fold on a CPU
    )
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a family of its own, without a common base
        raise EngineError(f"ONNX Runtime cannot open {path}: {error}. Build it again.") from error


def import_onnxruntime():
    """Import ONNX Runtime and return the module.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise EngineError(f"ONNX Runtime does not import ({error}): pip install onnxruntime") from error
    return onnxruntime


def _import_onnx():
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so less clearly
    except (ImportError, OSError) as error:
        raise EngineError(
            f"exporting needs onnx and onnxscript, and one does not import ({error}): "
            "pip install onnx onnxscript"
        ) from error
    return onnx


def _exported(
    module: nn.Module,
    segmenter: Sam2Segmenter | SamSegmenter,
    info: GraphInfo,
    names: list[str],
    samples: tuple[torch.Tensor, ...],
) -> torch.onnx.ONNXProgram:
    # Sizes 0 and 1 would be taken for constants: trace with 2 of everything.
    inputs = graphs.first_of(samples, info.part, instances=2, tokens=2)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=_OPSET[info.precision],
                input_names=names,
                output_names=graphs.output_names(segmenter, info.part),
                dynamic_shapes=_dynamic_shapes(info, names),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch.export and onnxscript raise many kinds
        raise EngineError(
            f"the {info.part} of '{info.model}' cannot be exported ({type(error).__name__}: {error}). "
            "Please report this with the versions that `lens doctor` prints."
        ) from error
    assert program is not None
    return program


def _dynamic_shapes(info: GraphInfo, names: list[str]) -> dict | tuple:
    if info.part == "encoder":
        return {"pixels": None}
    count = torch.export.Dim("instances", min=1, max=info.max_instances)
    tokens = torch.export.Dim("tokens", min=1, max=info.max_tokens)
    free = {"prompts": {0: count, 1: tokens}, "previous": {0: count}, "has_previous": {0: count}}
    first, *others = (free.get(name) for name in names)
    return (first, tuple(others))  # forward(embedding, *others)


def _metadata(info: GraphInfo) -> dict[str, str]:
    return {_KEY: json.dumps(asdict(info), sort_keys=True)}


def _check(
    segmenter: Sam2Segmenter | SamSegmenter,
    info: GraphInfo,
    path: Path,
    names: list[str],
    samples: tuple[torch.Tensor, ...],
) -> float:
    if info.precision == "bf16":
        return 0.0
    session = cpu_session(path)
    truth = graphs.graph(segmenter, info.part, "fp32")
    counts = ((1, 1), (2, 3), (info.max_instances, info.max_tokens)) if info.part == "decoder" else ((1, 1),)
    worst = 0.0
    for instances, tokens in counts:
        inputs = graphs.first_of(samples, info.part, instances, tokens)
        with torch.inference_mode():
            expected = truth(*inputs)
        found = session.run(
            None, {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}
        )
        for theirs, ours in zip(found, expected, strict=True):
            scale = float(ours.abs().max().clamp_min(1e-6))
            worst = max(worst, float(np.abs(theirs - ours.numpy()).max()) / scale)
    if not worst <= _TOLERANCE[info.precision]:  # not a number is refused too
        raise EngineError(
            f"the exported {info.part} of '{info.model}' in {info.precision} differs from torch by "
            f"{worst:.2g} of its largest value; at most {_TOLERANCE[info.precision]:g} was expected. Use "
            "another precision, or report this."
        )
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress and internal deprecations of torch's exporter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
