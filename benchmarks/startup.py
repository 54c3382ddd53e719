"""Measure what a user waits for at the start of a process, in seconds of CPU and wall-clock time.

    python -m benchmarks.startup [--runs 5] [--only help segment] [--json out/startup.json]
    python -m benchmarks.startup --imports          # also the twenty most expensive imports of each

- help: `lens --help`.
- segment-help: `lens segment --help`.
- segment: `lens segment` with lens-nano on a picture that comes with the package.
- import: `import lens_ros.lens` in a new interpreter.
- node: the node `perception` from the start of its process to the state active (lens-nano, torch, no engines
  to build). Needs ROS 2; skipped without it.

Each number is the median of `--runs` runs. One run before them is not counted, because it writes bytecode and
fills the page cache. CPU seconds are user and system time of all threads of the process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from benchmarks.steadiness import processor_seconds

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "lens_ros" / "engine" / "pictures" / "tabletop0.jpg"
QUESTION = "the leftmost mug"
NODE_MODULE = "lens_ros.nodes.perception.node"
NODE = {"model": "lens-nano", "backend": "torch", "build_engines": False, "autostart": True}
ACTIVE = "active: images from"  # logged by the node after activation
START_S = 120.0  # longest wait for it
IMPORTS = 20
_IMPORT_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \| +(\S+)")


@dataclass(frozen=True)
class Start:
    """CPU and wall-clock seconds of one start."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Import:
    """An imported module: microseconds in its own code, and including everything that it imported first."""

    module: str
    own_us: int
    total_us: int


def commands(out: Path) -> dict[str, list[str]]:
    """Return the Python arguments of each start that ends by itself; `out` is a folder for its files."""
    lens = ["-m", "lens_ros.cli"]
    return {
        "help": [*lens, "--help"],
        "segment-help": [*lens, "segment", "--help"],
        "segment": [*lens, "segment", str(PICTURE), QUESTION, "--backend", "torch", "--out", str(out)],
        "import": ["-c", "import lens_ros.lens"],
    }


def environment() -> dict[str, str]:
    """Return the environment of the measured processes: the sources of this checkout, bytecode allowed."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": paths}


def run_command(arguments: list[str]) -> Start:
    """Run Python with `arguments` to its end.

    Raises:
        RuntimeError: The exit status is not 0 or 1 (1: `lens segment` found nothing).
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"python {' '.join(arguments)} ended with exit status {process.returncode}")
    return Start(usage.ru_utime + usage.ru_stime, wall_s)


def run_node(log: Path, *, profile_imports: bool = False) -> Start:
    """Start the node in a separate ROS domain, wait until it is active, and end it.

    Raises:
        ProcessError: The node ended, or was not active in time.
    """
    from lens_ros.ros.driver import NodeProcess, ProcessError, isolate, own_domain

    isolate(own_domain())
    variables = {**environment(), "PYTHONPROFILEIMPORTTIME": "1" if profile_imports else ""}
    with tempfile.TemporaryDirectory() as engines:
        started = time.perf_counter()
        parameters = {**NODE, "engine_cache_dir": engines}
        with NodeProcess(NODE_MODULE, log, parameters=parameters, environment=variables) as process:
            while ACTIVE not in process.log:
                process.check()
                if time.perf_counter() - started > START_S:
                    raise ProcessError(f"the node was not active within {START_S:g} s:\n{process.tail()}")
                time.sleep(0.02)
            return Start(processor_seconds(process.pid), time.perf_counter() - started)


def most_expensive(lines: Iterable[str], count: int = IMPORTS) -> list[Import]:
    """Return the imports that took longest by themselves, from the output of `python -X importtime`."""
    found = [
        Import(match[3], int(match[1]), int(match[2]))
        for line in lines
        if (match := _IMPORT_LINE.match(line))
    ]
    return sorted(found, key=lambda each: each.own_us, reverse=True)[:count]


def imports_of(arguments: list[str]) -> list[Import]:
    """Return the most expensive imports of Python with `arguments`."""
    command = [sys.executable, "-X", "importtime", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    return most_expensive(run.stderr.splitlines())


def imports_of_node(log: Path) -> list[Import]:
    """Return the most expensive imports of the node up to the state active."""
    run_node(log, profile_imports=True)
    return most_expensive(log.read_text(errors="replace").splitlines())


def measure(starts: dict[str, Callable[[], Start]], runs: int) -> dict[str, Start]:
    """Return the median of each start. The starts take turns; the first turn is not counted."""
    taken: dict[str, list[Start]] = {name: [] for name in starts}
    with tqdm(total=len(starts) * (runs + 1), leave=False) as progress:
        for turn in range(runs + 1):
            for name, start in starts.items():
                progress.set_description(name)
                result = start()
                if turn > 0:
                    taken[name].append(result)
                progress.update()
    return {
        name: Start(
            statistics.median(each.cpu_s for each in results),
            statistics.median(each.wall_s for each in results),
        )
        for name, results in taken.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [*commands(Path()), "node"]
    parser.add_argument("--runs", type=int, default=5, help="of each start, after one that is not counted")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="START", help=str(names))
    parser.add_argument("--imports", action="store_true", help="also print the most expensive imports")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs is {options.runs}; expected 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        starts: dict[str, Callable[[], Start]] = {}
        imports: dict[str, Callable[[], list[Import]]] = {}
        for name, arguments in commands(out).items():
            starts[name] = partial(run_command, arguments)
            imports[name] = partial(imports_of, arguments)
        if importlib.util.find_spec("rclpy") is not None:
            starts["node"] = partial(run_node, out / "node.log")
            imports["node"] = partial(imports_of_node, out / "node.log")
        elif "node" in options.only:
            print("node: left out, ROS 2 is not in this environment (. ./env.sh)", file=sys.stderr)
        starts = {name: start for name, start in starts.items() if name in options.only}
        found = measure(starts, options.runs)
        profiles = {name: imports[name]() for name in starts} if options.imports else {}
    print(f"{'start':14}{'CPU s':>8}{'wall s':>8}   median of {options.runs}")
    for name, start in found.items():
        print(f"{name:14}{start.cpu_s:8.2f}{start.wall_s:8.2f}")
    for name, modules in profiles.items():
        print(f"\n{name}: own ms, ms with what it imports first, module")
        for each in modules:
            print(f"{each.own_us / 1e3:9.1f}{each.total_us / 1e3:9.1f}  {each.module}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        numbers = {
            "seconds": {name: asdict(start) for name, start in found.items()},
            "imports": {name: [asdict(each) for each in modules] for name, modules in profiles.items()},
        }
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
