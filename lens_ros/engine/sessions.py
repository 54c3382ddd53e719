"""Run compiled graphs as functions of torch tensors: ONNX Runtime and TensorRT.

Both read and write the memory of torch's tensors where it lies; nothing crosses between host and device that
was not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from lens_ros.engine.errors import EngineError
from lens_ros.engine.export import cpu_session, import_onnxruntime
from lens_ros.engine.tensorrt_api import Library, TensorSpec, collecting_logger, engine_specs

_WARM_UPS = 3  # the first runs choose algorithms and take their memory


class Session(Protocol):
    """A compiled graph.

    Takes the graph's inputs in order, any floating dtype, on ``device``; returns its outputs, float32, which
    belong to the caller.
    """

    @property
    def device(self) -> torch.device: ...

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]: ...


class OnnxSession:
    """A graph in ONNX Runtime, on the CPU or, where its build has CUDA, on a GPU."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Open an ONNX file.

        Raises:
            EngineError: ONNX Runtime is not installed, has no CUDA although that is required, or refuses the
            file.
        """
        self._device, self._path = device, path
        if device.type == "cuda":
            self._session = _cuda_session(path, device)
        else:
            self._session = cpu_session(path, threads=torch.get_num_threads())
        self._specs = [_onnx_spec(t, True) for t in self._session.get_inputs()]
        self._specs += [_onnx_spec(t, False) for t in self._session.get_outputs()]

    @property
    def device(self) -> torch.device:
        return self._device

    @torch.inference_mode()
    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given, made = bind(self._specs, inputs, self._device)
        binding = self._session.io_binding()
        for spec, tensor in (*given, *made):
            place = binding.bind_input if spec.is_input else binding.bind_output
            place(
                spec.name,
                self._device.type,
                self._device.index or 0,
                _NUMPY[spec.dtype],
                tuple(tensor.shape),
                tensor.data_ptr(),
            )
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # ONNX Runtime uses its own stream
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # its errors have no common base class
            raise EngineError(f"ONNX Runtime does not run {self._path}: {error}") from error
        return tuple(tensor for _, tensor in made)


class TensorRTSession:
    """A TensorRT engine on its own CUDA stream.

    Graphs whose sizes are fixed are replayed as one CUDA graph.
    """

    def __init__(self, library: Library, plan: bytes, device: torch.device) -> None:
        """Open an engine.

        Raises:
            EngineError: the library does not take the engine on this GPU.
        """
        trt = library.module
        self._device = device
        self._said: list[str] = []
        self._logger = collecting_logger(trt, self._said, least="ERROR", most=10)
        self._fixed = False
        with torch.cuda.device(device):
            # All of these must live as long as the context.
            self._runtime = trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(f"{library.label} does not open the engine: {self._told()}")
            self._specs = engine_specs(library, self._engine)
            self._fixed = all(-1 not in spec.shape for spec in self._specs)
            self._context = self._new_context(library)
            if self._context is None:
                raise EngineError(f"{library.label} cannot run the engine: {self._told()}")
            self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]] | None = None
        self._captures = self._fixed and not library.is_rtx  # RTX captures by itself
        self._runs = 0

    def _new_context(self, library: Library) -> Any:
        if not library.is_rtx:
            return self._engine.create_execution_context()
        settings = self._engine.create_runtime_config()
        if self._fixed:
            settings.cuda_graph_strategy = library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(settings)

    @property
    def device(self) -> torch.device:
        return self._device

    @torch.inference_mode()
    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                outputs = self._replay(inputs) if self._captures else self._run(inputs)
            current.wait_stream(self._stream)
            for tensor in outputs:
                tensor.record_stream(current)
        return outputs

    def _run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        given, made = bind(self._specs, inputs, self._device)
        for _, tensor in given:  # casts were made on our stream, the originals on the caller's
            tensor.record_stream(self._stream)
        enqueue(self._context, (*given, *made), self._stream.cuda_stream, self._told)
        return tuple(tensor for _, tensor in made)

    def _replay(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Warm up and capture once; then copy in, replay, copy out."""
        if self._graph is None and self._runs < _WARM_UPS:
            self._runs += 1
            return self._run(inputs)
        if self._graph is None:
            given, made = bind(self._specs, [x.clone() for x in inputs], self._device)
            self._static = [t for _, t in given], [t for _, t in made]
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may go on using CUDA meanwhile.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                enqueue(self._context, (*given, *made), self._stream.cuda_stream, self._told)
        assert self._static is not None
        for kept, new in zip(self._static[0], inputs, strict=True):
            kept.copy_(new)
        self._graph.replay()
        return tuple(tensor.clone() for tensor in self._static[1])

    def _told(self) -> str:
        return "; ".join(self._said[-3:]) or "it gave no reason"


Bound = list[tuple[TensorSpec, torch.Tensor]]


def bind(
    specs: Sequence[TensorSpec], inputs: Sequence[torch.Tensor], device: torch.device
) -> tuple[Bound, Bound]:
    """Return contiguous inputs of the right dtype on ``device``, and new tensors for every output.

    A free size of an output is the first input's free first size: the number of instances.

    Raises:
        EngineError: a wrong number of inputs, or a size that does not fit.
    """
    wanted = [spec for spec in specs if spec.is_input]
    if len(wanted) != len(inputs):
        raise EngineError(f"{len(inputs)} inputs were given, expected {[spec.name for spec in wanted]}")
    given = []
    count = 1
    for spec, tensor in zip(wanted, inputs, strict=True):
        shape = tuple(tensor.shape)
        fits = len(shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise EngineError(f"{spec.name} has the shape {shape}, the engine takes {spec.shape}")
        if spec.shape and spec.shape[0] == -1:
            count = shape[0]
        given.append((spec, tensor.to(device, getattr(torch, spec.dtype)).contiguous()))
    made = []
    for spec in specs:
        if not spec.is_input:
            shape = tuple(count if size == -1 else size for size in spec.shape)
            made.append((spec, torch.empty(shape, dtype=getattr(torch, spec.dtype), device=device)))
    return given, made


def enqueue(context: Any, tensors: Sequence[tuple[TensorSpec, torch.Tensor]], stream: int, told: Any) -> None:
    """Give an ``IExecutionContext`` every shape and address, and start it on a CUDA stream.

    Raises:
        EngineError: TensorRT refuses a shape or does not start; ``told()`` says what it said.
    """
    for spec, tensor in tensors:
        if spec.is_input and not context.set_input_shape(spec.name, tuple(tensor.shape)):
            raise EngineError(f"TensorRT refuses {spec.name} of shape {tuple(tensor.shape)}: {told()}")
        context.set_tensor_address(spec.name, tensor.data_ptr())
    if not context.execute_async_v3(stream):
        raise EngineError(f"TensorRT does not run: {told()}")


_NUMPY = {"float32": 1, "float16": 10, "bfloat16": 16, "int32": 6, "int64": 7}  # onnx.TensorProto's numbers
_ONNX_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"}


def _onnx_spec(tensor: Any, is_input: bool) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    return TensorSpec(tensor.name, _ONNX_TYPES[tensor.type], shape, is_input)


def _cuda_session(path: Path, device: torch.device) -> Any:
    onnxruntime = import_onnxruntime()
    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(
            "this build of ONNX Runtime has no CUDA: pip install onnxruntime-gpu, or use the backend tensorrt"
        )
    options = {"device_id": device.index or 0}
    try:
        return onnxruntime.InferenceSession(str(path), providers=[(provider, options)])
    except Exception as error:  # its errors have no common base class
        raise EngineError(f"ONNX Runtime cannot open {path} on {device}: {error}") from error
