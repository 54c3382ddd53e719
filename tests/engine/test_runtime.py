"""Choice of the backend, its reason, and agreement of its masks with torch's."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_ros.deployment.quantize import quantize_model
from lens_ros.engine.backends import open_engines, shortfall_of
from lens_ros.engine.build import build
from lens_ros.engine.cache import EngineCache
from lens_ros.engine.compiled_segmenter import CompiledSegmenter
from lens_ros.engine.errors import EngineError
from lens_ros.engine.sessions import OnnxSession
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import find_model, load_model, save_model
from lens_ros.model.errors import CheckpointError
from tests.engine.conftest import Recorder

NANO = find_model("lens-nano")
QUESTIONS = ["the blue mug", "all the mugs", "the bowl left of the blue mug", "the red laptop"]


def engines(cache: EngineCache, **options):
    config = load_model(NANO)[0].config
    return open_engines(NANO, config, cache=cache, **options)


def test_masks_through_onnx_runtime_are_those_of_torch(
    nano_cache: EngineCache, demo_image: np.ndarray
) -> None:
    plain = Lens.from_pretrained("lens-nano", backend="torch")
    compiled = Lens.from_pretrained("lens-nano", backend="onnxruntime", engine_cache=nano_cache.root)
    assert isinstance(compiled.model.segmenter, CompiledSegmenter)
    assert compiled.engines.encoder.label == compiled.engines.decoder.label == "onnxruntime fp32"
    expected, found = (lens.segment_all(demo_image, QUESTIONS) for lens in (plain, compiled))
    for ours, theirs in zip(expected, found, strict=True):
        assert ours.answer == theirs.answer
        assert (ours.mask == theirs.mask).mean() > 0.9999
        assert [i.rejected for i in ours.instances] == [i.rejected for i in theirs.instances]
    assert any(answer.mask.any() for answer in expected)


def test_the_torch_weights_that_are_replaced_are_let_go(nano_cache: EngineCache) -> None:
    def size(lens: Lens) -> int:
        return sum(p.numel() for p in lens.model.segmenter.parameters())

    plain = Lens.from_pretrained("lens-nano", backend="torch")
    compiled = Lens.from_pretrained("lens-nano", backend="onnxruntime", engine_cache=nano_cache.root)
    assert size(compiled) < 0.02 * size(plain)


def test_batches_many_prompts_and_mask_prompts(nano_cache: EngineCache, nano) -> None:
    segmenter = nano[1]
    found = engines(nano_cache)
    compiled = CompiledSegmenter(segmenter, encoder=found.encoder.session, decoder=found.decoder.session)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 256, 256, generator=generator)
    corners = 256 * torch.rand(2, 19, 2, 2, generator=generator).sort(dim=2).values
    previous = 4 * torch.randn(2, 19, 64, 64, generator=generator)
    with torch.inference_mode():
        prompts = segmenter.box_prompts(corners.flatten(2))
        features, theirs = segmenter.encode(pixels), compiled.encode(pixels)
        torch.testing.assert_close(theirs.embedding, features.embedding, atol=1e-4, rtol=1e-4)
        for masks in (None, previous):
            for one, other in zip(
                segmenter.decode(features, prompts, masks),
                compiled.decode(theirs, prompts, masks),
                strict=True,
            ):
                assert one.shape == other.shape and one.shape[:2] == (2, 19)
                torch.testing.assert_close(other, one, atol=2e-4, rtol=1e-4)


def test_one_compiled_half_serves_beside_torch(
    nano_cache: EngineCache, demo_image: np.ndarray, tmp_path
) -> None:
    shutil.copytree(nano_cache.root, tmp_path / "half")
    for folder in (tmp_path / "half").glob("*/encoder-*"):
        shutil.rmtree(folder)
    lens = Lens.from_pretrained("lens-nano", engine_cache=tmp_path / "half")
    assert lens.engines.encoder.label == "torch" and lens.engines.decoder.label == "onnxruntime fp32"
    assert "no onnxruntime engine for the encoder" in lens.engines.encoder.reason
    plain = Lens.from_pretrained("lens-nano", backend="torch").segment(demo_image, "the blue mug")
    assert (lens.segment(demo_image, "the blue mug").mask == plain.mask).mean() > 0.9999


def test_auto_says_what_it_took_and_why(
    nano_cache: EngineCache, caplog: pytest.LogCaptureFixture, tmp_path
) -> None:
    with caplog.at_level(logging.INFO, "lens_ros.engine"):
        found = engines(nano_cache)
        empty = engines(EngineCache(tmp_path))
    assert str(found).startswith("encoder onnxruntime fp32: ready, mask IoU 1.0000")
    assert str(empty).startswith("torch: no engines of 'lens-nano' in ") and "build-engine" in str(empty)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "segmenter of 'lens-nano': encoder onnxruntime fp32" in caplog.text


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx", "onnxruntime"])
def test_a_named_backend_that_cannot_serve_falls_back_aloud(
    backend, caplog: pytest.LogCaptureFixture, tmp_path: Path, demo_image: np.ndarray
) -> None:
    with caplog.at_level(logging.INFO, "lens_ros.engine"):
        lens = Lens.from_pretrained("lens-nano", backend=backend, engine_cache=tmp_path)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and lens.engines.encoder.label == "torch"
    why = "no onnxruntime engine" if backend == "onnxruntime" else f"{backend} needs a GPU, the device is cpu"
    assert why in record.getMessage()
    assert lens.segment(demo_image, "the blue mug").mask.any()


@pytest.mark.parametrize("fault", ["half written", "other bytes", "no manifest", "failed check"])
def test_an_unusable_engine_is_named_and_torch_serves(
    own_cache: EngineCache, fault: str, demo_image: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    entry = next(e for e in own_cache.entries() if e.folder.name.startswith("decoder-fp32-onnxruntime"))
    data = entry.file.read_bytes()
    if fault == "half written":
        entry.file.write_bytes(data[: len(data) // 2])
    elif fault == "other bytes":
        entry.file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "no manifest":
        (entry.folder / "manifest.json").unlink()
    else:
        manifest = entry.folder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"check": 1.0', '"check": 0.4'))
    lens = Lens.from_pretrained("lens-nano", engine_cache=own_cache.root)
    assert lens.engines.decoder.label == "torch" and lens.engines.encoder.label == "onnxruntime fp32"
    told = {
        "half written": "half written",
        "other bytes": "the file is damaged",
        "no manifest": "manifest.json is missing",
        "failed check": "does not do what torch does",
    }[fault]
    assert told in lens.engines.decoder.reason
    (record,) = [each for each in caplog.records if each.name == "lens_ros.engine"]
    said = shortfall_of(lens.engines, "auto")
    assert record.levelname == "WARNING" and said in record.getMessage()
    assert said.startswith("engines cannot serve (decoder onnxruntime fp32: ") and told in said
    assert said.endswith("; onnxruntime fp32 and torch serves")
    assert lens.segment(demo_image, "the blue mug").mask.any()


def test_an_unchecked_engine_is_checked_where_it_is_first_opened(own_cache: EngineCache) -> None:
    key = next(e.manifest.key for e in own_cache.entries() if e.folder.name.startswith("decoder-fp32-onnx"))
    manifest = own_cache.find(key).folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"check": 1.0', '"check": null'))
    assert own_cache.find(key).manifest.check is None
    assert engines(own_cache).decoder.label == "onnxruntime fp32"
    assert own_cache.find(key).manifest.check == 1.0


def test_a_model_may_bring_its_engines_along(tmp_path: Path, demo_image: np.ndarray) -> None:
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder)
    build(folder, "onnxruntime", EngineCache(folder / "engines"), Recorder(), parts=["decoder"])
    lens = Lens.from_pretrained(folder, engine_cache=tmp_path / "elsewhere")
    assert lens.engines.decoder.label == "onnxruntime fp32"


def test_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of auto, tensorrt"):
        engines(EngineCache(tmp_path), backend="openvino")
    with pytest.raises(ValueError, match="fp32, fp16, bf16"):
        engines(EngineCache(tmp_path), precision="fp8")


def test_a_session_refuses_what_does_not_fit(nano_cache: EngineCache) -> None:
    entry = next(e for e in nano_cache.entries() if e.manifest.key.part == "encoder")
    session = OnnxSession(entry.file, torch.device("cpu"))
    with pytest.raises(EngineError, match=r"pixels has the shape \(1, 3, 128, 128\), the engine takes"):
        session(torch.zeros(1, 3, 128, 128))
    with pytest.raises(EngineError, match="no CUDA"):
        OnnxSession(entry.file, torch.device("cuda"))


def test_a_folder_with_quantised_weights_alone_finds_its_engines(
    nano_cache: EngineCache, tmp_path: Path
) -> None:
    quantize_model(NANO, "int8", out=tmp_path / "small")
    assert not (tmp_path / "small" / "model.safetensors").exists()
    lens = Lens.from_pretrained(tmp_path / "small", quantization="int8", engine_cache=nano_cache.root)
    assert lens.engines.decoder.label == "onnxruntime fp32"


@pytest.mark.parametrize("what", ["compiled", "quantised"])
def test_a_model_without_its_full_weights_is_not_saved(
    nano_cache: EngineCache, tmp_path: Path, what: str
) -> None:
    if what == "compiled":
        lens = Lens.from_pretrained("lens-nano", engine_cache=nano_cache.root)
    else:
        quantize_model(NANO, "int8", out=tmp_path / "small")
        lens = Lens.from_pretrained(tmp_path / "small", quantization="int8", backend="torch")
    with pytest.raises(CheckpointError, match="does not hold its full weights"):
        save_model(lens.model, lens.tokenizer, tmp_path / "saved", dtype=torch.float16)
    assert not (tmp_path / "saved").exists()
