"""Start nodes as processes and drive them from Python where there is no `ros2 launch`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rclpy
import yaml
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters
from rclpy.executors import Executor
from rclpy.node import Node

from lens_ros.ros.endpoints import requests
from lens_ros.ros.workarounds.handshake import Handshake

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
SHUTDOWN_UNCONFIGURED, SHUTDOWN_INACTIVE, SHUTDOWN = (  # the last one from the state ACTIVE
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    Transition.TRANSITION_INACTIVE_SHUTDOWN,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
)
UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = (
    State.PRIMARY_STATE_UNCONFIGURED,
    State.PRIMARY_STATE_INACTIVE,
    State.PRIMARY_STATE_ACTIVE,
    State.PRIMARY_STATE_FINALIZED,
)

# DDSI-RTPS 2.5, 9.6.2.3: the port of unicast discovery of a domain's first participant on a machine.
FIRST_PORT, PORTS_PER_DOMAIN = 7410, 250
STACKS_S = 0.5  # for a process to write where its threads are
ABORT_S = 5.0  # the same, and to end then


class ProcessError(Exception):
    """A node's process ended, or did not do in time what it was asked."""


class NodeProcess:
    """A process `python -m MODULE` with ROS parameters, in its own session, with its output in a file.

    `parameters` go through YAML, so that types survive; `remappings` map topic names. A context manager that
    stops the process at its end.
    """

    def __init__(
        self,
        module: str,
        log: Path,
        *,
        parameters: Mapping[str, Any] | None = None,
        remappings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self.log_path = log
        arguments = ["--ros-args"]
        for name, value in (parameters or {}).items():
            written = (
                yaml.safe_dump(value, default_flow_style=True, width=1 << 20).removesuffix("...\n").strip()
            )
            arguments += ["-p", f"{name}:={written}"]
        for name, other in (remappings or {}).items():
            arguments += ["-r", f"{name}:={other}"]
        self._process = self._start(
            arguments, {**os.environ, "PYTHONFAULTHANDLER": "1", **(environment or {})}
        )

    def _start(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the process; its output goes to the log."""
        with self.log_path.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-u", "-m", self.module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C in the terminal then reaches only the parent, which ends its nodes in order.
                start_new_session=True,
            )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """All that the process has written so far."""
        return self.log_path.read_text(errors="replace")

    def check(self) -> None:
        """Raise `ProcessError`, with the end of the log, if the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise ProcessError(
                f"{self.module} ended with exit code {code}; the end of its log "
                f"({self.log_path}):\n{self.tail()}"
            )

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.splitlines()[-lines:])

    def stacks(self) -> str:
        """Return where each thread of a late process is.

        For nodes that dump their stacks on SIGUSR1, as `perception` does.
        """
        before = len(self.log)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(STACKS_S)
        return self.log[before:]

    def wait(self, timeout: float) -> int:
        """Return the exit status once the process has ended; raise `ProcessError` after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.module} did not end within {timeout:g} s:\n{self.tail()}") from None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def stop(self, ask: signal.Signals = signal.SIGINT, timeout: float = 20.0) -> int:
        """End the process and return its exit status.

        If asking does not help, its log says where each of its threads is, and it is killed.
        """
        if self._process.poll() is None:
            for request, patience in ((ask, timeout), (signal.SIGABRT, ABORT_S)):
                self._process.send_signal(request)
                try:
                    return self._process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
            self._process.kill()
        return self._process.wait()


class Driver:
    """A node that spins in the calling thread until a condition holds.

    Its clients stay, as those of a robot's lifecycle manager do: over one that is destroyed while the other
    node is about to acknowledge it, Fast DDS' discovery can lock itself up (docs/log/fast_dds_deadlock.md).
    """

    def __init__(self, node: Node, executor: Executor) -> None:
        self.node = node
        self.executor = executor
        self.processes: list[NodeProcess] = []  # whose end ends every wait
        self._clients: dict[str, Any] = {}  # by the service's name
        self._meeting: dict[str, Any] = {}  # by the node's name: the latest, made after all of the others

    def wait_until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Spin until `condition()`.

        Raises `ProcessError` after `timeout` seconds or when a process ends.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            for process in self.processes:
                process.check()
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"--- {p.module} ({p.log_path})\n{p.tail()}\n{p.stacks()}" for p in self.processes
                )
                raise ProcessError(f"{what} did not happen within {timeout:g} s\n{logs}")
            self.executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds: float) -> None:
        """Spin for a while."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def meet(self, node_name: str, timeout: float) -> None:
        """Wait until a node knows every client that this process has made so far (`Handshake`)."""
        self._meeting[node_name] = self._made(GetParameters, f"{node_name}/get_parameters")
        self._greet(node_name, timeout)

    def call(self, service_type: Any, name: str, request: Any, timeout: float) -> Any:
        """Return the response of a service, after waiting for the service; `name` is NODE/SERVICE."""
        node_name = name.rpartition("/")[0]
        if name not in self._clients:
            self._clients[name] = self._made(service_type, name)
            self.meet(node_name, timeout)
        else:
            self._greet(node_name, timeout)  # it may be another process by now
        client = self._clients[name]
        self.wait_until(client.service_is_ready, timeout, f"service {name}")
        future = client.call_async(request)
        try:
            self.wait_until(future.done, timeout, f"an answer of {name}")
        finally:
            client.remove_pending_request(future)
        return future.result()

    def change_state(self, node_name: str, transition: int, timeout: float = 120.0) -> bool:
        """Ask a lifecycle node for a transition; return whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, f"{node_name}/change_state", request, timeout).success

    def state(self, node_name: str, timeout: float = 30.0) -> int:
        """Return the state of a lifecycle node, such as `ACTIVE`."""
        return self.call(GetState, f"{node_name}/get_state", GetState.Request(), timeout).current_state.id

    def _made(self, service_type: Any, name: str) -> Any:
        return self.node.create_client(service_type, name, qos_profile=requests())

    def _greet(self, node_name: str, timeout: float) -> None:
        client = self._meeting[node_name]
        answered = Handshake(client, GetParameters.Request())
        self.wait_until(answered, timeout, f"an answer of {client.srv_name}")


def isolate(domain: int) -> None:
    """Separate this process, and those that it starts from now on, from every other ROS graph.

    Call before `rclpy.init`.
    """
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = (
        "LOCALHOST"  # Humble does not know it; there the domain must do
    )


def own_domain() -> int:
    """Return a free domain id of this machine, 1 to 99, or raise `ProcessError`."""
    for number in range(99):
        domain = (os.getpid() + number) % 99 + 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first_participant:
            try:
                first_participant.bind(("", FIRST_PORT + PORTS_PER_DOMAIN * domain))
            except OSError:
                continue  # somebody is there
        return domain
    raise ProcessError("every ROS_DOMAIN_ID from 1 to 99 is in use on this machine; end some ROS programs")


def end_ros() -> None:
    """Shut rclpy down if it is up."""
    if rclpy.ok():
        rclpy.try_shutdown()
