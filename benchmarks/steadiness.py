"""Judge whether a process stays steady: samples, criteria from the first third to the last, a plot."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

WARM_UP = 0.25  # share of the whole time
SHARED_MB = 128  # the node's own segment has 64 MB; its share of its clients' segments counts as well
DRIFT = 1.15
REFERENCE = "reference"
# Keys in /diagnostics:
NATIVE, OBJECTS, SUBSCRIBERS = "native memory in use, MB", "Python's objects in use", "subscribers"
LATENCIES = ("followed", "reasoned", "service", "goal", "cancel", REFERENCE)


@dataclass
class Sample:
    """State of the node's process after a round, and times of the round in milliseconds.

    `native_mb` and `objects` are what it has allocated and not freed
    (`lens_ros.system.allocator.native_bytes`). `subscribers` lists the number of subscribers of each of its
    topics. The other fields of the process are as the system reports them. `processor_s` is the CPU time in
    seconds that each of the soak's processes took in the round. `yardstick_ms` is the time of a fixed piece
    of work at rest. Together they distinguish a slower machine from a process that does more.
    """

    minutes: float
    pss_mb: float
    anonymous_mb: float
    shared_mb: float
    native_mb: float
    objects: int
    handles: int
    threads: int
    subscribers: str
    p50: dict[str, float] = field(default_factory=dict)
    p95: dict[str, float] = field(default_factory=dict)
    processor_s: dict[str, float] = field(default_factory=dict)
    yardstick_ms: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """One criterion, comparing the first third after warming up with the last."""

    name: str
    first: float
    last: float
    change: str
    holds: bool


def processor_seconds(pid: int) -> float:
    """Return the user and system CPU seconds of all threads of the process (man 5 proc)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def yardstick() -> float:
    """Return milliseconds of a fixed piece of work in this process: pure Python, and sorting in memory."""
    numbers = np.random.default_rng(0).random(1_000_000)

    def once() -> float:
        started = time.perf_counter()
        np.sort(numbers)
        sum(number * number for number in range(500_000))
        return 1e3 * (time.perf_counter() - started)

    return statistics.median(once() for _ in range(5))


def sample(
    pid: int,
    minutes: float,
    told: dict[str, str],
    times: dict[str, list[float]],
    processor_s: dict[str, float],
) -> Sample:
    """Take a sample of the process now.

    PSS is its own memory plus its share of what it shares with others.

    Args:
        pid: The process.
        minutes: Time since the beginning.
        told: NATIVE, OBJECTS and SUBSCRIBERS, from the node's diagnostics.
        times: Latencies of the round by name, in milliseconds.
        processor_s: CPU seconds of the round by process.
    """
    rollup = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    megabytes = {name: int(text.split()[0]) * 1024e-6 for name, text in rollup.items()}
    status = Path(f"/proc/{pid}/status").read_text()
    return Sample(
        minutes,
        megabytes["Pss"],
        megabytes["Anonymous"],
        megabytes["Pss_Shmem"],
        float(told[NATIVE]),
        int(told[OBJECTS]),
        len(os.listdir(f"/proc/{pid}/fd")),
        int(status.split("Threads:")[1].split()[0]),
        told[SUBSCRIBERS],
        {name: statistics.median(values) for name, values in times.items()},
        {name: float(np.quantile(values, 0.95)) for name, values in times.items()},
        processor_s,
        yardstick(),
    )


def judged(samples: Sequence[Sample], *, growth: float, latency: bool) -> list[Verdict]:
    """Judge every criterion and return the verdicts.

    Args:
        samples: One sample per round.
        growth: Allowed growth of memory, as a share.
        latency: Whether latencies count.
    """
    first, last = thirds(samples)
    verdicts = []
    memory = {"memory of its own, MB": "anonymous_mb", NATIVE: "native_mb", OBJECTS: "objects"}
    for name, attribute in memory.items():
        before, after = (
            statistics.median([getattr(each, attribute) for each in part]) for part in (first, last)
        )
        change = after / before - 1
        verdicts.append(Verdict(name, before, after, f"{change:+.2%}", change < growth))
    before, after = (statistics.median([each.shared_mb for each in part]) for part in (first, last))
    change = after / before - 1
    text = f"{change:+.2%}, at most {SHARED_MB} MB"
    verdicts.append(Verdict("shared memory, MB", before, after, text, after < SHARED_MB))
    for name in ("handles", "threads"):
        before, after = (statistics.median([getattr(s, name) for s in part]) for part in (first, last))
        verdicts.append(Verdict(name, before, after, f"{after - before:+.0f}", after <= before))
    for name in LATENCIES:
        values = [[s.p50[name] for s in part if name in s.p50] for part in (first, last)]
        beside = [[s.p50[REFERENCE] for s in part] for part in (first, last)]
        if not all(values):
            verdicts.append(Verdict(f"{name} p50, ms", math.nan, math.nan, "not measured", not latency))
            continue
        ratio, lower = drift(values, beside)
        before, after = map(statistics.median, values)
        text = f"x {ratio:.2f} of the reference's, at least {lower:.2f}"
        holds = name == REFERENCE or not latency or lower <= DRIFT
        verdicts.append(Verdict(f"{name} p50, ms", before, after, text, holds))
    return verdicts


def surroundings(samples: Sequence[Sample]) -> list[Verdict]:
    """Return the state of the machine and its CPU usage; none of these have to hold."""

    def told(sample: Sample) -> dict[str, float]:
        processor = {f"processor, {name}, s": seconds for name, seconds in sample.processor_s.items()}
        return {"yardstick at rest, ms": sample.yardstick_ms, **processor}

    parts = [[told(each) for each in part] for part in thirds(samples)]
    rows = []
    for name in parts[0][0]:
        before, after = (statistics.median([each[name] for each in part]) for part in parts)
        rows.append(Verdict(name, before, after, f"{after / before - 1:+.2%}", holds=True))
    return rows


def thirds(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Return the first and the last third of the samples after warming up."""
    settled = [each for each in samples if each.minutes >= WARM_UP * samples[-1].minutes]
    third = max(1, len(settled) // 3)
    return settled[:third], settled[-third:]


def drift(values: Sequence[Sequence[float]], beside: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the ratio of medians, last to first, over that of the reference, and its lower bound at 95 %."""
    generator = np.random.default_rng(0)

    def ratio(parts: Sequence[np.ndarray]) -> np.ndarray:
        first, last, beside_first, beside_last = (np.median(part, axis=-1) for part in parts)
        return (last / first) / (beside_last / beside_first)

    parts = [np.asarray(each) for each in (*values, *beside)]
    drawn = [generator.choice(part, (2000, part.size)) for part in parts]
    return float(ratio(parts)), float(np.quantile(ratio(drawn), 0.05))


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Plot memory, handles and threads, and latencies over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    minutes = [each.minutes for each in samples]
    figure, rows = plt.subplots(4, 1, figsize=(8, 9), sharex=True)
    memory, numbers, latencies, processor = rows
    memory.plot(minutes, [each.pss_mb for each in samples], label="all (PSS)")
    memory.plot(minutes, [each.anonymous_mb for each in samples], label="its own")
    memory.plot(minutes, [each.native_mb for each in samples], label="of it, native,\nin use")
    memory.plot(minutes, [each.shared_mb for each in samples], label="shared")
    memory.set_ylabel("memory, MB")
    memory.set_ylim(0)
    numbers.plot(minutes, [each.handles for each in samples], label="open handles")
    numbers.plot(minutes, [each.threads for each in samples], label="threads")
    numbers.set_ylim(0, 1.2 * max(max(each.handles, each.threads) for each in samples))
    for name in LATENCIES:
        points = [(each.minutes, each.p50[name]) for each in samples if name in each.p50]
        if points:
            latencies.plot(*zip(*points, strict=True), label=name, linewidth=0.8)
    latencies.set_ylabel("median of a round, ms")
    latencies.set_yscale("log")
    for name in samples[0].processor_s:
        processor.plot(minutes, [each.processor_s[name] for each in samples], label=name)
    processor.plot(minutes, [each.yardstick_ms / 10 for each in samples], "k:", label="yardstick,\n10 ms")
    processor.set_ylabel("processor, s a round")
    processor.set_ylim(0)
    processor.set_xlabel("minutes")
    for axes in rows:
        axes.axvspan(0, WARM_UP * minutes[-1], color="0.93")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
