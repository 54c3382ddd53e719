"""Training loop on accelerate, shared by all training programs.

A program defines what is trained (:class:`Task`). The loop does the rest: processes and devices, gradient
accumulation, schedule, checkpoints, metrics, evaluation, export.

Started directly, a program runs on one GPU, or on a CPU in ``config.processes`` processes of one thread each.
Started by a launcher (``accelerate launch -m training.supervise CONFIG``, torchrun) it is one of the
launcher's processes, wrapped as the launcher is configured: DDP, FSDP, DeepSpeed. The last two need a task
with one optimiser.

Contents of ``config.out``:

- ``checkpoints/`` (:mod:`training.checkpoint`)
- ``metrics.jsonl`` and ``tensorboard/`` (:mod:`training.progress`)
- ``pictures/step-000500.jpg``, the first answers of an evaluation
- ``best``, a link to the exported model with the highest mask cIoU in evaluation
- ``model/``, the exported model after the last step
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import accelerate
import numpy as np
import torch
import transformers
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, gather_object
from torch import distributed, nn
from transformers import PreTrainedTokenizerFast

from lens_ros.model.checkpoint import load_tensors, without_tied_head
from lens_ros.model.errors import CheckpointError
from lens_ros.model.images import visual_grid
from lens_ros.model.network import LensModel
from lens_ros.simulation.renderer import SimulatorUnavailable
from training.checkpoint import Checkpoints, Progress, point
from training.config import C, RunConfig, load_config
from training.export import export
from training.lora import inject
from training.parts import trained_parameters
from training.progress import Means, Reporter, Values, mean_of
from training.validation import SCORE, Validation, best_so_far, save_picture

T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """One forward and backward pass.

    It is part ``part`` of optimiser step ``step`` in process ``rank`` of ``world``.
    """

    step: int
    part: int
    rank: int
    world: int

    @property
    def share(self) -> int:
        """Index of this turn among the ``world * accumulate`` shares of the step's batch.

        Two processes see the same shares as one process in two parts.
        """
        return self.part * self.world + self.rank


class Task(ABC):
    """A training task, created in every process by a function of the configuration.

    Attributes:
        model: The model that is evaluated and exported; its parameters are among those of ``module``.
        tokenizer: Tokenizer of the model.
        module: The module that accelerate wraps; called exactly once per backward pass.
    """

    program: ClassVar[str]  # recorded with the weights, such as "training.supervise"
    shown: ClassVar[tuple[str, ...]] = ("loss",)  # metrics shown next to the progress bar
    # DDP needs to know whether a backward pass may miss trained parameters. The check costs time.
    find_unused_parameters: ClassVar[bool] = False

    model: LensModel
    tokenizer: PreTrainedTokenizerFast
    module: nn.Module

    @property
    def evaluate_from(self) -> int:
        """First step after which the model can be expected to answer."""
        return 0

    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers with their peak learning rates, by name.

        Called once, when ``module`` is on its device. ``learning_rate`` in the metrics is that of the first.
        """

    @abstractmethod
    def loss(self, wrapped: nn.Module, turn: Turn) -> tuple[torch.Tensor, Values]:
        """Return scalar loss and metrics of a turn, as a pure function of configuration, turn and weights.

        Called in training mode, and under bfloat16 autocast if the configuration asks for it. Torch's global
        generators are seeded for the turn, so code that draws from them is pure too.

        Args:
            wrapped: ``module`` as accelerate wrapped it; call it once, and not under ``no_grad``. For
                anything else (sampling, a reference policy) call ``module`` and ``model`` directly.
            turn: The part of the step to compute.
        """


def train(task_of: Callable[[C], Task], config: C) -> Path:
    """Run or resume training and return the folder of the exported model.

    Args:
        task_of: A class or function at module level, since new processes import it.
        config: Configuration of the run.

    Raises:
        ValueError: The configuration does not fit the data, the model, or the run in ``config.out``. With
            several processes it is ``torch.multiprocessing.ProcessRaisedException`` instead.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if _launched() or torch.accelerator.is_available():
        return _run(task_of, config)
    if config.processes > 1:
        meeting = out / "meeting"  # file for the rendezvous of the processes; gloo does not clean it up
        meeting.unlink(missing_ok=True)
        # Fork from one process that has already imported what each of them needs, which takes seconds.
        multiprocessing.set_forkserver_preload([__name__])
        torch.multiprocessing.start_processes(
            _work,
            (task_of, config, meeting.resolve()),
            nprocs=config.processes,
            start_method="forkserver",
        )
        return out / "model"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(task_of, config)
    finally:
        torch.set_num_threads(threads)


def _launched() -> bool:
    """Return whether torchrun or ``accelerate launch`` started this process."""
    return any(name in os.environ for name in ("RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"))


def _work(rank: int, task_of: Callable[[C], Task], config: C, meeting: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # SIGINT must stop the workers too; a run in the background would ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(config.processes),
        LOCAL_WORLD_SIZE=str(config.processes),
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=meeting.as_uri(), rank=rank, world_size=config.processes
    )
    _run(task_of, config)
    distributed.destroy_process_group()


def _end_with_parent() -> None:
    """Exit this process as soon as the one that started the run has ended, for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(task_of: Callable[[C], Task], config: C) -> Path:
    """Run training in this process."""
    # Suppress DDP's warning about gradients of 1x1 convolutions: nothing can be done about it.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    try:
        return _Run(task_of, config).train()
    finally:
        # Accelerate keeps this state in globals; the next run in this process would reuse it.
        AcceleratorState._reset_state(reset_partial_state=True)


class _Run:
    """The part of a run that one process executes."""

    def __init__(self, task_of: Callable[[C], Task], config: C) -> None:
        cpu = not torch.accelerator.is_available()
        world = PartialState(cpu=cpu).num_processes
        config = dataclasses.replace(config, processes=world)
        self.config: RunConfig = config
        self.task = task_of(config)
        self.accelerator = Accelerator(
            cpu=cpu,
            gradient_accumulation_steps=config.accumulate,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=self.task.find_unused_parameters)
            ],
        )
        self.task.module.to(self.accelerator.device)
        optimizers = self.task.optimizers()
        self.wrapped, *self.optimizers = self.accelerator.prepare(self.task.module, *optimizers.values())
        self.peaks = [[group["lr"] for group in o.param_groups] for o in optimizers.values()]
        self.checkpoints = Checkpoints(self.accelerator, config)
        self.resumed = self.checkpoints.resume()
        self.started = time.perf_counter() - self.resumed.seconds
        self.means = Means()
        self.main = self.accelerator.is_main_process
        # Without validation no simulator is needed, so training itself needs no OpenGL.
        self.validation = Validation(config) if self.main and config.validation_expressions else None
        self.reporter: Reporter | None = None
        if self.main:
            print(_facts(self.task, self.accelerator, config, self.resumed), flush=True)
            self.reporter = Reporter(Path(config.out), self.resumed.step, config.steps, self.task.shown)

    def train(self) -> Path:
        config = self.config
        for step in range(self.resumed.step, config.steps):
            self._step(step)
            done, last = step + 1, step + 1 == config.steps
            if self.reporter is not None:
                self.reporter.advance()
            if done % config.log_every == 0 or last:
                self._log(done)
            # Evaluate before the checkpoint; otherwise a kill in between would lose the evaluation.
            if (done % config.evaluate_every == 0 or last) and done > self.task.evaluate_from:
                self._evaluate(done)
            if done % config.checkpoint_every == 0 or last:
                self.checkpoints.save(Progress(done, self._seconds()))
        model = self._whole_model()
        if self.reporter is not None:
            self.reporter.close()
            self._export(model, Path(config.out) / "model")
        self.accelerator.wait_for_everyone()
        return Path(config.out) / "model"

    def _step(self, step: int) -> None:
        config, accelerator = self.config, self.accelerator
        began = time.perf_counter()
        scale = learning_rate_scale(step, config)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
        self.wrapped.train()
        for part in range(config.accumulate):
            turn = Turn(step, part, accelerator.process_index, accelerator.num_processes)
            torch.manual_seed(_seed(config.seed, turn))
            with accelerator.accumulate(self.wrapped):
                with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.bf16):
                    loss, metrics = self.task.loss(self.wrapped, turn)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    self._clip(step)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            self.means.add({"loss": loss.detach(), **metrics})
        rate = self.peaks[0][0] * scale
        self.means.add({"learning_rate": rate, "step_time": time.perf_counter() - began})

    def _clip(self, step: int) -> None:
        """Clip the gradients; raise FloatingPointError before non-finite values reach the weights."""
        limit = self.config.clip_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit)
        if norm is None:  # DeepSpeed does not report it
            return
        norm = float(norm)
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradients of step {step} are not finite (norm {norm}); the checkpoints in "
                f"{self.config.out} are unharmed: go on from them with a lower learning rate, or find out why"
            )
        self.means.add({"grad_norm": norm})

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _log(self, done: int) -> None:
        sums = gather_object([self.means.take()])
        if self.reporter is not None:
            self.reporter.means(done, self._seconds(), mean_of(sums))

    def _evaluate(self, done: int) -> None:
        if not self.config.validation_expressions:
            return
        model = self._whole_model()
        if self.validation is not None and self.reporter is not None:
            result, sheet = self.validation.run(model, self.task.tokenizer)
            out, name = Path(self.config.out), f"step-{done:06d}"
            save_picture(sheet, out / "pictures" / f"{name}.jpg")
            self.reporter.evaluation(done, self._seconds(), result, sheet)
            best = out / "best"
            if result[SCORE] > best_so_far(best, self.config):
                exports = out / "exports"
                self._export(model, exports / name, step=done, evaluation=result)
                point(best, f"exports/{name}")
                for other in exports.iterdir():
                    if other.name != name:
                        shutil.rmtree(other)
        self.accelerator.wait_for_everyone()

    def _export(self, model: LensModel, folder: Path, **more: Any) -> None:
        export(
            model, self.task.tokenizer, self.config, folder, program=self.task.program,
            seconds=self._seconds(), **more,
        )  # fmt: skip

    def _whole_model(self) -> LensModel:
        """Return the model with all of its weights.

        If the weights are sharded over processes, this is a copy that holds them, valid in the first process
        only.
        """
        if self.accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            return self.task.model
        prefix = next(name for name, m in self.task.module.named_modules() if m is self.task.model)
        state = self.accelerator.get_state_dict(self.wrapped)
        if not self.main:
            return self.task.model
        whole = LensModel(self.task.model.config)
        if lora := getattr(self.config, "lora", None):
            inject(whole, lora, self.config.seed)
        start = f"{prefix}." if prefix else ""
        tensors = {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
        load_tensors(whole, without_tied_head(tensors, whole), source="the running model")
        return whole.to(self.accelerator.device)


def _seed(seed: int, turn: Turn) -> int:
    """Derive a seed for torch's generators that differs in every turn."""
    return int(np.random.SeedSequence([seed, turn.step, turn.share]).generate_state(1)[0])


def learning_rate_scale(step: int, config: RunConfig) -> float:
    """Return a step's factor of the peak learning rates: warm-up, plateau, fall to zero."""
    warm = (step + 1) / config.warmup if config.warmup else 1.0
    cool = (config.steps - step) / (config.steps * config.cooldown) if config.cooldown else 1.0
    if config.schedule == "cosine":
        cool = (1 - math.cos(math.pi * min(1.0, cool))) / 2
    return min(1.0, warm, cool)


def to_device(batch: T, device: torch.device) -> T:
    """Move every tensor of a dataclass (or of nested dataclasses) to ``device``."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)  # type: ignore[return-value]
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        moved = {f.name: to_device(getattr(batch, f.name), device) for f in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **moved)  # type: ignore[return-value]
    return batch


def command_line(
    program: str,
    description: str | None,
    kind: type[C],
    task_of: Callable[[C], Task],
    arguments: list[str] | None = None,
) -> int:
    """Run the training program ``python -m PROGRAM CONFIG [field=value ...]`` and return its exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="YAML file, see training/configs and training/config.py")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="or block.field=value")
    options = parser.parse_args(arguments)
    refusals = (ValueError, FileNotFoundError, CheckpointError, SimulatorUnavailable, FloatingPointError)
    try:
        folder = train(task_of, load_config(kind, options.config, options.overrides))
    except refusals as error:
        told = str(error)
    except torch.multiprocessing.ProcessRaisedException as error:
        name, _, told = str(error).strip().splitlines()[-1].partition(": ")
        if name.rpartition(".")[2] not in {refusal.__name__ for refusal in refusals}:
            raise
    else:
        print("exported", folder)
        return 0
    print(f"{program}: {told}", file=sys.stderr)
    return 2


def _facts(task: Task, accelerator: Accelerator, config: RunConfig, resumed: Progress) -> str:
    """Describe the run: progress, devices, library versions and trained parameters."""
    model = task.model
    side = model.config.image.reasoner_size
    rows, cols = visual_grid(side, side)
    tokens = (
        f"{rows * cols}"
        if model.config.image.protocol == "square"
        else f"up to {model.config.image.max_pixels // 28**2}"
    )
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    trained = trained_parameters(task.module, model)
    counts = ", ".join(f"{part} {count / 1e6:.3g} M" for part, count in trained.items())
    return "\n".join(
        (
            f"{config.out}: step {resumed.step} of {config.steps}; processes: {config.processes} on {name} "
            f"({accelerator.distributed_type.value}), {'bfloat16' if config.bf16 else 'float32'}",
            f"torch {torch.__version__}, transformers {transformers.__version__}, accelerate "
            f"{accelerate.__version__}; attention: {model.reasoner.config._attn_implementation}",
            f"trained parameters: {counts}; {len(task.tokenizer)} words, {tokens} tokens per image",
        )
    )
