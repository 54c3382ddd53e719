"""Freed memory is returned to the system from any heap, and memory in use is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from lens_ros.system.allocator import native_bytes

# In a process of its own: the limits stay. Two threads have two heaps; when a thread has freed all of its
# blocks, they are the end of its heap.
FREED = """
import threading
from pathlib import Path
import numpy as np
from lens_ros.system.allocator import limit_heaps, trim_heaps

def own_mb():
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(rollup.split("Anonymous:")[1].split()[0]) * 1024e-6

def work():
    kept.append(np.ones(1000, np.uint8))
    blocks = [np.ones(5_000_000, np.uint8) for _ in range(8)]
    del blocks[::2]  # between others
    trim_heaps()
    measured.append(own_mb())
    blocks.clear()  # behind the last one that is kept
    trim_heaps()
    measured.append(own_mb())
    worked.release()
    ended.wait()

kept, measured, worked, ended = [], [], threading.Semaphore(0), threading.Event()
limit_heaps()
trim_heaps()
before = own_mb()
for _ in range(2):
    threading.Thread(target=work).start()
    worked.acquire()
print([round(now - before, 1) for now in measured])
ended.set()
"""

# What memory there is left is too little for a thread's stack.
WITHOUT_THREADS = """
import resource, threading
from pathlib import Path
from lens_ros.system.allocator import limit_heaps, trim_heaps

limit_heaps()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 20), most))
try:
    threading.Thread(target=print, args=["a thread"]).start()
except RuntimeError as error:
    print(error)
trim_heaps()
resource.setrlimit(resource.RLIMIT_AS, (most, most))
trim_heaps()
print("goes on")
"""


def run(program: str) -> str:
    root = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_without_a_thread_to_be_had_trimming_ends_as_well() -> None:
    assert run(WITHOUT_THREADS).splitlines() == ["can't start new thread", "goes on"]


def test_freed_memory_goes_back_from_between_blocks_and_from_the_ends_of_all_heaps() -> None:
    half, none, half_again, none_again = map(float, run(FREED).strip("[]\n").split(","))
    assert half > 15 and half_again > 15
    assert none < 2 and none_again < 2


def test_native_memory_is_what_is_allocated_and_not_freed() -> None:
    for size in (1 << 20, 40 << 20):  # a block of a heap, and one with memory of its own
        before = native_bytes()
        block = np.empty(size, np.uint8)
        assert size <= native_bytes() - before < size + (1 << 18)
        del block
        assert abs(native_bytes() - before) < 1 << 18
