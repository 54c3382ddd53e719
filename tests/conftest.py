"""Separate ROS graph for the tests of this process, and ROS's strictest checks."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from forked import start_template
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from lens_ros.engine.cache import EngineCache

# Engines that the user once built must not decide what the tests run on.
_engines = tempfile.mkdtemp(prefix="lens_ros-tests-")
atexit.register(shutil.rmtree, _engines, ignore_errors=True)
os.environ["LENS_ENGINE_CACHE"] = _engines

# Two processes with as many threads as there are cores wait for each other more than they work.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Before anything imports rclpy or a message: both read these once.
os.environ["ROS_DOMAIN_ID"] = str(os.getpid() % 99 + 1)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Otherwise a message takes values of the wrong type and fails only when it is published.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def template() -> None:
    """Let the process that tests fork (`forked`) do its imports while the first tests run."""
    start_template()


@pytest.fixture(scope="session")
def opengl() -> None:
    """Skip tests that render if there is no OpenGL; no other place skips for this reason."""
    from lens_ros.simulation.renderer import SimulatorUnavailable, TabletopSimulator

    try:
        TabletopSimulator().close()
    except SimulatorUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def demo_image() -> np.ndarray:
    """Return the first image of the demo recording, ``(480, 640, 3)`` uint8 RGB; tests must not change it."""
    from lens_ros.recording_topics import choose
    from lens_ros.recordings import Recording

    with Recording(Path(__file__).parents[1] / "demo" / "tabletop") as bag:
        data = next(bag.messages([choose(bag.topics).color])).content.data
    return cv2.cvtColor(cv2.imdecode(np.asarray(data), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="session")
def nano_cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    """Return a cache with lens-nano's ONNX files; tests must not change it."""
    from lens_ros.engine.build import build
    from lens_ros.engine.cache import EngineCache
    from lens_ros.model.checkpoint import find_model

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of the whole run: the first process makes them, the others wait
    cache = EngineCache(folder / "engines")
    with (folder / "engines.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():  # a second build would make a folder for a moment, which another test may copy
            build(find_model("lens-nano"), "onnxruntime", cache, _Silent())
            lock.write("made")
    return cache


class _Silent:
    """Progress receiver of a build that ignores everything."""

    def say(self, text: str) -> None: ...

    def step(self, phase: str, done: int, of: int) -> None: ...
