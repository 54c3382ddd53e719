"""Wrap the libraries that compile: ``tensorrt`` 10 and 11, and ``tensorrt_rtx`` 1.

The former are for robots and servers, the latter for desktops; it compiles without a GPU. Graphs are strongly
typed everywhere: the precision is in the ONNX. Differences between the libraries, by NVIDIA's migration
pages: version 10 needs a flag for strong typing, 11 and RTX have nothing else; RTX lists the compute
capabilities that an engine is for, and compiles its kernels when an engine is first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lens_ros.engine.errors import EngineError

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
OLDEST = 10  # TensorRT 8.6 (JetPack 6.0 and before) has no strongly typed networks
_WORKSPACE = 1 << 30  # bytes


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an engine; -1 in ``shape`` is free. ``dtype`` as torch names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool


@dataclass(frozen=True)
class Library:
    """An imported TensorRT."""

    module: Any
    flavour: Flavour

    @property
    def version(self) -> str:
        return self.module.__version__

    @property
    def label(self) -> str:
        """Name and full version: engines of any other are refused."""
        return f"{self.flavour} {self.version}"

    @property
    def is_rtx(self) -> bool:
        return self.flavour == "tensorrt_rtx"

    def dtype(self, value: Any) -> str:
        """Return torch's dtype of a ``trt.DataType``.

        ``trt.nptype`` is not used, because new versions of NumPy break it.
        """
        types = self.module.DataType
        names = {
            types.FLOAT: "float32",
            types.HALF: "float16",
            types.BF16: "bfloat16",
            types.INT32: "int32",
            types.INT64: "int64",
            types.INT8: "int8",
            types.BOOL: "bool",
        }
        return names[value]


def import_tensorrt(flavour: Flavour) -> Library:
    """Import one of the libraries.

    Raises:
        EngineError: it is not installed, its libraries are missing, or it is too old.
    """
    try:
        module = importlib.import_module(flavour)
        library = Library(module, flavour)
        major = int(library.version.split(".")[0])
        _ = module.Builder  # stubs import without it
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        where = (
            "pip install tensorrt_rtx (x86-64)"
            if flavour == "tensorrt_rtx"
            else "it comes with JetPack; elsewhere pip install tensorrt"
        )
        raise EngineError(f"{flavour} does not import ({error}): {where}") from error
    if flavour == "tensorrt" and major < OLDEST:
        raise EngineError(
            f"TensorRT {library.version} ({module.__file__}) is too old: {OLDEST}.0 or newer is needed "
            "(JetPack 6.1 and later)"
        )
    return library


def compile_onnx(
    library: Library,
    onnx: Path,
    profile: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]],
    *,
    capabilities: tuple[str, ...] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[bytes, list[TensorSpec]]:
    """Compile a strongly typed ONNX file.

    Args:
        profile: least, usual and largest shape of every input with free sizes.
        capabilities: RTX only: what the engine is for, such as ``("SM86", "SM89")``; none: this machine's
            GPU.
        progress: phase, steps done, steps in all; called often.

    Raises:
        EngineError: the library does not take the graph; the message carries what it said.
    """
    trt = library.module
    said: list[str] = []
    logger = collecting_logger(trt, said)
    builder = trt.Builder(logger)
    if builder is None:
        raise EngineError(f"{library.label} cannot start: {_last(said)}")
    network = builder.create_network(network_flags(library))
    parser = trt.OnnxParser(network, logger)
    # It takes noise for a graph without anything in it.
    if not parser.parse_from_file(str(onnx)) or network.num_outputs == 0:
        told = "; ".join(str(parser.get_error(i)) for i in range(min(3, parser.num_errors)))
        raise EngineError(f"{library.label} does not take {onnx.name}: {told or _last(said)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(_capability(library, name), index)
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    specs = network_specs(library, network)
    free = [spec for spec in specs if spec.is_input and -1 in spec.shape]
    if free:
        shapes = builder.create_optimization_profile()
        for spec in free:
            shapes.set_shape(spec.name, *profile[spec.name])
        if config.add_optimization_profile(shapes) < 0:
            raise EngineError(f"{library.label} refuses the sizes {dict(profile)}: {_last(said)}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{library.label} cannot compile {onnx.name}: {_last(said)}")
    return bytes(plan), specs


def network_flags(library: Library) -> int:
    """Return the flags for ``create_network``: strong typing, where it is not the only way."""
    flag = getattr(library.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    ten = not library.is_rtx and library.version.split(".")[0] == "10"
    return 1 << int(flag) if ten and flag is not None else 0


def network_specs(library: Library, network: Any) -> list[TensorSpec]:
    """Return inputs and outputs of an ``INetworkDefinition``, in order."""
    inputs = [(network.get_input(i), True) for i in range(network.num_inputs)]
    outputs = [(network.get_output(i), False) for i in range(network.num_outputs)]
    return [
        TensorSpec(t.name, library.dtype(t.dtype), tuple(t.shape), given) for t, given in inputs + outputs
    ]


def engine_specs(library: Library, engine: Any) -> list[TensorSpec]:
    """Return inputs and outputs of an ``ICudaEngine``, in order."""
    mode = library.module.TensorIOMode
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return [
        TensorSpec(
            name,
            library.dtype(engine.get_tensor_dtype(name)),
            tuple(engine.get_tensor_shape(name)),
            engine.get_tensor_mode(name) == mode.INPUT,
        )
        for name in names
    ]


def _capability(library: Library, name: str) -> Any:
    kinds = getattr(library.module, "ComputeCapability", None)
    value = getattr(kinds, name, None)
    if value is None:
        known = [k for k in getattr(kinds, "__members__", {}) if k.startswith("SM")]
        raise EngineError(
            f"{library.label} compiles for {', '.join(known) or 'the GPU of this machine only'}; "
            f"'{name}' is none of these"
        )
    return value


def collecting_logger(trt: Any, said: list[str], *, least: str = "WARNING", most: int = 1000) -> Any:
    """Return an ``ILogger`` that appends messages of the severity ``least`` and above to ``said``.

    Args:
        trt: module ``tensorrt`` or ``tensorrt_rtx``.
        said: receives the messages; only the last ``most`` stay.
        least: name of an ``ILogger.Severity``.
    """
    limit = getattr(trt.ILogger.Severity, least)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= limit:
                said.append(message)
                del said[:-most]

    return Logger()


def _monitor(trt: Any, progress: Callable[[str, int, int], None]) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            progress(phase, step + 1, self.steps[phase])
            return True

        def phase_finish(self, phase: str) -> None:
            progress(phase, self.steps[phase], self.steps[phase])

    return Monitor()


def _last(said: list[str]) -> str:
    return "; ".join(said[-3:]) or "it gave no reason"
