"""Failing builds with the real compiler: killed, out of memory, refused; and the precision ladder."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lens_ros.engine import build as module
from lens_ros.engine import compiler
from lens_ros.engine.build import build
from lens_ros.engine.cache import EngineCache
from lens_ros.engine.errors import EngineError
from lens_ros.engine.selfcheck import check
from lens_ros.engine.sessions import OnnxSession
from lens_ros.model.checkpoint import find_model
from tests.engine.conftest import Recorder, makers

NANO = find_model("lens-nano")


def test_what_is_there_is_not_made_again(own_cache: EngineCache) -> None:
    before = {e.folder: e.manifest.created for e in own_cache.entries()}
    progress = Recorder()
    assert all(one.reused for one in build(NANO, "onnxruntime", own_cache, progress))
    assert all("up to date" in said or "mask IoU" in said for said in progress.said)
    assert {e.folder: e.manifest.created for e in own_cache.entries()} == before


def test_a_damaged_engine_is_named_and_made_anew(own_cache: EngineCache) -> None:
    entry = next(e for e in own_cache.entries() if e.manifest.key.part == "encoder")
    entry.file.write_bytes(entry.file.read_bytes()[:1000])
    progress = Recorder()
    (built,) = build(NANO, "onnxruntime", own_cache, progress, parts=["encoder"])
    assert not built.reused and own_cache.find(built.entry.manifest.key).file == entry.file
    assert any("half written" in said for said in progress.said)


def test_other_weights_make_engines_stale(own_cache: EngineCache, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    changed = tmp_path / "lens-nano"
    shutil.copytree(NANO, changed)
    tensors = load_file(changed / "model.safetensors")
    tensors["segmenter.sam.mask_decoder.iou_token.weight"] += 0.01
    save_file(tensors, changed / "model.safetensors")
    progress = Recorder()
    (built,) = build(changed, "onnxruntime", own_cache, progress, parts=["encoder"])
    assert not built.reused and any("stale (weights:" in said for said in progress.said)
    # Both lie side by side; the language model's weights would not matter.
    assert len([e for e in own_cache.entries() if e.manifest.key.part == "encoder"]) >= 2


def test_a_compiler_killed_midway_leaves_nothing_and_is_explained(own_cache: EngineCache) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = {e.folder.name for e in own_cache.entries()}

    class Killer(Recorder):
        def step(self, phase: str, done: int, of: int) -> None:
            super().step(phase, done, of)
            if len(self.steps) == 20:
                children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
                for child in children:
                    command = Path(f"/proc/{child}/cmdline").read_bytes()
                    if b"lens_ros.engine.compiler_process" in command:
                        os.kill(int(child), signal.SIGKILL)

    killer = Killer()
    with pytest.raises(EngineError, match="killed.*out of memory.*GB.*swap.*build again") as caught:
        build(NANO, "tensorrt_rtx", own_cache, killer, parts=["decoder"], precision="fp32", force=True)
    assert len(killer.steps) >= 20 and "nothing was damaged" in str(caught.value)
    rtx = [e for e in own_cache.entries() if e.manifest.key.precision == "fp32" and "rtx" in e.folder.name]
    assert rtx == [] and before <= {e.folder.name for e in own_cache.entries()}
    assert list(own_cache.root.glob("*/.making-*")) == []
    built = build(NANO, "tensorrt_rtx", own_cache, Recorder(), parts=["decoder"], precision="fp32")
    assert own_cache.find(built[0].entry.manifest.key).manifest.size > 1_000_000


def test_a_build_whose_parent_is_killed_leaves_nothing_that_could_be_opened(own_cache: EngineCache) -> None:
    pytest.importorskip("tensorrt_rtx")
    command = [sys.executable, "-m", "lens_ros.cli", "build-engine", "--backend", "tensorrt_rtx"]
    command += ["--part", "decoder", "--precision", "fp32", "--out", str(own_cache.root)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not (making := list(own_cache.root.glob("*/.making-*/engine/*.json"))):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert making[0].parent.parent.exists()
    assert [e for e in own_cache.entries() if e.fault] == []
    deadline = time.monotonic() + 30
    while makers(own_cache, "lens_ros.engine.compiler_process"):  # the compiler dies with who asked for it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [reason for _, reason in own_cache.prune(lambda key: "")] == ["left by a build that was killed"]


def test_too_little_memory_is_told_before_the_compiler_starts(
    own_cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(compiler, "available_memory", lambda: (100_000_000, 0))
    with pytest.raises(EngineError, match=r"takes about 0\.4 GB of memory; 0\.1 GB and 0\.0 GB of swap"):
        build(NANO, "tensorrt_rtx", own_cache, Recorder(), parts=["decoder"], precision="fp32", force=True)


def test_the_ladder_is_climbed_down_when_masks_change(
    own_cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-precision export produces wrong masks, as reported for image encoders of this family."""
    monkeypatch.setitem(module.LADDER, "onnxruntime", ("fp16", "fp32"))
    monkeypatch.setattr("lens_ros.engine.export._TOLERANCE", {"fp32": 1e-4, "fp16": 1e9})
    original = module.export

    def overflowing(segmenter, info, path, **options):
        if info.precision == "fp16":
            segmenter = copy.deepcopy(segmenter)
            with torch.no_grad():
                segmenter.sam.vision_encoder.stage16[0][0].weight.mul_(1e4)
                segmenter.sam.vision_encoder.lateral[2].weight.mul_(1e4)
        return original(segmenter, info, path, **options)

    monkeypatch.setattr(module, "export", overflowing)
    progress = Recorder()
    (built,) = build(NANO, "onnxruntime", own_cache, progress, parts=["encoder"], force=True)
    assert built.precision == "fp32" and built.entry.manifest.check >= 0.98
    assert any("fp16 does not do what torch does" in said for said in progress.said)
    # What failed stays known, so that nobody makes it again or opens it.
    again = Recorder()
    (built,) = build(NANO, "onnxruntime", own_cache, again, parts=["encoder"])
    assert built.precision == "fp32" and built.reused
    with pytest.raises(EngineError, match="no precision of the encoder passes the self-check"):
        build(NANO, "onnxruntime", own_cache, Recorder(), parts=["encoder"], precision="fp16")


def test_the_self_check_sees_a_session_that_is_wrong(own_cache: EngineCache, nano) -> None:
    config, segmenter, _ = nano
    entry = next(
        e
        for e in own_cache.entries()
        if (e.manifest.key.part, e.manifest.key.precision) == ("decoder", "fp32")
    )

    class Shifted(OnnxSession):
        def __call__(self, *inputs):
            logits, iou = super().__call__(*inputs)
            return logits.roll(self.shift, dims=-1) + self.more, iou

    session = Shifted(entry.file, torch.device("cpu"))
    session.shift, session.more = 0, 0.0
    assert check(segmenter, config.image, decoder=session).passed
    session.shift = 2
    assert not check(segmenter, config.image, decoder=session).passed
    session.shift, session.more = 0, float("nan")
    broken = check(segmenter, config.image, decoder=session)
    assert broken.iou == 0 and "not finite" in broken.note


def test_full_tensorrt_needs_its_gpu_or_says_what_is_missing(own_cache: EngineCache) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="does not import|torch sees none here"):
        build(NANO, "tensorrt", own_cache, Recorder())


def test_the_command_makes_lists_and_prunes(own_cache: EngineCache, tmp_path: Path, capsys) -> None:
    from lens_ros.cli import main

    out = ["--out", str(own_cache.root), "--json", str(tmp_path / "j.json")]
    assert main(["build-engine", *out]) == 0
    made = json.loads((tmp_path / "j.json").read_text())
    assert [one["part"] for one in made["engines"]] == ["encoder", "decoder"]
    assert all(Path(one["file"]).is_file() and one["reused"] for one in made["engines"])
    next(own_cache.root.glob("*/encoder-fp32-onnx*/graph.onnx")).unlink()
    capsys.readouterr()
    assert main(["build-engine", "--list", *out]) == 0
    listed = capsys.readouterr().out
    assert "graph.onnx is missing" in listed and "ready, mask IoU 1.0000" in listed
    assert main(["build-engine", "--prune", *out]) == 0
    assert len(json.loads((tmp_path / "j.json").read_text())["removed"]) == 1
    assert main(["build-engine", "nowhere", *out]) == 2
    assert "no model 'nowhere'" in capsys.readouterr().err
