"""Nodes as processes: error reports when one ends, its start arguments, and concurrent requests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml
from rcl_interfaces.srv import GetParameters
from ros_graph import TIMEOUT

from lens_ros.ros import driver
from lens_ros.ros.driver import NodeProcess, ProcessError

ROOT = Path(__file__).resolve().parents[2]


def test_a_process_that_ends_is_reported_with_its_log(tmp_path):
    process = NodeProcess("lens_ros.no_such_module", tmp_path / "log")
    assert process.wait(60) != 0
    with pytest.raises(ProcessError, match=r"ended with exit code 1[\s\S]*No module named"):
        process.check()


def test_a_process_that_does_not_end_says_where_it_is(tmp_path):
    (tmp_path / "deaf.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )

    def started(log: str) -> NodeProcess:
        process = NodeProcess("deaf", tmp_path / log, environment={"PYTHONPATH": str(tmp_path)})
        while "up" not in process.log:
            process.check()
        return process

    deaf = started("log")
    assert deaf.stop(timeout=0.1) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in deaf.log and 'deaf.py", line 4' in deaf.log
    frozen = started("log of another")
    frozen.send(signal.SIGSTOP)
    while "T (stopped)" not in Path(f"/proc/{frozen.pid}/status").read_text():
        pass
    assert frozen.stop(timeout=0.1) == -signal.SIGKILL


def test_parameters_keep_their_types_on_the_command_line(tmp_path, monkeypatch):
    started: list[list[str]] = []

    class Started:
        def __init__(self, command, **options):
            started.append(command)

    monkeypatch.setattr(driver.subprocess, "Popen", Started)
    values = {"text": "yes", "number": 1.0, "count": 3, "flag": True, "empty": "", "long": "the mug: " * 40}
    NodeProcess("module", tmp_path / "log", parameters=values, remappings={"image": "/camera/image"})
    arguments = started[0][started[0].index("--ros-args") + 1 :]
    pairs = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert pairs["-r"] == "image:=/camera/image"
    given = [
        text.split(":=", 1)
        for flag, text in zip(arguments[::2], arguments[1::2], strict=True)
        if flag == "-p"
    ]
    assert {name: yaml.safe_load(text) for name, text in given} == values


def test_a_driver_keeps_its_clients_and_asks_whoever_has_the_name_now(graph):
    kept = []
    for rate in (3.0, 4.0):
        camera = graph.launch("camera", {"source": str(ROOT / "demo" / "tabletop"), "rate": rate})
        for _ in range(2):
            request = GetParameters.Request(names=["rate"])
            told = graph.call(GetParameters, "camera/get_parameters", request, TIMEOUT)
            assert told.values[0].double_value == rate
        graph.stop(camera)
        kept.append(list(graph.node.clients))
    assert kept[0] == kept[1] and len(kept[0]) == 2  # one for the question, one to meet the node
