"""Engines built in a subprocess while another backend serves: real builds that end in every way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lens_ros.engine.backends import open_engines, to_be_made
from lens_ros.engine.background_build import Wanted, Warming
from lens_ros.engine.cache import EngineCache
from lens_ros.engine.child import package_environment
from lens_ros.model.checkpoint import find_model, read_config
from tests.engine.conftest import makers

NANO = find_model("lens-nano")
TIMEOUT = 600.0  # only ever reached by a failure


class Listener:
    """Listener that records what a background build reports."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.failure = "not ended"
        self.over = threading.Event()

    def ended(self, failure: str) -> None:
        self.failure = failure
        self.over.set()


def start(cache: EngineCache, backend="onnxruntime", precision=None) -> tuple[Warming, Listener]:
    listener = Listener()
    wanted = Wanted(NANO, "lens-nano", backend, precision, cache)
    warming = Warming(wanted, told=listener.said.append, ended=listener.ended)
    warming.start()
    return warming, listener


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def half_made(cache: EngineCache) -> list[Path]:
    return list(cache.root.glob("*/.making-*"))


def without(cache: EngineCache, part: str) -> None:
    for folder in cache.root.glob(f"*/{part}-*"):
        shutil.rmtree(folder)


def test_two_that_want_the_same_make_it_once_and_yield_to_everything(own_cache: EngineCache) -> None:
    without(own_cache, "decoder")
    config = read_config(NANO)
    assert to_be_made(open_engines(NANO, config, cache=own_cache), "auto", "cpu") == "onnxruntime"
    (one, first), (other, second) = start(own_cache), start(own_cache)
    wait_until(lambda: half_made(own_cache), "something in the making")
    for pid in makers(own_cache):
        assert os.getpriority(os.PRIO_PROCESS, pid) == 10
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    seen = set()
    wait_until(
        lambda: seen.update((one.progress, other.progress)) or first.over.is_set() and second.over.is_set(),
        "both ended",
    )
    assert first.failure == second.failure == ""
    said = first.said + second.said
    assert said.count("decoder fp32: exporting to ONNX") == 1
    assert said.count("decoder fp32: another process makes it; waiting for that") == 1
    assert "building onnxruntime decoder fp32: exporting, 0 %" in seen
    engines = open_engines(NANO, config, cache=own_cache)
    assert engines.are("onnxruntime") and to_be_made(engines, "auto", "cpu") is None


def test_what_is_cancelled_while_it_compiles_leaves_nothing(own_cache: EngineCache) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = {entry.folder for entry in own_cache.entries()}
    warming, listener = start(own_cache, "tensorrt_rtx", "fp32")
    wait_until(lambda: list(own_cache.root.glob("*/.making-*/engine/*.json")), "the compiler at work")
    assert len(makers(own_cache)) >= 1
    warming.cancel()
    wait_until(lambda: not makers(own_cache), "the compiler ended with who asked for it")
    assert half_made(own_cache) == []
    assert all("rtx" not in entry.folder.name or not entry.fault for entry in own_cache.entries())
    assert before <= {entry.folder for entry in own_cache.entries()}
    assert not listener.over.is_set()


def test_what_is_killed_is_explained_and_leaves_nothing(own_cache: EngineCache) -> None:
    """The process is killed as the kernel kills it when memory runs out."""
    without(own_cache, "decoder")
    _, listener = start(own_cache)
    wait_until(lambda: half_made(own_cache), "something in the making")
    for pid in makers(own_cache):
        os.kill(pid, signal.SIGKILL)
    assert listener.over.wait(TIMEOUT)
    assert "killed (SIGKILL): usually the system was out of memory" in listener.failure
    assert half_made(own_cache) == [] and makers(own_cache) == []


def test_it_does_not_outlive_who_asked_for_it(own_cache: EngineCache) -> None:
    """The kernel signals the parent's end up to once per parent thread, while partial files are removed."""
    without(own_cache, "decoder")
    script = (
        "import sys, threading\n"
        "from tests.engine.test_warming import EngineCache, Path, start\n"
        "start(EngineCache(Path(sys.argv[1])))\n"
        "for _ in range(200):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "threading.Event().wait()\n"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", script, str(own_cache.root)], env=package_environment(), cwd=NANO.parents[1]
    )
    try:
        wait_until(lambda: half_made(own_cache), "something in the making")
    finally:
        asking.kill()
        asking.wait()
    wait_until(lambda: not makers(own_cache), "its end")
    assert half_made(own_cache) == []


def test_told_to_end_while_it_ends_it_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import signal, sys, threading\n"
        "from lens_ros.engine import background_build\n"
        "from tests.engine.test_cache import KEY, EngineCache, Path\n"
        "def build(*args, **kwargs):\n"
        "    with EngineCache(Path(sys.argv[1])).staging(KEY, 10) as made:\n"
        "        made.mkdir()\n"
        "        for number in range(5000):\n"
        "            (made / str(number)).touch()\n"
        "        print('at work', flush=True)\n"
        "        threading.Event().wait()\n"
        "background_build.build = build\n"
        "raise SystemExit(background_build.main(sys.argv[2]))\n"
    )
    job = json.dumps(
        {"folder": "", "backend": "", "precision": None, "cache": str(tmp_path), "for": os.getpid()}
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), job],
        env=package_environment(),
        cwd=NANO.parents[1],
        stdout=subprocess.PIPE,
    ) as making:
        assert making.stdout is not None and making.stdout.readline() == b"at work\n"
        deadline = time.monotonic() + TIMEOUT
        while making.poll() is None and time.monotonic() < deadline:
            making.terminate()
            time.sleep(0.001)
        making.kill()
    assert making.returncode == 128 + signal.SIGTERM
    assert half_made(EngineCache(tmp_path)) == []


def test_a_full_disk_is_told(own_cache: EngineCache, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        _, listener = start(EngineCache(disk))
        assert listener.over.wait(TIMEOUT)
        assert "MB free, the engine needs up to" in listener.failure
        assert "free space" in listener.failure and half_made(EngineCache(disk)) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
