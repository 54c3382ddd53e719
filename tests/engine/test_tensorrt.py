"""Real TensorRT-RTX: engines compiled ahead of time without a GPU, and what its objects report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lens_ros.engine.build import Built, engine_key
from lens_ros.engine.cache import EngineCache, Key
from lens_ros.engine.errors import EngineError
from lens_ros.engine.sessions import bind, enqueue
from lens_ros.engine.state import staleness
from lens_ros.engine.tensorrt_api import (
    Library,
    TensorSpec,
    compile_onnx,
    import_tensorrt,
    network_flags,
    network_specs,
)

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx has wheels for Linux x86_64 only")


@pytest.fixture(scope="module")
def library() -> Library:
    return import_tensorrt("tensorrt_rtx")


def test_lens_nano_is_compiled_for_every_rtx_gpu(rtx_engines: list[Built], library: Library) -> None:
    assert [(one.part, one.precision, one.reused) for one in rtx_engines] == [
        ("encoder", "fp16", False),
        ("decoder", "fp16", False),
    ]
    for one in rtx_engines:
        manifest = one.entry.manifest
        assert manifest is not None and manifest.size == one.entry.file.stat().st_size > 1_000_000
        assert manifest.key.library == library.label
        assert manifest.key.device == "SM80,SM86,SM89,SM120"
        assert manifest.check is None and "no GPU" in manifest.check_note
        # The library's own verdict on the header; without a driver it can say no more than "not here".
        runtime = trt.Runtime(trt.Logger())
        header = one.entry.file.read_bytes()[: runtime.engine_header_size]
        assert isinstance(runtime.get_engine_validity(header)[0], trt.EngineValidity)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "fp32", "bf16"])
def test_the_full_width_decoder_of_sam2_is_compiled(
    sam2_onnx: Callable[[str], Path], library: Library, precision: str
) -> None:
    profile = {
        "prompts": ((1, 1, 256), (1, 1, 256), (16, 4, 256)),
        "previous": ((1, 256, 256), (1, 256, 256), (16, 256, 256)),
        "has_previous": ((1,), (1,), (16,)),
    }
    steps = []
    plan, specs = compile_onnx(
        library,
        sam2_onnx(precision),
        profile,
        capabilities=("SM86", "SM89"),
        progress=lambda phase, done, of: steps.append((phase, done, of)),
    )
    assert len(plan) > (20e6 if precision == "fp32" else 10e6)
    assert {spec.name: spec.shape for spec in specs} == {
        "embedding": (1, 256, 64, 64),
        "high_res_0": (1, 32, 256, 256),
        "high_res_1": (1, 64, 128, 128),
        "prompts": (-1, -1, 256),
        "previous": (-1, 256, 256),
        "has_previous": (-1,),
        "logits": (-1, 256, 256),
        "iou": (-1,),
    }
    assert {spec.dtype for spec in specs} == {"float32"}
    assert len({phase for phase, _, _ in steps}) > 2
    assert all(0 <= done <= of for _, done, of in steps)


def test_a_profile_that_does_not_fit_is_refused(rtx_engines, library: Library) -> None:
    onnx = next(
        e.file
        for e in EngineCache(rtx_engines[0].entry.folder.parents[1]).entries()
        if e.manifest and e.manifest.key.backend == "onnxruntime" and e.manifest.key.part == "decoder"
    )
    wrong = {
        "prompts": ((1, 1, 64), (1, 1, 64), (16, 4, 63)),
        "previous": ((1, 64, 64), (1, 64, 64), (16, 64, 64)),
        "has_previous": ((1,), (1,), (16,)),
    }
    with pytest.raises(EngineError, match="tensorrt_rtx .* (refuses the sizes|cannot compile)"):
        compile_onnx(library, onnx, wrong, capabilities=("SM89",))


def test_a_gpu_that_the_library_does_not_know_is_named(rtx_engines, library: Library) -> None:
    onnx = next(rtx_engines[0].entry.folder.parent.glob("*onnxruntime*/graph.onnx"))
    with pytest.raises(EngineError, match=r"SM75.*'SM87' is none of these"):
        compile_onnx(library, onnx, {}, capabilities=("SM87",))


def test_what_is_no_onnx_is_refused_with_what_the_library_says(library: Library, tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(EngineError, match="does not take noise.onnx"):
        compile_onnx(library, tmp_path / "noise.onnx", {})


def network_of(library: Library, onnx: Path):
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(library))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(onnx))
    return network, (logger, builder, parser)


def test_names_shapes_and_types_are_those_of_the_network_objects(rtx_engines, library: Library) -> None:
    decoder = rtx_engines[1]
    onnx = next(p for p in decoder.entry.folder.parent.glob("decoder-fp16-onnxruntime*/graph.onnx"))
    network, keep = network_of(library, onnx)
    specs = network_specs(library, network)
    assert keep and [s.name for s in specs if s.is_input][-3:] == ["prompts", "previous", "has_previous"]
    stored = decoder.entry.manifest.tensors
    assert [TensorSpec(**{**t, "shape": tuple(t["shape"])}) for t in stored] == specs
    assert library.dtype(trt.DataType.BF16) == "bfloat16" and library.dtype(trt.DataType.HALF) == "float16"


class Context:
    """Stand-in for an ``IExecutionContext``, which cannot be created without a GPU.

    It accepts the same calls and refuses shapes outside of the profile.
    """

    def __init__(self, most: int) -> None:
        self.most, self.shapes, self.addresses, self.streams = most, {}, {}, []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return name in ("embedding", "high_res_0", "high_res_1") or shape[0] <= self.most

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        return True


def test_shapes_and_addresses_reach_the_context(rtx_engines, library: Library, nano) -> None:
    from lens_ros.engine.graphs import sample_inputs

    onnx = next(rtx_engines[1].entry.folder.parent.glob("decoder-fp16-onnxruntime*/graph.onnx"))
    network, keep = network_of(library, onnx)
    specs = network_specs(library, network)
    inputs = sample_inputs(nano[1], "decoder", instances=3, tokens=1)
    strided = inputs[-3].expand(3, 4, 64)[:, ::2]  # not contiguous, and of another dtype
    given, made = bind(specs, (*inputs[:-3], strided.half(), *inputs[-2:]), torch.device("cpu"))
    context = Context(16)
    enqueue(context, (*given, *made), 7, lambda: "")
    assert keep and context.streams == [7]
    assert context.shapes["prompts"] == (3, 2, 64) and context.shapes["has_previous"] == (3,)
    assert [(s.name, tuple(t.shape)) for s, t in made] == [("logits", (3, 64, 64)), ("iou", (3,))]
    for spec, tensor in (*given, *made):
        assert tensor.is_contiguous() and tensor.dtype == getattr(torch, spec.dtype)
        assert context.addresses[spec.name] == tensor.data_ptr()
    with pytest.raises(EngineError, match=r"refuses prompts of shape \(3, 2, 64\): too many"):
        enqueue(Context(2), (*given, *made), 7, lambda: "too many")
    with pytest.raises(EngineError, match="embedding has the shape"):
        bind(specs, (inputs[0][:, :3], *inputs[1:]), torch.device("cpu"))
    with pytest.raises(EngineError, match="2 inputs were given"):
        bind(specs, inputs[:2], torch.device("cpu"))


def test_engines_of_others_are_stale(rtx_engines, library: Library) -> None:
    key = rtx_engines[0].entry.manifest.key
    digests = {key.model: key.source}
    assert staleness(key, digests) == ""
    other = {"source": "f" * 64, "format": 0, "library": "tensorrt_rtx 1.0.0.1"}
    told = {"source": "other weights", "format": "format 0", "library": "made by tensorrt_rtx 1.0.0.1"}
    for name, value in other.items():
        assert told[name] in staleness(Key(**{**vars(key), name: value}), digests)


def test_the_key_holds_everything_that_binds_an_engine(nano) -> None:
    config, _, digest = nano
    keys = {
        engine_key(config, digest, "decoder", "fp16", "tensorrt_rtx", "SM89"),
        engine_key(config, digest, "decoder", "fp16", "tensorrt_rtx", "SM86"),
        engine_key(config, digest, "decoder", "fp32", "tensorrt_rtx", "SM89"),
        engine_key(config, "1" * 64, "decoder", "fp16", "tensorrt_rtx", "SM89"),
        engine_key(config, digest, "encoder", "fp16", "tensorrt_rtx", "SM89"),
        engine_key(config, digest, "decoder", "fp16", "onnxruntime"),
    }
    assert len({key.fingerprint for key in keys}) == 6
    assert json.loads(json.dumps(vars(min(keys, key=lambda k: k.fingerprint))))


def test_without_a_gpu_nothing_is_pretended(rtx_engines, library: Library) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    assert runtime.deserialize_cuda_engine(rtx_engines[0].entry.file.read_bytes()) is None
