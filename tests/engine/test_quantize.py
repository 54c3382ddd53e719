"""Quantised weights: which weights change, exact reloading, refusals."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lens_ros.choices import SCHEMES
from lens_ros.cli import main
from lens_ros.deployment.comparison_set import (
    CalibrationError,
    CalibrationQuestion,
    demo_questions,
    read_questions,
)
from lens_ros.deployment.quantize import QuantizationRefused, agreement_of, quantize_model, quantized_weight
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import WEIGHTS, find_model, load_model, save_model
from lens_ros.model.errors import CheckpointError
from lens_ros.model.kv_cache import Reading
from lens_ros.model.quantized import (
    GROUP,
    _int4_tensor,
    _tinygemm_tensor,
    fingerprint,
    linear_weights,
    pack,
    put_linears,
    quantized_file,
    read_quantized,
    tinygemm_scales,
    unpack,
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")

NANO = find_model("lens-nano")
FIRST = "reasoner.model.language_model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return lens-nano with both kinds of quantised weights, not compared; tests must not change it."""
    folder = tmp_path_factory.mktemp("nano")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS):
        shutil.copy(NANO / name, folder)
    for scheme in SCHEMES:
        quantize_model(folder, scheme)
    return folder


@pytest.fixture
def folder(quantized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quantized, tmp_path / "copy"))


@pytest.fixture(scope="module")
def asked() -> CalibrationQuestion:
    return demo_questions()[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_the_language_models_linear_layers_are_touched(quantized: Path, scheme: str) -> None:
    full, stored = load_file(quantized / WEIGHTS), load_file(quantized_file(quantized, scheme))
    model, _ = load_model(quantized, quantization=scheme)
    names = linear_weights(model)
    assert len(names) == 4 * 7  # q, k, v, o, gate, up, down in each layer
    assert {n.rsplit(".", 1)[0] for n in stored if n not in full} == set(names)
    assert set(full) - set(stored) == set(names)
    for name in set(full) & set(stored):
        assert torch.equal(full[name], stored[name]) and full[name].dtype == stored[name].dtype, name
    kinds = {n: type(p.data).__name__ for n, p in model.named_parameters()}
    special = {"int8": "Int8Tensor", "int4": "IntxUnpackedToInt8Tensor"}[scheme]
    assert {n for n, kind in kinds.items() if kind == special} == set(names)
    assert {kind for n, kind in kinds.items() if n not in names} == {"Tensor"}
    assert model.reasoner.lm_head.weight.data_ptr() == model.language_model.embed_tokens.weight.data_ptr()
    # The numbers are near: half a step of 255 or 15 between the extremes of a row or group.
    weight = full[FIRST].float()
    error = (model.get_parameter(FIRST).dequantize() - weight).norm() / weight.norm()
    assert error < {"int8": 0.01, "int4": 0.12}[scheme]


@pytest.mark.parametrize(("scheme", "share"), [("int8", 0.52), ("int4", 0.29)])
def test_layers_take_half_or_a_quarter_of_their_size(quantized: Path, scheme: str, share: float) -> None:
    full, stored = load_file(quantized / WEIGHTS), load_file(quantized_file(quantized, scheme))
    before = sum(t.nbytes for n, t in full.items() if n not in stored)
    assert sum(t.nbytes for n, t in stored.items() if n not in full) < share * before


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reloading_is_exact(
    quantized: Path, asked: CalibrationQuestion, scheme: str, dtype: torch.dtype
) -> None:
    """The reloaded weights equal torchao's own tensors of the same weights, which were never in a file."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup, quantize_
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm as Algorithm

    if scheme == "int8":
        config = Int8WeightOnlyConfig(set_inductor_config=False)
    else:
        config = IntxWeightOnlyConfig(
            weight_dtype=torch.int4, granularity=PerGroup(GROUP), scale_dtype=torch.bfloat16,
            intx_choose_qparams_algorithm=Algorithm.HQQ_SCALE_ONLY,
        )  # fmt: skip
    model, tokenizer = load_model(quantized)
    kept = {}
    for name in linear_weights(model):
        linear = model.get_submodule(name.rsplit(".", 1)[0])
        quantize_(linear, config)
        kept[name] = linear.weight
    fresh, _ = load_model(quantized, dtype=dtype)
    for name, weight in kept.items():
        if scheme == "int8":
            weight = type(weight)(weight.qdata, weight.scale, weight.block_size, dtype, weight.zero_point)
        put_linears(fresh, {name: weight.data.to(dtype=dtype) if scheme == "int4" else weight})
    expected = Lens(fresh, tokenizer).segment(asked.rgb, asked.text)
    found = Lens.from_pretrained(quantized, dtype=dtype, quantization=scheme).segment(asked.rgb, asked.text)
    assert found.answer == expected.answer
    assert np.array_equal(found.mask, expected.mask)
    assert [i.score for i in found.instances] == [i.score for i in expected.instances]
    assert found.instances and found.mask.any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_file_is_enough_by_itself(folder: Path, scheme: str) -> None:
    (folder / WEIGHTS).unlink()
    load_model(folder, quantization=scheme)
    with pytest.raises(CheckpointError, match="model.safetensors is missing"):
        load_model(folder)


def test_another_folder_gets_what_it_needs(quantized: Path, tmp_path: Path) -> None:
    report = quantize_model(quantized, "int8", out=tmp_path / "out")
    assert report.file.parent == tmp_path / "out"
    assert report.file.read_bytes() == quantized_file(quantized, "int8").read_bytes()
    load_model(tmp_path / "out", quantization="int8")


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata=metadata)


def rewrite(path: Path, metadata: dict[str, str] | None) -> None:
    save_file(load_file(path), path, metadata=metadata)


def shorten(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def edit8(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    return lambda folder: change(quantized_file(folder, "int8"), edit)


def retrain(folder: Path) -> None:
    """Change one weight a little, as a small training step does."""
    change(folder / WEIGHTS, lambda tensors: tensors[FIRST].mul_(1.001))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: quantized_file(f, "int8").unlink(), "has no int8 weights yet.*lens quantize"),
        (lambda f: shorten(quantized_file(f, "int8"), 0.5), "damaged.*lens quantize"),
        (lambda f: shorten(quantized_file(f, "int8"), 0), "damaged"),
        (lambda f: rewrite(quantized_file(f, "int8"), None), "does not say how it was made"),
        (lambda f: rewrite(quantized_file(f, "int8"), {"format": "x"}), "does not say how it was made"),
        (lambda f: shutil.copy(f / WEIGHTS, quantized_file(f, "int8")), "does not say how it was made"),
        (lambda f: shutil.copy(quantized_file(f, "int4"), quantized_file(f, "int8")), "holds int4 weights"),
        (retrain, "is stale: model.safetensors beside it has changed"),
        (lambda f: shorten(f / WEIGHTS, 0.00001), "model.safetensors is damaged"),
        (
            lambda f: change(quantized_file(f, "int8"), lambda t: t.pop(f"{FIRST}.scale")),
            "q_proj.weight: missing",
        ),
        (
            lambda f: change(quantized_file(f, "int8"), lambda t: t[f"{FIRST}.scale"].fill_(float("nan"))),
            "its scale is not finite",
        ),
        (
            lambda f: change(
                quantized_file(f, "int8"), lambda t: t.update({f"{FIRST}.values": torch.zeros(3)})
            ),
            r"\(\(3,\), torch.float32\).* instead of \(\(192, 192\), torch.int8\)",
        ),
        (
            lambda f: change(quantized_file(f, "int8"), lambda t: t.pop("context.learnable_query")),
            "1 missing",
        ),
        (
            lambda f: change(quantized_file(f, "int8"), lambda t: t.update(x=torch.zeros(1))),
            "1 unexpected: x",
        ),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=told):
        load_model(folder, quantization="int8")


def test_the_fingerprint_sees_another_dtype_and_any_tensor(quantized: Path, tmp_path: Path) -> None:
    known = {fingerprint(quantized / WEIGHTS)}
    copy = tmp_path / WEIGHTS
    shutil.copy(quantized / WEIGHTS, copy)
    assert fingerprint(copy) in known
    for name, tensor in load_file(quantized / WEIGHTS).items():
        if tensor.nbytes < 4096:  # these are read whole
            tensors = load_file(quantized / WEIGHTS)
            tensors[name].view(-1)[-1] += 1
            save_file(tensors, copy)
            assert fingerprint(copy) not in known, name
            break
    save_model(*load_model(quantized), tmp_path / "other", dtype=torch.bfloat16)
    assert fingerprint(tmp_path / "other" / WEIGHTS) not in known


def test_without_torchao_it_is_said_what_to_install(quantized: Path) -> None:
    """The test runs in a process where torchao cannot be found; the full weights load without it."""
    script = f"""
import importlib.util, pathlib, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.startswith("torchao") else find(name, *rest)
sys.modules["torchao"] = None
from lens_ros.model.checkpoint import load_model
load_model(pathlib.Path({str(quantized)!r}))
try:
    load_model(pathlib.Path({str(quantized)!r}), quantization="int8")
except Exception as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "CheckpointError quantized weights" in result.stdout.replace("quantised", "quantized"), result
    assert "pip install torchao==" in result.stdout


def test_torchao_is_not_heard(quantized: Path) -> None:
    """Its wheel contains kernels for other machines and would warn about them before every answer."""
    script = (
        f"import pathlib, lens_ros.model.checkpoint as c; c.load_model(pathlib.Path({str(quantized)!r}), "
    )
    script += "quantization='int8')"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


def test_an_interrupted_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("lens_ros.deployment.quantize.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        quantize_model(folder, "int8")
    load_model(folder, quantization="int8")
    assert not list(folder.glob("*.partial"))


def spoil(name: str, weight: torch.Tensor, scheme: str) -> dict[str, torch.Tensor]:
    """Quantize as a bad scheme would, losing every other weight."""
    return quantized_weight(name, weight * (torch.arange(weight.shape[1]) % 2), scheme)  # type: ignore[arg-type]


def test_the_gate_keeps_a_bad_model_out_and_says_by_how_much(
    folder: Path, asked: CalibrationQuestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized_file(folder, "int4").unlink()
    questions = [asked, demo_questions()[20]]
    told = r"mean IoU of 0\.\d+ .* on 2 calibration .*0\.9 asked for"
    with monkeypatch.context() as patched:
        patched.setattr("lens_ros.deployment.quantize.quantized_weight", spoil)
        with pytest.raises(QuantizationRefused, match=told):
            quantize_model(folder, "int4", questions=questions, min_iou=0.9)
    assert not quantized_file(folder, "int4").exists()
    report = quantize_model(folder, "int4", questions=questions, min_iou=0.9)  # the same, done well
    assert report.agreement is not None and 0.9 <= report.agreement.mean_iou < 1
    _, provenance = read_quantized(folder, "int4", folder / WEIGHTS)
    assert provenance.calibration is not None
    assert provenance.calibration["mean_iou"] == report.agreement.mean_iou
    with pytest.raises(ValueError, match="calibration set"):
        quantize_model(folder, "int4", min_iou=0.9)


def test_agreement_counts_masks_and_words(quantized: Path, asked: CalibrationQuestion) -> None:
    lens = Lens.from_pretrained(quantized)
    one, nothing = lens.segment(asked.rgb, asked.text), lens.segment(np.zeros_like(asked.rgb), "the laptop")
    assert one.mask.any() and not nothing.mask.any()
    found = agreement_of([one, one, nothing], [one, nothing, nothing])
    assert (found.questions, found.worst_iou, found.both_nothing) == (3, 0.0, pytest.approx(1 / 3))
    assert found.mean_iou == found.same_answer == pytest.approx(2 / 3)


def test_int4_that_does_not_divide_is_refused() -> None:
    with pytest.raises(CheckpointError, match="x.weight has 40 columns; int4 needs a multiple of 32"):
        quantized_weight("x.weight", torch.randn(8, 40), "int4")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_packing_is_lossless(rows: int, half: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 8, (rows, 2 * half), generator=generator, dtype=torch.int8)
    assert pack(values).shape == (rows, half)
    assert torch.equal(unpack(pack(values)), values)


def test_tinygemm_is_given_the_same_numbers() -> None:
    """Its CPU counterpart uses other tiles but the same scales; the GPU's own kernel needs a GPU."""
    generator = torch.Generator().manual_seed(0)
    parts = quantized_weight("w", torch.randn(64, 128, generator=generator), "int4")
    values, scale = unpack(parts["w.values"]), parts["w.scale"]
    activations = torch.randn(5, 128, generator=generator).bfloat16()
    tiles = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int() + 8, 1)
    found = torch.ops.aten._weight_int4pack_mm_for_cpu(activations, tiles, GROUP, tinygemm_scales(scale))
    weight = values.float().view(64, -1, GROUP) * scale.float()[..., None]
    expected = activations.float() @ weight.view(64, 128).T
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.02)


def test_tinygemm_is_given_its_own_layout() -> None:
    """Only shapes and dtypes are checked, on fake tensors, as the operators for a GPU accept them."""
    parts = quantized_weight("w", torch.randn(12, 192), "int4")
    with FakeTensorMode(allow_non_fake_inputs=True):
        values = torch.empty_like(parts["w.values"])
        scale = torch.empty_like(parts["w.scale"])
        weight = _tinygemm_tensor(_int4_tensor(values, scale, torch.bfloat16))
        assert weight.shape == (12, 192)
        assert weight.qdata.shape == (2, 8, 32, 4)  # 16 rows and 1024 columns, padded
        activations = torch.empty(3, 5, 192, dtype=torch.bfloat16)
        assert nn.functional.linear(activations, weight).shape == (3, 5, 12)


def test_reading_on_works_as_before(quantized: Path) -> None:
    """Covers forking, the pass without the last feed-forward, and that no weight requires gradients."""
    model, _ = load_model(quantized, quantization="int8")
    assert not any(model.get_parameter(name).requires_grad for name in linear_weights(model))
    embedded = torch.randn(1, 9, model.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        at_once = Reading(model.language_model, 1).read(embedded)[:, -1]
        parts = Reading(model.language_model, 1)
        parts.absorb(embedded[:, :6])
        later = parts.fork(2).read(embedded[:, 6:].expand(2, -1, -1))[:, -1]
    torch.testing.assert_close(later, at_once.expand(2, -1), atol=1e-4, rtol=1e-4)


# --- calibration sets and the command ---------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path, asked: CalibrationQuestion) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "table.png"), cv2.cvtColor(asked.rgb, cv2.COLOR_RGB2BGR))
    lines = [json.dumps({"image": "table.png", "text": text}) for text in (asked.text, "the banana")]
    (folder / "instructions.jsonl").write_text("\n".join([lines[0], "", lines[1]]) + "\n")
    return folder


def test_a_folder_of_pictures_is_read(pictures: Path, asked: CalibrationQuestion) -> None:
    first, second = read_questions(pictures)
    assert np.array_equal(first.rgb, asked.rgb)
    assert (first.text, second.text) == (asked.text, "the banana")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("", "is empty"),
        ("the red mug", "line 1: JSONDecodeError.*Expected a line such as"),
        ('{"image": "table.png"}', "line 1: KeyError: 'text'"),
        ('["table.png", "the red mug"]', "line 1: TypeError"),
        ('{"image": "table.png", "text": " "}', "the instruction is empty"),
        ('{"image": "table.png", "text": "a"}\n{"image": "no.png", "text": "a"}', "line 2: .*no such file"),
    ],
)
def test_a_bad_folder_is_named(pictures: Path, content: str | None, told: str) -> None:
    path = pictures / "instructions.jsonl"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CalibrationError, match=told):
        read_questions(pictures)


def test_the_command_writes_reports_and_is_used(
    folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = tmp_path / "numbers.json"
    told = [
        "quantize",
        str(folder),
        "--scheme",
        "int4",
        "--calibration",
        str(pictures),
        "--json",
        str(numbers),
    ]
    assert main(told) == 0
    captured = capsys.readouterr()
    assert "on 2 questions: mean IoU" in captured.out and "quantizing to int4" in captured.err
    report = json.loads(numbers.read_text())
    assert report["agreement"]["questions"] == 2 and report["layer_bytes"] < 0.3 * report["full_layer_bytes"]
    out = ["--quantization", "int4", "--out", str(tmp_path / "out")]
    assert main(["segment", str(pictures / "table.png"), "the banana", "--model", str(folder), *out]) == 0
    assert main([*told, "--min-iou", "1"]) in (0, 1)  # 1 where any pixel differs
    assert main([*told, "--min-iou", "1.5"]) == 2
    assert main(["quantize", str(folder), "--calibration", str(tmp_path / "no")]) == 2
    assert main(["quantize", str(tmp_path / "no")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_int4_needs_a_calibration_set_and_int8_does_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"wording": "paper"}))
    assert main(["quantize", str(folder), "--scheme", "int4"]) == 2
    assert "--calibration DIR" in capsys.readouterr().err
    assert main(["quantize", str(folder)]) == 0
    assert "not compared" in capsys.readouterr().out


def test_the_demo_is_a_calibration_set() -> None:
    questions = demo_questions()
    texts = [q.text for q in questions]
    assert len(texts) == 2 * len(set(texts)) == 2 * (9 + 7 + 9 + 9 + 2 + 9)
    assert "the thing between the pink sponge and the blue mug" in texts
    assert all(q.rgb.shape == (480, 640, 3) for q in questions)
