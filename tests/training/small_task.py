"""Train the context module of lens-nano to map noise to noise, a task that costs nothing.

Also a program: ``python small_task.py CONFIG [field=value ...]``.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lens_ros.model.checkpoint import load_model
from lens_ros.model.network import LensModel
from training.config import RunConfig
from training.loop import Task, Turn, command_line
from training.nano import build_nano
from training.parts import freeze_all_but

ROWS = 8  # of a step's batch, in all shares


@dataclass(frozen=True)
class SmallConfig(RunConfig):
    lr: float = 1.0e-2
    noise: float = 0.1
    slow: float = 0.0  # seconds that a turn takes
    plain: bool = False  # plain gradient descent, which does not blow up what rounding does


def small(folder: Path, **values: Any) -> SmallConfig:
    """Return the configuration of a run in ``folder/run`` without evaluation, in this process."""
    fields = {
        "data": "", "out": str(folder / "run"), "steps": 8, "warmup": 2, "bf16": False, "checkpoint_every": 1,
        "log_every": 2, "validation_expressions": 0, "processes": 1, "evaluate_every": 100, **values,
    }  # fmt: skip
    return SmallConfig(**fields)


class _Answer(nn.Module):
    def __init__(self, model: LensModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, read: torch.Tensor) -> torch.Tensor:
        return self.model.context_module()(read)[:, 0]


class SmallTask(Task):
    program = "small_task"

    def __init__(self, config: SmallConfig) -> None:
        self.config = config
        if config.start_from:
            self.model, self.tokenizer = load_model(Path(config.start_from))
        else:
            self.model, self.tokenizer = build_nano(config.seed)
        freeze_all_but(self.model, {"context"})
        # The queries are read by the reasoner, which is not asked here.
        self.model.context_module().learnable_query.requires_grad_(False)
        self.module = _Answer(self.model)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        trained = [p for p in self.module.parameters() if p.requires_grad]
        if self.config.plain:
            return {"sgd": torch.optim.SGD(trained, lr=self.config.lr)}
        matrices = [p for p in trained if p.ndim == 2]
        return {
            "adam": torch.optim.AdamW([p for p in trained if p.ndim != 2], lr=self.config.lr),
            "muon": torch.optim.Muon(matrices, lr=self.config.lr),
        }

    def loss(self, wrapped: nn.Module, turn: Turn) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        self._note(turn)
        time.sleep(self.config.slow)
        context = self.model.context_module()
        rng = np.random.default_rng([self.config.seed, turn.step])
        shape = (ROWS, context.num_queries, self.model.width)
        read = torch.tensor(rng.normal(size=shape), dtype=torch.float32)
        wanted = torch.tensor(rng.normal(size=(ROWS, 64)), dtype=torch.float32)
        shares = turn.world * self.config.accumulate
        mine = slice(turn.share * ROWS // shares, (turn.share + 1) * ROWS // shares)
        with torch.no_grad():
            self.module(read[mine])  # beside the wrapper, as a reference would be
        answer = wrapped(read[mine] + self.config.noise * torch.randn(read[mine].shape))
        loss = (answer.float() - wanted[mine]).square().mean()
        halved = float(answer.dtype == torch.bfloat16)
        return loss, {"bf16": halved, "never": float("nan"), "share": torch.tensor(float(turn.share))}

    def _note(self, turn: Turn) -> None:
        """Record a digest of the weights at the beginning of each turn, to compare processes."""
        weights = torch.cat([p.detach().flatten() for p in self.module.parameters() if p.requires_grad])
        told = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
        with (Path(self.config.out) / f"weights-{turn.rank}.txt").open("a") as file:
            file.write(f"{turn.step} {turn.part} {told}\n")


if __name__ == "__main__":
    raise SystemExit(command_line("small_task", __doc__, SmallConfig, SmallTask))
