"""Run hours of a robot's day in fast motion: does `perception` keep its memory, handles and speed?

    python -m benchmarks.soak [--minutes 120] [--out out/soak]        # or: make soak

Real processes over DDS: a camera (the recording, eight times as fast), the node with lens-nano and tracking,
and this program. In rounds of 24 seconds it does in random order what clients do: set, add, remove and clear
instructions by service and by topic; send goals and cancel them at any stage; send requests; start and end
clients, killing some of them; subscribe to pictures and unsubscribe; disable and enable the stream;
deactivate and activate the node. After each round everything is as it was at the beginning, camera images
stop for 37 seconds, and a sample is taken: memory, open handles, threads, latencies of the round.

The test holds if, from the first third after warming up to the last third,
- own (anonymous) memory, the part of it that is native memory in use, and the number of Python's objects grow
  by less than 1 %, each as the median of its third; shared memory, which Fast DDS fills up to the size in
  config/fastdds.xml, is bounded,
- the number of open handles and of threads stays the same,
- latencies do not drift: the lower bound of a 95 % interval (bootstrap over rounds) of the ratio of medians,
  divided by that of a reference outside the node (a camera's parameters), is at most 1.15.

The report also shows the CPU time that each process took in a round, and the time of a fixed piece of work at
rest.

The events are in `day`, the criteria in `steadiness`. Writes soak.json and soak.png into the folder. Exit
status 1 if the test does not hold (`--no-latency`: whatever the latencies, for machines whose load changes).
If gdb is installed and the run ends early, native_stacks.txt is written there too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from benchmarks.day import Day, Observer
from benchmarks.steadiness import Sample, judged, plot, processor_seconds, sample, surroundings
from lens_ros.ros.driver import ACTIVATE, CONFIGURE, Driver, NodeProcess, isolate, own_domain

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = {
    "tracking": True,
    "reasoner_interval_s": 0.5,
    "log_interval_s": 60.0,
    "build_engines": False,
    "hang_timeout_s": 0.0,  # a process that hangs stays, so that it can be inspected
}
CAMERA = {"source": str(ROOT / "demo" / "tabletop"), "rate": 8.0}
ROUND_S = 24.0  # duration of activity
# Pause before a sample. By then results of goals have expired (goals.py: 15 s), and the heaps were trimmed
# after that (process.py: every 20 s). Otherwise a sample depends on how busy the last seconds were, by up to
# 30 MB.
REST_S = 37.0


def run(minutes: float, out: Path, seed: int) -> tuple[list[Sample], dict[str, int], str]:
    """Run the whole day.

    Ctrl-C also ends it early, which is not a failure of the node.

    Returns:
        A sample for each round, the number of each kind of event, and the reason why it ended early.
    """
    isolate(own_domain())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)  # rclpy's handlers would hide Ctrl-C
    executor = SingleThreadedExecutor()
    node: Node = rclpy.create_node("soak")
    executor.add_node(node)
    driver = Driver(node, executor)
    out.mkdir(parents=True, exist_ok=True)
    logs = Path(tempfile.mkdtemp(prefix="soak_"))
    camera = NodeProcess("lens_ros.nodes.camera.node", logs / "camera.log", parameters=CAMERA)
    perception = NodeProcess("lens_ros.nodes.perception.node", logs / "perception.log", parameters=PARAMETERS)
    samples: list[Sample] = []
    failure = ""
    with camera, perception:
        driver.processes = [camera, perception]
        assert driver.change_state("perception", CONFIGURE) and driver.change_state("perception", ACTIVATE)
        observer = Observer()
        day = Day(driver, observer, seed)
        day.begin()
        pids = {"perception": perception.pid, "camera": camera.pid, "soak": os.getpid()}

        def processor() -> dict[str, float]:
            return {name: processor_seconds(pid) for name, pid in pids.items()}

        started = time.monotonic()
        bar = tqdm(
            total=round(minutes, 1), unit="min", bar_format="{l_bar}{bar}| {n:.1f}/{total} min{postfix}"
        )
        try:
            while (now := (time.monotonic() - started) / 60) < minutes:
                taken = processor()
                day.round(ROUND_S)
                taken = {name: after - taken[name] for name, after in processor().items()}
                with day.rest(REST_S):
                    last = sample(perception.pid, now, observer.told, observer.take(), taken)
                samples.append(last)
                bar.n = round(now, 1)
                bar.set_postfix_str(
                    f", {last.anonymous_mb:.1f} MB, {last.handles} handles, {last.threads} threads, "
                    f"{last.p50.get('followed', 0):.0f} ms"
                )
        except KeyboardInterrupt:
            failure = "interrupted"
        except Exception:  # keep what was measured until then
            failure = traceback.format_exc()
            native_stacks(perception.pid, out / "native_stacks.txt")
        finally:
            bar.close()
            day.end_visit()
            (out / "perception.log").write_text(perception.log)
            observer.close()
        if "Traceback" in perception.log:
            failure += f"an internal error of the node: see {out / 'perception.log'}"
    rclpy.try_shutdown()
    return samples, day.counts, failure


def native_stacks(pid: int, file: Path) -> None:
    """Write where the threads of a process are in native libraries, which Python cannot show; needs gdb."""
    gdb = shutil.which("gdb")
    if gdb is not None:
        command = [gdb, "-p", str(pid), "-batch", "-ex", "thread apply all backtrace"]
        with file.open("w") as output, contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=300)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--growth", type=float, default=1.0, help="most growth of memory, in percent")
    parser.add_argument("--no-latency", action="store_true", help="latencies are reported, not judged")
    options = parser.parse_args()
    samples, counts, failure = run(options.minutes, options.out, options.seed)
    if not samples:
        print(failure, file=sys.stderr)
        return 1
    verdicts = judged(samples, growth=options.growth / 100, latency=not options.no_latency)
    report = {
        "minutes": samples[-1].minutes,
        "minutes asked for": options.minutes,
        "events": counts,
        "failure": failure,
        "verdicts": [asdict(each) for each in verdicts],
        "beside": [asdict(each) for each in surroundings(samples)],
        "samples": [asdict(each) for each in samples],
    }
    (options.out / "soak.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(samples, options.out / "soak.png")
    print(f"{len(samples)} rounds, " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
    print(f"{'':24}{'first third':>12}{'last third':>12}")
    for each in [*verdicts, *surroundings(samples)]:
        print(
            f"{each.name:24}{each.first:12.1f}{each.last:12.1f}  {each.change}"
            + ("" if each.holds else "   DOES NOT HOLD")
        )
    if failure:
        print(f"after {samples[-1].minutes:.1f} minutes: {failure}", file=sys.stderr)
    return 0 if all(each.holds for each in verdicts) and not failure else 1


if __name__ == "__main__":
    sys.exit(main())
