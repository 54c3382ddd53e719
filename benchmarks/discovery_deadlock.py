"""Provoke the deadlock of Fast DDS' discovery (docs/log/fast_dds_deadlock.md): does the node end by itself?

    python -m benchmarks.discovery_deadlock [--seconds 600] [--age-ms 72]

Three real processes over DDS. Participants with a lease of 150 ms keep the node's timer thread busy checking
them. This program creates clients of one of the node's services. It destroys them when they are as old as
Fast DDS' first acknowledgement to them (70 ms after they were found). The deadlock takes from seconds to many
minutes, and may not occur at all. It is more likely on a machine that is busy with something else as well.

Exit status: 0 if the node became deaf and ended with status 1 and the place where it hung, 1 if it became
deaf and did not end so, 2 if it did not become deaf.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from tqdm import tqdm

from lens_ros.ros import process
from lens_ros.ros.driver import Driver, NodeProcess, ProcessError, isolate, own_domain
from lens_ros.ros.middleware import PROFILE_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
HANG_TIMEOUT_S = 5.0
ANSWER_S = 15.0  # the node is deaf if it does not answer for so long
CLIENTS = 20  # number that exist at a time
NEIGHBOURS = 15
SERVICE = "perception/get_state"
PROFILE = """<?xml version="1.0" encoding="UTF-8" ?>
<profiles xmlns="http://www.eprosima.com">
  <participant profile_name="short_lease" is_default_profile="true">
    <rtps><builtin><discovery_config>
      <leaseDuration><nanosec>150000000</nanosec></leaseDuration>
      <leaseAnnouncement><nanosec>50000000</nanosec></leaseAnnouncement>
    </discovery_config></builtin></rtps>
  </participant>
</profiles>
"""


def churn(driver: Driver, age_s: float) -> None:
    """Create clients and destroy each at a certain age."""
    clients: list[tuple[float, Any]] = []
    for _ in range(CLIENTS):
        clients.append((time.monotonic(), driver.node.create_client(GetState, SERVICE)))
        time.sleep(0.001)
    for born, client in clients:
        time.sleep(max(0.0, born + age_s + random.uniform(-0.003, 0.003) - time.monotonic()))
        driver.node.destroy_client(client)


def until_deaf(driver: Driver, seconds: float, age_s: float) -> bool:
    """Return whether the node became deaf in this time."""
    asking: Any = driver.node.create_client(GetState, SERVICE)
    driver.wait_until(asking.service_is_ready, 60.0, SERVICE)
    began, shown = time.monotonic(), 0
    with tqdm(total=int(seconds), unit="s") as bar:
        while shown < seconds:
            for _ in range(10):
                churn(driver, age_s)
            answer = asking.call_async(GetState.Request())
            try:
                driver.wait_until(answer.done, ANSWER_S, "an answer")
            except ProcessError:
                return True
            passed = int(time.monotonic() - began)
            bar.update(passed - shown)
            shown = passed
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--age-ms", type=float, default=72.0)
    options = parser.parse_args()
    isolate(own_domain())
    for name in (PROFILE_VARIABLE, "RMW_FASTRTPS_USE_QOS_FROM_XML"):
        os.environ.pop(name, None)
    rclpy.init(args=[])
    node = rclpy.create_node("discovery_deadlock")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    folder = Path(tempfile.mkdtemp(prefix="discovery_deadlock_"))
    (folder / "short_lease.xml").write_text(PROFILE)
    environment = {**os.environ, PROFILE_VARIABLE: str(folder / "short_lease.xml")}
    perception = NodeProcess(
        "lens_ros.nodes.perception.node", folder / "log", parameters={"hang_timeout_s": HANG_TIMEOUT_S}
    )
    command = [sys.executable, "-m", "benchmarks.processes.neighbours", str(NEIGHBOURS)]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as neighbours, perception:
        try:
            if not until_deaf(Driver(node, executor), options.seconds, options.age_ms / 1e3):
                print(f"not deaf within {options.seconds:.0f} s")
                return 2
            try:
                status = perception.wait(process.TOUCH_PERIOD_S + 2 * HANG_TIMEOUT_S)
            except ProcessError as error:
                print(f"deaf, and it has not ended: {error}")
                return 1
        finally:
            neighbours.kill()
    ended = status == 1 and "in _touch_middleware" in perception.log
    place = "where" if ended else "but not where"
    print(f"deaf; exit status {status}, {place} it hung is in {folder / 'log'}")
    return 0 if ended else 1


if __name__ == "__main__":
    sys.exit(main())
