"""Failing allocators are recognised, memory left behind is freed, and the message helps."""

from __future__ import annotations

import gc
import importlib
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_ros.engine.errors import EngineError
from lens_ros.system.memory import OutOfMemory, enough_memory, importing, is_out_of_memory


def wrapped() -> None:
    try:
        np.empty(1 << 60, np.uint8)
    except MemoryError as error:
        raise EngineError("the engine does not run") from error


def says(text: str) -> None:
    raise RuntimeError(text)


@pytest.mark.parametrize(
    "fails",
    [
        lambda: torch.empty(1 << 50),
        lambda: np.empty(1 << 60, np.uint8),
        lambda: bytearray(1 << 60),
        wrapped,
        lambda: says("CUDA error: out of memory"),
        lambda: says("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        lambda: says("Failed to allocate memory for requested buffer of size 2147483648"),
    ],
)
def test_allocators_that_fail_are_recognised(fails) -> None:
    with pytest.raises(
        OutOfMemory, match=r"^not enough memory for the work \(.*\); .* free now\. Do less\.$"
    ):
        with enough_memory("the work", "Do less."):
            fails()


def test_torchs_own_kind_is_recognised() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))


@pytest.mark.parametrize(
    "error", [ValueError("no mug"), RuntimeError("a kernel failed"), OSError(28, "full")]
)
def test_anything_else_passes_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        with enough_memory("the work", ""):
            raise error
    assert caught.value is error


def test_what_the_failure_holds_is_freed_before_anyone_tries_again() -> None:
    held: list[weakref.ref] = []

    def work() -> None:
        intermediate = np.zeros(10)
        held.append(weakref.ref(intermediate))
        wrapped()

    with pytest.raises(OutOfMemory) as caught:
        with enough_memory("the work", ""):
            work()
    assert caught.value.__cause__ is None and held[0]() is None


LIMITED = """
import resource
import numpy as np
from lens_ros.lens import Lens
from lens_ros.system.memory import OutOfMemory, enough_memory

def limit(extra):
    pages = int(open("/proc/self/statm").read().split()[0])
    size = pages * resource.getpagesize() + extra if extra else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

def attempt(what, work):
    limit(1 << 20)
    try:
        with enough_memory(what, "Do less."):
            work()
    except OutOfMemory as error:
        print(error)
    limit(0)

image = np.zeros((480, 640, 3), np.uint8)
attempt("the model", lambda: Lens.from_pretrained("lens-nano", backend="torch"))
lens = Lens.from_pretrained("lens-nano", backend="torch")
before = lens.segment(image, "the mug").answer
attempt("sixteen answers", lambda: lens.segment_all(image, ["the mug"] * 16))
print(lens.segment(image, "the mug").answer == before)
"""


def test_a_model_that_meets_the_limit_goes_on_afterwards() -> None:
    """This uses the real allocators and a limit of the operating system."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",  # gomp ends the process where it cannot start a thread
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    ran = subprocess.run([sys.executable, "-c", LIMITED], env=environment, capture_output=True, text=True)
    loading, asking, same = ran.stdout.splitlines()
    # Torch's allocator meets it, or Python's.
    told = r"(.*can't allocate memory.*|MemoryError)"
    assert re.fullmatch(rf"not enough memory for the model \({told}\); .* now\. Do less\.", loading), loading
    assert asking.startswith("not enough memory for sixteen answers (") and asking.endswith("Do less.")
    assert same == "True"


@pytest.mark.parametrize("enabled", [True, False])
def test_imports_pause_the_collector_and_are_exempt_from_it(
    enabled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported.py").write_text("import gc\npaused = not gc.isenabled()\nitself = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported", raising=False)
    (gc.enable if enabled else gc.disable)()
    try:
        with importing():
            imported = importlib.import_module("imported")
        assert imported.paused and gc.isenabled() is enabled
        assert not any(each is imported.itself for each in gc.get_objects())  # not looked through any more
        gc.unfreeze()
        assert any(each is imported.itself for each in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.enable()


def test_where_nothing_is_imported_nothing_becomes_exempt() -> None:
    before = gc.get_freeze_count()
    with importing():
        pass
    assert gc.isenabled() and gc.get_freeze_count() == before


def test_an_interrupted_import_exempts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_done.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half_done", raising=False)
    before = gc.get_freeze_count()
    with pytest.raises(KeyboardInterrupt):
        with importing():
            importlib.import_module("half_done")
            raise KeyboardInterrupt
    assert gc.isenabled() and gc.get_freeze_count() == before
