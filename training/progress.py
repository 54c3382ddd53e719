"""Progress reports of a run: running means for the progress bar, JSON lines and TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

METRICS = "metrics.jsonl"

Values = Mapping[str, "float | torch.Tensor"]  # scalars without gradient; a tensor is read only when needed
Sums = dict[str, tuple[float, int]]  # sum and count by name


class Means:
    """Running means of one process since the last call of :meth:`take`."""

    def __init__(self) -> None:
        self._values: dict[str, list[float | torch.Tensor]] = {}

    def add(self, values: Values) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> Sums:
        """Return sums and counts by name, and reset. NaN values (the mean of nothing) are skipped."""
        sums = {}
        for name, values in self._values.items():
            numbers = [number for number in map(float, values) if not math.isnan(number)]
            if numbers:
                sums[name] = (math.fsum(numbers), len(numbers))
        self._values.clear()
        return sums


def mean_of(processes: Sequence[Sums]) -> dict[str, float]:
    """Return the means over all turns of all processes; a metric may be missing in some of them."""
    names = dict.fromkeys(name for sums in processes for name in sums)
    of = {name: [sums[name] for sums in processes if name in sums] for name in names}
    return {name: sum(s for s, _ in pairs) / sum(n for _, n in pairs) for name, pairs in of.items()}


class Reporter:
    """Write metrics to files and move the progress bar, in one process of the run.

    Each line of ``OUT/metrics.jsonl`` holds step, seconds, and either numbers by name or an ``evaluation``.
    ``OUT/tensorboard`` holds the same for TensorBoard.
    """

    def __init__(self, out: Path, first: int, steps: int, shown: Sequence[str]) -> None:
        """Open the files and the progress bar.

        Args:
            out: Folder of the run.
            first: Number of completed steps.
            steps: Total number of steps.
            shown: Names of the means shown next to the bar.
        """
        self._path = out / METRICS
        self._path.touch()
        text = self._path.read_bytes()
        if not text.endswith(b"\n"):  # killed while writing
            self._path.write_bytes(text[: text.rfind(b"\n") + 1])
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=first + 1)
        self._bar = tqdm(initial=first, total=steps, mininterval=2)
        self._shown = shown

    def advance(self) -> None:
        """Advance the progress bar by one step."""
        self._bar.update()

    def means(self, step: int, seconds: float, means: Mapping[str, float]) -> None:
        """Write a line of training means."""
        self._line(step, seconds, {name: float(f"{value:.6g}") for name, value in means.items()})
        for name, value in means.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        texts = [f"{name} {means[name]:.3g}" for name in self._shown if name in means]
        self._bar.set_postfix_str(" ".join(texts))

    def evaluation(
        self, step: int, seconds: float, result: Mapping[str, float], sheet: np.ndarray | None
    ) -> None:
        """Write a line of evaluation and the contact sheet ``(H, W, 3)`` uint8 RGB of its first answers."""
        self._line(step, seconds, {"evaluation": dict(result)})
        for name, value in result.items():
            self._board.add_scalar(f"evaluation/{name}", value, step)
        if sheet is not None:
            self._board.add_image("answers", sheet, step, dataformats="HWC")
        self._board.flush()
        self._bar.write(f"step {step}, {seconds:.0f} s: {json.dumps(result)}")

    def close(self) -> None:
        self._bar.close()
        self._board.close()

    def _line(self, step: int, seconds: float, more: Mapping[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "seconds": round(seconds, 1), **more}) + "\n")
