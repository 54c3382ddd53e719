"""ROS programs as a user starts and ends them: help, refusals, log folders, signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
from ros_graph import START_TIMEOUT

from lens_ros import interrupts
from lens_ros.client import BlockingLensClient, LensError
from lens_ros.ros import command_line, starting
from lens_ros.ros.command_line import ENDED, UNUSABLE
from lens_ros.ros.driver import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    SHUTDOWN_UNCONFIGURED,
    NodeProcess,
)
from lens_ros.ros.starting import StartError

ROOT = Path(__file__).resolve().parents[2]
NODES = ("perception", "camera")
BAG = str(ROOT / "demo" / "tabletop")


def script(node: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program of a node to its end."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{node}_node"), *arguments],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("node", NODES)
def test_help_is_printed_before_anything_heavy_is_imported(node):
    program = (
        "import sys; from lens_ros.ros.command_line import run\n"
        f"sys.argv = ['x', '--help']\ntry: run('{node}')\n"
        "except SystemExit as end: print(end.code, *{'rclpy', 'numpy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith(f"usage: {node}_node") and f"config/{node}.yaml" in done.stdout
    assert done.stdout.splitlines()[-1] == "0", "it has imported something else"
    shown = script(node, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert done.stdout.startswith(shown.stdout)


@pytest.mark.parametrize("node", NODES)
def test_what_is_no_ros_argument_is_refused(node):
    done = script(node, "autostart:=true")
    assert done.returncode == UNUSABLE
    assert "unknown arguments: autostart:=true; parameters and remappings follow --ros-args" in done.stderr


def test_ros_arguments_are_told_from_others():
    given = ["-x", "--ros-args", "-p", "a:=1", "--", "y", "--ros-args", "-r", "b:=c"]
    assert command_line.without_ros_arguments(given) == ["-x", "y"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--params-file", "/absent.yaml"], "'--params-file /absent.yaml'"),
        (["--log-level", "camera:=loud"], "'--log-level camera:=loud'"),
        (["-p", "rate"], "'-p rate'"),
        (["--rate", "2"], "unknown arguments ['--rate'"),
    ],
)
def test_bad_ros_arguments_get_one_message(arguments, said, graph):
    done = script("camera", "--ros-args", *arguments)
    assert done.returncode == UNUSABLE
    fatal = [line for line in done.stderr.splitlines() if "[FATAL]" in line]
    assert len(fatal) == 1 and "cannot start ROS" in fatal[0] and said in fatal[0]
    assert "Traceback" not in done.stderr


# Log folders ----------------------------------------------------------------------------------------------

NO_FOLDER = "/proc/no_such_folder"  # where not even root can make one
SAID = f"cannot write log files to {NO_FOLDER}: "


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ROS_LOG_DIR": NO_FOLDER}, SAID),
        ({"ROS_LOG_DIR": "", "ROS_HOME": NO_FOLDER}, f"cannot write log files to {NO_FOLDER}/log: "),
        ({"ROS_LOG_DIR": "", "HOME": NO_FOLDER}, f"cannot write log files to {NO_FOLDER}/.ros/log: "),
        ({"ROS_LOG_DIR": "", "HOME": ""}, "cannot write log files: HOME is not set"),
        ({"ROS_LOG_DIR": "~/logs", "HOME": NO_FOLDER}, f"cannot write log files to {NO_FOLDER}/logs: "),
    ],
)
def test_a_log_folder_that_cannot_be_written_is_found_as_rcl_finds_it(environment, said, monkeypatch):
    monkeypatch.delenv("ROS_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    objection = starting.log_folder_objection()
    assert objection.startswith(said) and "Set ROS_LOG_DIR to a folder that can be written" in objection
    # rcl, too, refuses this environment.
    refused = subprocess.run(
        [sys.executable, "-c", "import rclpy; rclpy.init()"], capture_output=True, text=True
    )
    assert refused.returncode == 1 and "failed to initialize logging" in refused.stderr


def test_a_log_folder_that_can_be_written_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "new" / "logs"))
    assert starting.log_folder_objection() == ""
    assert not any((tmp_path / "new" / "logs").iterdir())


@pytest.mark.parametrize("node", NODES)
def test_a_node_goes_on_without_log_files(node, graph):
    environment = {"ROS_LOG_DIR": NO_FOLDER}
    parameters = {"source": BAG} if node == "camera" else {}
    process = graph.launch(node, parameters, environment=environment)
    graph.wait_for_log(process, "[WARN]", SAID)
    graph.wait_for_log(process, "playing" if node == "camera" else "waits to be configured")
    assert graph.stop(process) == ENDED
    assert process.log.count("cannot write log files") == 1 and "Traceback" not in process.log


def test_lens_watch_and_clients_go_on_without_log_files(graph):
    environment = {**os.environ, "ROS_LOG_DIR": NO_FOLDER}
    watch = [sys.executable, "-m", "lens_ros.cli", "watch", "--once", "--node", "nobody", "--wait", "0.5"]
    done = subprocess.run(watch, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and SAID in done.stderr and "lens watch: " in done.stderr
    client = "from lens_ros.client import BlockingLensClient\nwith BlockingLensClient(): pass"
    done = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and SAID in done.stderr and "Traceback" not in done.stderr


def test_a_client_in_a_program_with_bad_ros_arguments_says_so(graph, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mine", "--ros-args", "-p", "nonsense"])
    with pytest.raises(LensError, match="cannot start ROS: .*'-p nonsense'"):
        BlockingLensClient()
    monkeypatch.setattr(sys, "argv", ["mine"])
    context = rclpy.Context()
    with pytest.raises(StartError, match="unknown arguments"):
        starting.init(["--ros-args", "--nonsense"], context=context)


# Lifecycle ------------------------------------------------------------------------------------------------


def test_a_node_that_was_started_by_hand_says_what_it_waits_for(graph):
    process = graph.launch("perception", {}, remappings={"__ns": "/robot", "__node": "eyes"})
    line = graph.wait_for_log(process, "[INFO]", "waits to be configured")
    assert "ros2 lifecycle set /robot/eyes configure" in line and "autostart:=true" in line
    assert graph.stop(process) == ENDED


def test_every_transition_is_logged(graph, checkpoint):
    process = graph.launch("perception", {"model": str(checkpoint)}, remappings={"__node": "walker"})
    graph.wait_for_log(process, "waits to be configured")
    said = {
        CONFIGURE: r"model '.*' loaded on cpu",
        ACTIVATE: "active: images from /image",
        DEACTIVATE: "deactivated: ",
        CLEANUP: "cleaned up: ",
        SHUTDOWN_UNCONFIGURED: "shut down: ",
    }
    for transition, line in said.items():
        before = len(process.log)
        assert graph.change_state("walker", transition, START_TIMEOUT)
        graph.wait_until(lambda: re.search(line, process.log[before:]), START_TIMEOUT, line)  # noqa: B023
        expected = 2 if transition == CONFIGURE else 1  # one line as loading begins
        assert process.log[before:].count("[INFO]") == expected, process.log[before:]
    assert graph.stop(process) == ENDED


# Signals --------------------------------------------------------------------------------------------------


def hammer(process: subprocess.Popen, number: signal.Signals) -> int:
    """Send a signal repeatedly until the process has ended; return its exit status."""
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None:
        assert time.monotonic() < deadline
        process.send_signal(number)
        time.sleep(0.01)
    return process.returncode


@pytest.mark.parametrize("number", interrupts.ENDING)
@pytest.mark.parametrize("node", NODES)
def test_more_signals_do_not_change_the_end_of_a_node(node, number, graph):
    """A real interpreter is needed: signals are fatal in its last milliseconds."""
    parameters = {"source": BAG} if node == "camera" else {}
    process = graph.launch(node, parameters, kind=NodeProcess)
    graph.wait_for_log(process, "playing" if node == "camera" else "waits to be configured")
    graph.processes.remove(process)
    assert hammer(process._process, number) == ENDED
    assert "Traceback" not in process.log


@pytest.mark.parametrize(
    ("command", "ready", "status", "said"),
    [
        (["lens_ros.cli", "watch", "--node", "nobody", "--wait", "600"], "", 0, ""),
        (["lens_ros.cli", "segment", "PICTURE", "the red bottle"], "", interrupts.INTERRUPTED, "interrupted"),
        (
            ["lens_ros.commands.demo", "--ask", "the red bottle", "--out", "OUT"],
            "nodes `camera` and `perception`",
            interrupts.INTERRUPTED,
            "interrupted",
        ),
    ],
    ids=["watch", "segment", "demo"],
)
def test_more_signals_do_not_change_the_end_of_a_program(
    command, ready, status, said, graph, pictures, tmp_path
):
    places = {"PICTURE": str(pictures / "0.png"), "OUT": str(tmp_path / "out")}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", *(places.get(part, part) for part in command)],
            stdout=output,
            stderr=subprocess.STDOUT,
            # As in a terminal, even where these tests run in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    handled = re.compile(r"SigCgt:\s+([0-9a-f]+)")
    # Once it handles the signal, and has said so where it says something.
    while True:
        assert process.poll() is None, log.read_text()
        caught = int(handled.findall(Path(f"/proc/{process.pid}/status").read_text())[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1 and ready in log.read_text():
            break
        time.sleep(0.02)
    time.sleep(1.0)  # in the middle of what it does
    assert hammer(process, signal.SIGINT) == status, log.read_text()
    assert said in log.read_text() and "Traceback" not in log.read_text()


def test_an_interruption_within_exec_does_not_change_the_exit_status(tmp_path):
    (tmp_path / "interrupted.py").write_text(
        "import signal\n"
        "from lens_ros import interrupts\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "try:\n"
        "    with interrupts.raised_once():\n"
        "        exec('import signal; signal.raise_signal(signal.SIGINT)')\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(interrupts.INTERRUPTED)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "interrupted"]
    assert subprocess.run(command, env=environment).returncode == interrupts.INTERRUPTED


def test_an_interruption_that_is_lost_can_be_repeated(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: clock[0])
    before = [signal.getsignal(number) for number in interrupts.ENDING]
    try:
        with interrupts.raised_once():
            for at, raises in ((0.0, True), (1.0, False), (interrupts.REPEAT_S + 1, True)):
                clock[0] = at
                if raises:
                    with pytest.raises(KeyboardInterrupt):
                        os.kill(os.getpid(), signal.SIGTERM)
                else:
                    os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in zip(interrupts.ENDING, before, strict=True):
            signal.signal(number, handler)


def test_handlers_are_restored_where_no_signal_came():
    before = [signal.getsignal(number) for number in interrupts.ENDING]
    with interrupts.raised_once():
        assert [signal.getsignal(number) for number in interrupts.ENDING] != before
    assert [signal.getsignal(number) for number in interrupts.ENDING] == before


def test_a_signal_that_is_ignored_from_the_start_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.raised_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
