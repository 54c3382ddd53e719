"""benchmarks/gpu_check.py on a CPU: every part reports sensible numbers; a bad part affects only itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.initialization import no_init_weights

from benchmarks import gpu_check
from benchmarks.gpu.forecast import DATA_SHEETS, Ceilings, Work, count
from benchmarks.gpu.reasoner import language_bytes
from benchmarks.gpu.runner import Part
from benchmarks.gpu.sizes import model_config
from lens_ros.engine.cache import EngineCache
from lens_ros.model.network import LensModel

ROOT = Path(__file__).resolve().parents[1]
# The first forkserver of a process stays: the one whose imports serve all tests.
pytestmark = pytest.mark.usefixtures("template")
H200 = Ceilings(*DATA_SHEETS["H200"], source="data sheet")


@pytest.fixture(scope="module")
def parts(nano_cache: EngineCache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the parts of the program's tiny run, without ROS or a search path, by name."""
    out = tmp_path_factory.mktemp("gpu_check")
    engines = shutil.copytree(nano_cache.root, out / "engines")
    command = [sys.executable, "benchmarks/gpu_check.py", "--device", "cpu", "--tiny", "--out", str(out)]
    kept = ("PATH", "HOME", "LANG")
    run = subprocess.run(
        [*command, "--engines", str(engines)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: os.environ[name] for name in kept if name in os.environ},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    table = (out / "gpu_check.txt").read_text()
    assert table in run.stdout
    found = json.loads((out / "gpu_check.json").read_text())["parts"]
    for part in found:
        assert f"{part['part']} (at most" in run.stderr  # progress
        assert f"{part['part']}: reported" in table
    return {part["part"]: part for part in found}


def _numbers(part: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {number["what"]: number for number in part["numbers"]}


@pytest.mark.slow
def test_every_part_reports_numbers_with_forecasts(parts: dict[str, dict[str, Any]]) -> None:
    assert list(parts) == [part.name for part in gpu_check.parts_of("cpu", True, None)]
    for part in parts.values():
        assert part["status"] == "reported" and not part["error"] and part["numbers"]
        for number in part["numbers"]:
            assert number["value"] > 0 and number["forecast"] > 0 and number["why"], number


@pytest.mark.slow
def test_the_numbers_mean_something(parts: dict[str, dict[str, Any]]) -> None:
    engines = _numbers(parts["engines-lens-nano"])
    assert engines["onnxruntime fp32, mask IoU to torch"]["value"] > 0.999
    for name in ("torch", "onnxruntime"):
        encoder, frame = (engines[f"{name} fp32, {what}"] for what in ("encoder", "frame to mask"))
        assert 0.1 < encoder["value"] < 10 * frame["value"]
    for name in ("engines-lens-nano", "engines-sam2-large"):
        assert any("tensorrt: not possible here: its engines need a GPU" in n for n in parts[name]["notes"])
    for numbers in ("bf16", "int8"):
        decoding = _numbers(parts[f"decode-{numbers}"])
        for way in ("dynamic", "static"):
            assert decoding[f"{numbers} {way}"]["unit"] == "tokens/s"
            assert decoding[f"{numbers} {way}, same tokens"]["value"] > 0.7
    masks = _numbers(parts["first-mask"])
    assert masks["1 instructions, equal mask pixels"]["value"] > 0.98
    assert (
        masks["ours, 1 instructions, 4 tokens"]["forecast"]
        < masks["reference, 1 instructions, 4 tokens"]["forecast"]
    )
    stages = {name.split(", ")[1] for name in _numbers(parts["train-lens-nano"])}
    assert stages == {"supervise", "align", "reinforce"}
    for name in ("throughput", "throughput-cpu"):
        steps, examples, _ = parts[name]["numbers"]
        assert examples["value"] == pytest.approx(8 * steps["value"])  # two images, four expressions each


def test_the_limits_leave_room_in_ten_minutes() -> None:
    parts = gpu_check.parts_of("cuda", False, None)
    assert sum(part.limit_s for part in parts) <= 570
    assert [p.name for p in parts if p.device == "cpu"] == ["throughput-cpu"]


def test_forecasts_of_the_real_sizes_are_the_known_bounds() -> None:
    """A bf16 3B reads 6.17 GB for a token, and the encoder of SAM 2-L takes 1.825 TFLOP."""
    with no_init_weights(), torch.device("meta"):
        model = LensModel(model_config(tiny=False)).to(torch.bfloat16)
    read = language_bytes(model)
    assert read == pytest.approx(6.17e9, rel=0.01)
    assert H200.seconds(Work(read=read, kind="half")) == pytest.approx(1.4 * 1.3e-3, rel=0.02)
    assert "GB x 1.4" in H200.reason(Work(read=read, kind="half"))
    pixels = torch.zeros(1, 3, 1024, 1024, device="meta", dtype=torch.bfloat16)
    work = count(lambda: model.segmenter.encode(pixels), "half")
    assert work.flop == pytest.approx(1.825e12, rel=0.02)
    assert work.operations > 1000
    eager = Work(operations=2000, kind="half")
    assert H200.seconds(eager) == pytest.approx(0.01) and "operations" in H200.reason(eager)


def test_a_bad_part_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # to be restored afterwards
    bad = ("raises", "hangs", "dies", "exits", "is_wrong")
    made = []
    for name in bad:
        hangs = name == "hangs"
        arguments = {"folder": tmp_path} if hangs else {}
        made.append(Part(name, f"bad_parts:{name}", 5 if hangs else 60, "cpu", arguments))
        made.append(Part(f"after {name}", "bad_parts:healthy", 60, "cpu"))
    monkeypatch.setattr(gpu_check, "parts_of", lambda *_: made)
    monkeypatch.setattr(gpu_check, "_PRELOAD", ("benchmarks.gpu.runner",))
    assert gpu_check.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 1
    found = {p["part"]: p for p in json.loads((tmp_path / "gpu_check.json").read_text())["parts"]}
    for name in bad:
        after = found.pop(f"after {name}")
        assert after["status"] == "reported" and after["numbers"][0]["value"] == 42
    assert {name: part["status"] for name, part in found.items()} == {
        "raises": "failed", "hangs": "timed out", "dies": "killed", "exits": "killed", "is_wrong": "failed",
    }  # fmt: skip
    told = {name: part["error"] for name, part in found.items()}
    assert "MemoryError: CUDA out of memory" in told["raises"]
    assert "not finished after 5 s" in told["hangs"]
    assert "SIGKILL" in told["dies"] and "last words" in told["dies"]
    assert "status 3" in told["exits"]
    assert told["is_wrong"] == "the masks differ"
    assert all(len(part["numbers"]) == 1 for name, part in found.items() if name != "exits")
    assert all(_gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    shown = capfd.readouterr()
    assert "hangs: timed out" in shown.out and "after is_wrong: reported" in shown.out


def test_parts_end_with_a_killed_program(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path[:0] = [r'{root}', r'{tests}']\n"
        "from pathlib import Path\n"
        "from benchmarks.gpu.runner import Part, run_parts\n"
        "out = Path(r'{out}')\n"
        "part = Part('hangs', 'bad_parts:hangs', 600, 'cpu', {{'folder': out}})\n"
        "run_parts([part], out / 'log', lambda _: None)\n"
    ).format(root=ROOT, tests=ROOT / "tests", out=tmp_path)
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "before" in line:  # the part runs
                break
        process.kill()
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 30
    while not all(map(_gone, pids)):
        assert time.monotonic() < deadline, "the part outlived the program"
        time.sleep(0.1)


def _gone(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "--device cpu --tiny" in said and torch.__version__ in said
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["--device", "cpu"], "--tiny"), (["--parts", "all"], "known: machine, ")):
        with pytest.raises(SystemExit) as error:
            gpu_check.main(arguments)
        assert error.value.code == 2 and said in capsys.readouterr().err
