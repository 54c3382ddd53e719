"""Segmenters exported to ONNX and run in ONNX Runtime, compared with torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lens_ros.choices import Part, Precision
from lens_ros.engine import graphs
from lens_ros.engine.errors import EngineError
from lens_ros.engine.export import describe, export, read_info
from lens_ros.engine.sessions import OnnxSession
from lens_ros.model.sam import SamSegmenter
from lens_ros.model.sam2 import ImageFeatures, Sam2Segmenter
from tests.engine.conftest import config_of

CPU = torch.device("cpu")
LONG_SAM2_DECODER = pytest.param("sam2_decoder", marks=pytest.mark.long)  # half a minute of export
LONG_SAM = pytest.param("sam", marks=pytest.mark.long)


def segmenter_of(request: pytest.FixtureRequest, name: str) -> Sam2Segmenter | SamSegmenter:
    made = request.getfixturevalue(name)
    return made[1] if name == "nano" else made


def exported(segmenter: Sam2Segmenter | SamSegmenter, part: Part, precision: Precision, folder: Path) -> Path:
    info = describe(segmenter, config_of("some"), part, precision, "0" * 64)
    export(segmenter, info, folder / "graph.onnx")
    return folder / "graph.onnx"


def decoder_of(request: pytest.FixtureRequest, name: str, precision: Precision, folder: Path) -> Path:
    if name == "sam2_decoder":
        return request.getfixturevalue("sam2_onnx")(precision)
    if name == "nano" and precision == "fp32":
        cache = request.getfixturevalue("nano_cache")
        keys = [(entry.manifest.key, entry.file) for entry in cache.entries() if entry.manifest is not None]
        return next(file for key, file in keys if (key.part, key.precision) == ("decoder", "fp32"))
    return exported(segmenter_of(request, name), "decoder", precision, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", LONG_SAM2_DECODER, "sam"])
def test_the_decoder_equals_torch_for_any_number_of_objects_and_tokens(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    segmenter = segmenter_of(request, name)
    session = OnnxSession(decoder_of(request, name, "fp32", tmp_path), CPU)
    most = graphs.sample_inputs(segmenter, "decoder", instances=16, tokens=4, seed=16)
    seen = set()
    for instances, tokens in ((1, 1), (1, 3), (3, 2), (16, 4)):
        inputs = graphs.first_of(most, "decoder", instances, tokens)
        *levels, prompts, previous, given = inputs
        features = ImageFeatures(levels[0], tuple(levels[1:]))
        with torch.inference_mode():
            plain, plain_iou = segmenter.decode(features, prompts[None])
            masked, masked_iou = segmenter.decode(features, prompts[None], previous[None])
        expected = torch.where(given[:, None, None] > 0, masked[0], plain[0])
        expected_iou = torch.where(given > 0, masked_iou[0], plain_iou[0])
        logits, iou = session(*inputs)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(iou, expected_iou.clamp(0, 1), atol=1e-5, rtol=0)
        assert expected.std() > 0.05  # otherwise the tolerance would accept anything
        seen.add(tuple(logits.shape))
    assert len(seen) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "sam"])
def test_the_encoder_equals_torch(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    segmenter = segmenter_of(request, name)
    session = OnnxSession(exported(segmenter, "encoder", "fp32", tmp_path), CPU)
    (pixels,) = graphs.sample_inputs(segmenter, "encoder", seed=5)
    with torch.inference_mode():
        features = segmenter.encode(pixels)
    for ours, theirs in zip((features.embedding, *features.high_resolution), session(pixels), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", LONG_SAM2_DECODER, LONG_SAM])
def test_half_precision_keeps_the_masks(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    segmenter = segmenter_of(request, name)
    path = decoder_of(request, name, "fp16", tmp_path)
    session = OnnxSession(path, CPU)
    weights = onnx.load(str(path)).graph.initializer
    sizes = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for tensor in weights:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    assert sizes[onnx.TensorProto.FLOAT16] > 100 * max(1, sizes[onnx.TensorProto.FLOAT])
    inputs = graphs.sample_inputs(segmenter, "decoder", instances=8, tokens=2, seed=3)
    *levels, prompts, previous, given = inputs
    given = torch.zeros_like(given)
    with torch.inference_mode():
        expected, _ = segmenter.decode(ImageFeatures(levels[0], tuple(levels[1:])), prompts[None])
    logits, _ = session(*levels, prompts, previous, given)
    assert ((logits > 0) == (expected[0] > 0)).float().mean() >= 0.999
    assert 0.01 < (logits > 0).float().mean() < 0.99


def test_bfloat16_is_in_the_graph_but_for_transposed_convolutions(nano, tmp_path: Path) -> None:
    config, segmenter, digest = nano
    export(segmenter, describe(segmenter, config, "decoder", "bf16", digest), tmp_path / "d.onnx")
    model = onnx.load(str(tmp_path / "d.onnx"))
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    kinds = {"Conv": set(), "ConvTranspose": set()}
    for node in model.graph.node:
        if node.op_type in kinds:
            kinds[node.op_type] |= {types[name] for name in node.output if name in types}
    assert kinds == {"Conv": {onnx.TensorProto.BFLOAT16}, "ConvTranspose": {onnx.TensorProto.FLOAT}}


def test_the_file_says_what_it_is(nano_cache, nano) -> None:
    config, segmenter, digest = nano
    for entry in nano_cache.entries("lens-nano"):
        if entry.manifest.key.backend == "onnxruntime":
            key = entry.manifest.key
            assert read_info(entry.file) == describe(segmenter, config, key.part, key.precision, digest)
            model = onnx.load(str(entry.file))
            assert {i.name for i in model.graph.input} == set(graphs.input_names(segmenter, key.part))
            assert [o.name for o in model.graph.output] == graphs.output_names(segmenter, key.part)


def test_a_file_that_does_not_say_what_it_is_is_refused(nano_cache, tmp_path: Path) -> None:
    entry = next(e for e in nano_cache.entries() if e.manifest.key.backend == "onnxruntime")
    whole = onnx.load(str(entry.file))
    stored = {p.key: p.value for p in whole.metadata_props}["lens_ros"]

    def refusal(metadata: str | None) -> str:
        del whole.metadata_props[:]
        if metadata is not None:
            onnx.helper.set_model_props(whole, {"lens_ros": metadata})
        onnx.save(whole, str(tmp_path / "other.onnx"))
        with pytest.raises(EngineError) as caught:
            read_info(tmp_path / "other.onnx")
        return str(caught.value)

    assert "does not say which model" in refusal(None) and "build-engine" in refusal(None)
    assert "format 99" in refusal(stored.replace('"format": 1', '"format": 99'))
    assert "unexpected" in refusal('{"format": 1, "colour": 3}')


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(nano_cache, tmp_path: Path, share: float) -> None:
    entry = next(e for e in nano_cache.entries() if e.manifest.key.backend == "onnxruntime")
    data = entry.file.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(share * len(data))])
    with pytest.raises(EngineError, match="damaged or not an ONNX file|does not say which model"):
        read_info(tmp_path / "cut.onnx")


def test_a_graph_that_differs_from_torch_is_not_kept(nano, tmp_path: Path, monkeypatch) -> None:
    config, segmenter, digest = nano
    info = describe(segmenter, config, "encoder", "fp32", digest)
    calls = 0
    original = graphs.graph

    def disturbed(*arguments):
        nonlocal calls
        calls += 1
        made = original(*arguments)
        if calls == 1:  # what is exported, not what it is held against
            with torch.no_grad():
                next(made.parameters()).mul_(1.05)
        return made

    monkeypatch.setattr(graphs, "graph", disturbed)
    with pytest.raises(EngineError, match="differs from torch"):
        export(segmenter, info, tmp_path / "e.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_named(nano, tmp_path: Path) -> None:
    config, segmenter, digest = nano
    (tmp_path / "file").write_text("in the way")
    info = dataclasses.replace(describe(segmenter, config, "encoder", "fp32", digest))
    with pytest.raises(EngineError, match="cannot be written"):
        export(segmenter, info, tmp_path / "file" / "e.onnx")


@pytest.mark.long
def test_the_encoder_of_sam2_large(tmp_path: Path) -> None:
    """This takes two minutes and 5 GB: export, comparison of ONNX Runtime with torch, and a real engine."""
    from benchmarks.first_mask import scaled
    from lens_ros.engine.tensorrt_api import compile_onnx, import_tensorrt
    from lens_ros.model.network import build_segmenter

    torch.manual_seed(0)
    segmenter = build_segmenter(scaled(1, "large")).eval()
    size = sum(p.numel() for p in segmenter.sam.vision_encoder.parameters())
    assert size / 1e6 == pytest.approx(212.7, abs=1)
    session = OnnxSession(exported(segmenter, "encoder", "fp32", tmp_path), CPU)
    (pixels,) = graphs.sample_inputs(segmenter, "encoder", seed=5)
    with torch.inference_mode():
        features = segmenter.encode(pixels)
    for ours, theirs in zip((features.embedding, *features.high_resolution), session(pixels), strict=True):
        assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()
    plan, specs = compile_onnx(
        import_tensorrt("tensorrt_rtx"), tmp_path / "graph.onnx", {}, capabilities=("SM89",)
    )
    assert len(plan) > 400e6
    levels = [(1, 256, 64, 64), (1, 32, 256, 256), (1, 64, 128, 128)]
    assert [s.shape for s in specs] == [(1, 3, 1024, 1024), *levels]
