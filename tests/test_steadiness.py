"""Criteria of the soak test, on made-up samples for each possible problem."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.steadiness import (
    LATENCIES,
    NATIVE,
    OBJECTS,
    REFERENCE,
    Sample,
    Verdict,
    judged,
    processor_seconds,
    surroundings,
)

ROUNDS = 120


def samples(change: Callable[[Sample, float], Sample] = lambda sample, progress: sample) -> list[Sample]:
    """Return samples of a steady process with noise, changed by `change(sample, progress)`, progress 0..1."""
    random = np.random.default_rng(0)
    made = []
    for number in range(ROUNDS):
        noise = random.lognormal(0, 0.1, len(LATENCIES))
        sample = Sample(
            minutes=float(number),
            pss_mb=500.0,
            anonymous_mb=440.0 + 20 * random.random(),
            shared_mb=64.0,
            native_mb=235.0 + 5 * random.random(),
            objects=1_600_000 + int(random.integers(2000)),
            handles=23,
            threads=24,
            subscribers="/mask 0, /overlay 1",
            p50=dict(zip(LATENCIES, 50 * noise, strict=True)),
            processor_s={"perception": 30.0, "soak": 2.0},
            yardstick_ms=80.0,
        )
        made.append(change(sample, number / ROUNDS))
    return made


def slower(names: tuple[str, ...]) -> Callable[[Sample, float], Sample]:
    return lambda sample, progress: dataclasses.replace(
        sample,
        p50={name: value * (1 + progress * (name in names)) for name, value in sample.p50.items()},
    )


def growing(name: str, share: float) -> Callable[[Sample, float], Sample]:
    return lambda sample, progress: dataclasses.replace(
        sample, **{name: type(getattr(sample, name))(getattr(sample, name) * (1 + share * progress))}
    )


def broken(verdicts: list[Verdict]) -> list[str]:
    return [each.name for each in verdicts if not each.holds]


def test_noise_is_steady() -> None:
    verdicts = judged(samples(), growth=0.01, latency=True)
    assert broken(verdicts) == []
    assert len(verdicts) == 6 + len(LATENCIES)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (growing("anonymous_mb", 0.1), "memory of its own, MB"),
        (growing("native_mb", 0.04), NATIVE),
        (growing("objects", 0.03), OBJECTS),
        (growing("shared_mb", 2.0), "shared memory, MB"),
        (growing("handles", 0.2), "handles"),
        (growing("threads", 0.2), "threads"),
        (slower(("cancel",)), "cancel p50, ms"),
    ],
)
def test_what_grows_does_not_hold(change: Callable[[Sample, float], Sample], what: str) -> None:
    assert broken(judged(samples(change), growth=0.01, latency=True)) == [what]


def test_a_machine_that_gets_slower_is_not_the_nodes_drift() -> None:
    assert broken(judged(samples(slower(LATENCIES)), growth=0.01, latency=True)) == []
    assert REFERENCE in LATENCIES


def test_latencies_do_not_count_where_they_are_not_to() -> None:
    assert broken(judged(samples(slower(("cancel",))), growth=0.01, latency=False)) == []


def test_what_happens_while_it_warms_up_does_not_count() -> None:
    def warming(sample: Sample, progress: float) -> Sample:
        return sample if progress >= 0.25 else dataclasses.replace(sample, native_mb=150.0, handles=20)

    assert broken(judged(samples(warming), growth=0.01, latency=True)) == []


def test_what_a_process_takes_of_the_processor_is_told_beside_it() -> None:
    def busier(sample: Sample, progress: float) -> Sample:
        return dataclasses.replace(sample, processor_s={**sample.processor_s, "soak": 2.0 + progress})

    rows = {each.name: each for each in surroundings(samples(busier))}
    assert rows["processor, perception, s"].change == "+0.00%"
    soak = rows["processor, soak, s"]
    assert soak.first == pytest.approx(2.375, abs=0.02) and soak.last == pytest.approx(2.87, abs=0.02)
    assert rows["yardstick at rest, ms"].last == 80.0


def test_a_process_takes_of_the_processor_what_it_works() -> None:
    before, at_first = processor_seconds(os.getpid()), time.process_time()
    while time.process_time() < at_first + 0.3:
        pass
    assert processor_seconds(os.getpid()) - before == pytest.approx(time.process_time() - at_first, abs=0.05)
