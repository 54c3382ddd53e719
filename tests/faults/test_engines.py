"""Compiled engines whose files vanish, and a cache that cannot be written."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest

from .report import Row
from .robot import Robot

AREA = "Engines"
FULL = 1_000_000  # bytes that a file may have; the decoder's graph has 1.5 million


@pytest.fixture(scope="module")
def engines(shared_robot: Robot, nano_cache, tmp_path_factory):
    """Create a cache without the decoder and let the shared node use it, without configuring it yet."""
    engines = tmp_path_factory.mktemp("cache") / "engines"
    shutil.copytree(nano_cache.root, engines)
    remove(engines, "decoder")
    shared_robot.take_down()
    graph = shared_robot.graph
    for name, value in (("engine_cache_dir", str(engines)), ("build_engines", True)):
        assert graph.set_parameter("perception", name, value).successful
    yield engines
    shared_robot.take_down()
    for name, value in (("engine_cache_dir", ""), ("build_engines", False)):
        assert graph.set_parameter("perception", name, value).successful
    shared_robot.bring_up()


def remove(engines: Path, half: str) -> None:
    for folder in engines.glob(f"*/{half}-*"):
        shutil.rmtree(folder)


@pytest.mark.fault(AREA, "no space for what is made (RLIMIT_FSIZE in place of a full disk)")
def test_a_cache_that_takes_no_more_costs_the_engines_only(engines: Path, robot: Robot, row: Row):
    limits = resource.prlimit(robot.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(robot.process.pid, resource.RLIMIT_FSIZE, (FULL, limits[1]))
    try:
        robot.bring_up()
        row.said = robot.hears("[ERROR]", "no onnxruntime engines", "cannot be written", "Free space there")
        row.diagnostics = robot.diagnosed("model", "WARN", "cannot be written")
        robot.works(row)
    finally:
        resource.prlimit(robot.process.pid, resource.RLIMIT_FSIZE, limits)
    assert not list(engines.glob("*/decoder-*")) and not list(engines.glob("*/.making-*"))
    robot.take_down()
    robot.bring_up()
    robot.hears("engines took over")
    robot.works()
    row.held("torch serves; with space, the engines are made after the next configuration")


@pytest.mark.fault(AREA, "the engine's files vanish between two activations")
def test_engines_that_vanish_are_made_anew(engines: Path, robot: Robot, row: Row):
    assert list(engines.glob("*/decoder-*"))
    robot.deactivate()
    remove(engines, "encoder")
    robot.activate()
    row.said = robot.hears("[WARN]", "the engine of the encoder", "is made anew")
    row.diagnostics = "OK model: warming: building …" if robot.diagnosed("model", "OK", "warming:") else ""
    robot.works(row)
    robot.hears("engines took over")
    robot.works()
    row.held("what was loaded serves on; new engines take over without a restart")
