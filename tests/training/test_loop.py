"""Training loop: exact resume, equal processes, accumulation, evaluation and output files."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_task import SmallConfig, SmallTask, small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lens_ros.model.checkpoint import find_model, load_model
from training.checkpoint import finished, point
from training.config import save_config
from training.loop import Task, Turn, learning_rate_scale, train
from training.nano import build_nano
from training.progress import Means, Reporter, mean_of
from training.tools.plot import read_metrics

PROGRAM = Path(__file__).with_name("small_task.py")


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "model" / "model.safetensors")


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights in the newest checkpoint, float32."""
    path = folder / "run" / "checkpoints" / "last" / "pytorch_model.bin"
    return torch.load(path, weights_only=True)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def killed(folder: Path, config: SmallConfig, after: int) -> int:
    """Run the program until checkpoint ``after`` exists, then kill all of its processes at once.

    Returns:
        The step of the newest checkpoint that it left.
    """
    path = folder / "config.yaml"
    save_config(config, path)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(path)], start_new_session=True, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    checkpoints = Path(config.out) / "checkpoints"
    deadline = time.monotonic() + 900
    while not any(int(c.name[-6:]) >= after for c in finished(checkpoints)):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint in 900 s"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = int(finished(checkpoints)[-1].name[-6:])
    assert after <= left < config.steps
    return left


def turns(folder: Path, rank: int) -> list[str]:
    return (folder / "run" / f"weights-{rank}.txt").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_it_resumes_bit_for_bit(processes: int, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(SmallTask, small(whole, processes=processes))
    broken.mkdir()
    # Slower, so that the kill comes in time: it changes nothing.
    config = small(broken, processes=processes, slow=0.3)
    left = killed(broken, config, after=3)
    before = len(turns(broken, 0))
    train(SmallTask, config)
    assert equal(state(broken), state(whole))
    assert equal(exported(broken), exported(whole))
    # Nothing was done again but what came after the last checkpoint.
    assert turns(broken, 0)[before].split()[0] == str(left)
    steps = [line["step"] for line in read_metrics(broken / "run" / "metrics.jsonl")]
    assert steps == [2, 4, 6, 8]
    for rank in range(processes):
        assert turns(broken, rank)[-1] == turns(whole, rank)[-1]
    if processes == 2:
        assert turns(whole, 0) == turns(whole, 1), "the processes came to different weights"
        # One process can go on alone: what the wrapper calls its weights is not in the checkpoint.
        train(SmallTask, small(whole, steps=9))
        assert turns(whole, 0)[-1].startswith("8 0")


@pytest.mark.slow
def test_processes_parts_and_one_big_batch_are_the_same(tmp_path: Path) -> None:
    fields = {"noise": 0.0, "plain": True, "lr": 0.5, "steps": 4}
    train(SmallTask, small(tmp_path / "big", **fields))
    train(SmallTask, small(tmp_path / "parts", accumulate=4, **fields))
    launched(tmp_path / "both", small(tmp_path / "both", accumulate=2, processes=5, **fields))
    big, born = state(tmp_path / "big"), build_nano(0)[0].state_dict()
    assert max((big[name] - born[name.removeprefix("model.")]).abs().max() for name in big) > 1e-2
    for name in ("parts", "both"):
        other = state(tmp_path / name)
        assert other.keys() == big.keys()
        for tensor in big:
            torch.testing.assert_close(other[tensor], big[tensor], atol=2e-5, rtol=0, msg=f"{name}: {tensor}")
    assert turns(tmp_path / "both", 0) == turns(tmp_path / "both", 1)
    assert [line.split()[1] for line in turns(tmp_path / "parts", 0)] == list("0123") * 4
    (metrics, *_) = read_metrics(tmp_path / "both" / "run" / "metrics.jsonl")
    assert metrics["share"] == 1.5  # the mean over both processes and both parts
    alone = read_metrics(tmp_path / "big" / "run" / "metrics.jsonl")
    assert metrics["loss"] == pytest.approx(alone[0]["loss"], rel=1e-3)
    # The launcher brings its own number of processes.
    record = json.loads((tmp_path / "both" / "run" / "model" / "training.json").read_text())
    assert record["config"]["processes"] == 2


def launched(folder: Path, config: SmallConfig) -> None:
    """Run the program in two processes of torchrun, which ``accelerate launch`` starts too."""
    folder.mkdir()
    path = folder / "config.yaml"
    save_config(config, path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, str(PROGRAM), str(path)], check=True, timeout=900, env=environment)


def test_bfloat16_is_where_the_configuration_says(tmp_path: Path) -> None:
    for half in (True, False):
        folder = tmp_path / str(half)
        train(SmallTask, small(folder, steps=2, bf16=half))
        (line,) = read_metrics(folder / "run" / "metrics.jsonl")
        assert line["bf16"] == float(half)
        assert all(t.dtype == torch.float32 for t in state(folder).values() if t.is_floating_point())


def test_only_the_newest_checkpoints_stay_and_last_points_at_the_newest(tmp_path: Path) -> None:
    train(SmallTask, small(tmp_path, steps=5, keep_checkpoints=2))
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last", "step-000004", "step-000005"]
    assert (folder / "last").resolve() == folder / "step-000005"
    assert json.loads((folder / "last" / "progress.json").read_text())["step"] == 5
    config = yaml.safe_load((folder / "last" / "config.yaml").read_text())
    assert config["steps"] == 5 and config["lr"] == SmallConfig.lr


def test_what_a_kill_left_half_written_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    train(SmallTask, small(tmp_path, steps=2))
    folder = tmp_path / "run" / "checkpoints"
    (folder / ".step-000007").mkdir()
    (folder / ".step-000007" / "pytorch_model.bin").write_bytes(b"half")
    shutil.copytree(folder / "step-000001", folder / ".step-000001")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "seco')
    train(SmallTask, small(tmp_path, steps=4))
    assert [path.name for path in finished(folder)] == ["step-000003", "step-000004"]
    assert not list(folder.glob(".step-*"))
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 4]


def test_a_run_can_be_lengthened_but_not_become_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(SmallTask, small(tmp_path, steps=2))
    with pytest.raises(ValueError, match=r"another configuration \(seed was 0, is 3; lr was 0.01, is 0.5\)"):
        train(SmallTask, small(tmp_path, steps=2, lr=0.5, seed=3))
    capsys.readouterr()
    train(SmallTask, small(tmp_path, steps=3, cooldown=0.2))
    told = [line for line in capsys.readouterr().out.splitlines() if "resumed with" in line]
    assert len(told) == 1 and "steps: 2, now 3" in told[0] and "cooldown: 0.5, now 0.2" in told[0]
    assert turns(tmp_path, 0)[-1].startswith("2 0")


def test_gradients_that_are_no_numbers_stop_the_run_before_the_weights(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="gradients of step 0 are not finite"):
        train(SmallTask, small(tmp_path, noise=3e38))  # its square overflows


def test_tensorboard_and_json_lines_tell_the_same(tmp_path: Path) -> None:
    train(SmallTask, small(tmp_path, steps=4))
    (folder,) = {path.parent for path in (tmp_path / "run" / "tensorboard").glob("events*")}
    events = EventAccumulator(str(folder)).Reload()
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {"loss", "learning_rate", "grad_norm", "step_time"} <= lines[0].keys()
    assert "never" not in lines[0]
    for name in ("loss", "learning_rate", "grad_norm"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(line["step"], pytest.approx(line[name], rel=1e-4)) for line in lines]


def test_means_are_over_turns_whichever_process_had_them() -> None:
    first, second = Means(), Means()
    first.add({"a": 1.0, "b": float("nan")})
    first.add({"a": torch.tensor(3.0), "b": 5.0})
    second.add({"a": 8.0, "c": 2.0})
    assert mean_of([first.take(), second.take()]) == {"a": 4.0, "b": 5.0, "c": 2.0}
    assert first.take() == {}


def test_small_rates_are_not_rounded_away(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, 0, 1, shown=())
    reporter.means(1, 2.0, {"learning_rate": 3.0e-6})
    reporter.close()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["learning_rate"] == 3.0e-6


def test_a_link_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        point(tmp_path / "link", name)
        assert (tmp_path / "link").resolve() == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "link"]


def test_the_plateau_does_not_depend_on_the_length_of_the_run() -> None:
    short, long = (small(Path(), steps=n, warmup=100) for n in (2000, 4000))
    plateau = range(100, 1000, 100)
    assert [learning_rate_scale(s, short) for s in plateau] == [1.0] * len(plateau)
    assert [learning_rate_scale(s, long) for s in plateau] == [1.0] * len(plateau)
    assert 0 < learning_rate_scale(1999, short) < 0.01
    assert learning_rate_scale(0, short) == pytest.approx(0.01)


def test_schedules_of_the_paper() -> None:
    linear = small(Path(), steps=100, warmup=0, cooldown=1.0)
    assert [learning_rate_scale(s, linear) for s in (0, 25, 99)] == pytest.approx([1, 0.75, 0.01])
    cosine = small(Path(), steps=100, warmup=10, cooldown=1.0, schedule="cosine")
    assert [learning_rate_scale(s, cosine) for s in (4, 50)] == pytest.approx([0.5, 0.5])
    assert learning_rate_scale(75, cosine) == pytest.approx(0.1464, abs=1e-4)
    assert learning_rate_scale(99, small(Path(), steps=100, warmup=0, cooldown=0.0)) == 1


class Swinging(Task):
    """Task whose context module is bad after the first step, right after the second, then bad again."""

    program = "swinging"

    def __init__(self, config: SmallConfig) -> None:
        self.model, self.tokenizer = load_model(find_model("lens-nano"))
        self.right = {n: p.detach().clone() for n, p in self.model.context_module().named_parameters()}
        self.model.requires_grad_(False)
        self.module = _Context(self.model.context_module().requires_grad_(True))

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"sgd": torch.optim.SGD(self.module.parameters(), lr=0.5)}

    def loss(self, wrapped: nn.Module, turn: Turn) -> tuple[torch.Tensor, dict[str, float]]:
        # One step of this rate on a squared distance goes all the way.
        return wrapped({n: p if turn.step == 1 else p * 0 for n, p in self.right.items()}), {}


class _Context(nn.Module):
    def __init__(self, context: nn.Module) -> None:
        super().__init__()
        self.context = context

    def forward(self, wanted: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([(p - wanted[n]).square().sum() for n, p in self.context.named_parameters()]).sum()


@pytest.mark.slow
def test_the_best_model_is_kept_and_its_answers_are_drawn(opengl: None, tmp_path: Path) -> None:
    config = small(
        tmp_path, steps=3, warmup=0, cooldown=0.0, clip_norm=0.0, evaluate_every=1, validation_seed=21,
        validation_expressions=4,
    )  # fmt: skip
    train(Swinging, config)
    run = tmp_path / "run"
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "evaluation" in line]
    scores = [line["evaluation"]["ciou"] for line in lines]
    assert len(scores) == 3 and scores[1] > max(scores[0], scores[2]) + 20
    assert (run / "best").resolve() == run / "exports" / "step-000002"
    assert [path.name for path in (run / "exports").iterdir()] == ["step-000002"]
    record = json.loads((run / "best" / "training.json").read_text())
    assert record["evaluation"]["ciou"] == scores[1] and record["step"] == 2
    best, shipped = (load_file(f / "model.safetensors") for f in (run / "best", find_model("lens-nano")))
    assert equal(best, shipped)
    pictures = sorted((run / "pictures").iterdir())
    assert [path.name for path in pictures] == [f"step-00000{n}.jpg" for n in (1, 2, 3)]
    assert all(cv2.imread(str(path)).shape[1] > 1000 for path in pictures)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Images("answers")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("evaluation/ciou")] == pytest.approx(scores)

    # A run that goes on knows what was best; other questions are another matter.
    train(Swinging, dataclasses.replace(config, steps=4))
    assert (run / "best").resolve().name == "step-000002"
    train(Swinging, dataclasses.replace(config, steps=5, validation_expressions=2))
    assert (run / "best").resolve().name == "step-000005"
