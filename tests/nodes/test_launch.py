"""The launch files: for real where launch_ros can be imported, otherwise what can be seen without it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
FILES = ("perception.launch.py", "demo.launch.py")


def literal_dictionary_keys(path: Path, name: str) -> list[str]:
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == name:
            assert isinstance(statement.value, ast.Dict)
            return [ast.literal_eval(key) for key in statement.value.keys if key is not None]
    raise AssertionError(f"{path} has no {name}")


@pytest.mark.parametrize("name", FILES)
def test_the_file_compiles_and_declares_its_arguments_at_top_level(name):
    source = (LAUNCH / name).read_text()
    compile(source, name, "exec")
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    declaring = ast.unparse(functions["generate_launch_description"])
    assert "DeclareLaunchArgument" in declaring and "ARGUMENTS.items()" in declaring


def test_perception_declares_what_the_documentation_names():
    assert set(literal_dictionary_keys(LAUNCH / FILES[0], "ARGUMENTS")) >= {
        "namespace", "params_file", "image_topic", "instruction_topic", "autostart", "fastdds_profile",
        "log_level", "use_sim_time", "model",
    }  # fmt: skip


def test_the_demo_hands_on_only_arguments_that_perception_declares():
    of_perception = set(literal_dictionary_keys(LAUNCH / FILES[0], "ARGUMENTS"))
    assert set(literal_dictionary_keys(LAUNCH / FILES[1], "ARGUMENTS")) - {"source", "rate"} <= of_perception


# As distributions since Kilted read it.
PROFILE = ("FASTDDS_DEFAULT_PROFILES_FILE", "RMW_FASTRTPS_USE_QOS_FROM_XML")

PROGRAM = """
import os
import signal
import sys
from pathlib import Path
from launch import LaunchDescription, LaunchService
from launch.actions import EmitEvent, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessIO, OnProcessStart
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, ready, lives, *arguments = sys.argv[1:]
told = []

def stop_when_ready(event):
    if ready in event.text.decode(errors="replace"):
        told.append(event)
        if len(told) < int(lives):
            os.kill(event.pid, signal.SIGKILL)
        elif len(told) == int(lives):  # launch_ros bears one shutdown
            return EmitEvent(event=Shutdown(reason="ready"))

def tell_profile(event, context):
    given = Path(f"/proc/{event.pid}/environ").read_text().split(chr(0))
    print("profile:", *sorted(each for each in given if each.startswith(("FASTDDS_", "RMW_FASTRTPS_"))))

service = LaunchService()
service.include_launch_description(LaunchDescription([
    RegisterEventHandler(OnProcessStart(on_start=tell_profile)),
    RegisterEventHandler(OnProcessIO(on_stdout=stop_when_ready, on_stderr=stop_when_ready)),
    IncludeLaunchDescription(
        PythonLaunchDescriptionSource(path), launch_arguments=[a.split(":=", 1) for a in arguments]
    ),
]))
sys.exit(service.run())
"""


@pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None, reason="launch_ros is not installed (the wheels lack it)"
)
@pytest.mark.parametrize(
    ("name", "ready", "lives", "arguments"),
    [
        (
            "perception.launch.py",
            "active: images from /robot/camera",
            1,
            ["namespace:=robot", "image_topic:=camera"],
        ),
        ("perception.launch.py", "active: images from /image/compressed", 1, ["image_transport:=compressed"]),
        ("perception.launch.py", "active: images from /image", 3, []),  # killed twice
        ("demo.launch.py", "'yes': nothing", 1, ["instruction:=yes"]),
    ],
)
def test_launching_brings_the_node_to_active(name, ready, lives, arguments, graph, checkpoint, pictures):
    """`graph` is only used for its environment: a domain of its own."""
    if name.startswith("demo"):
        arguments = [*arguments, f"source:={pictures}", "rate:=2"]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(LAUNCH / name),
            ready,
            str(lives),
            f"model:={checkpoint}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={name: value for name, value in os.environ.items() if name not in PROFILE},
    )
    assert done.returncode == 0 and ready in done.stdout + done.stderr, done.stdout + done.stderr
    profiles = [line for line in done.stdout.splitlines() if line.startswith("profile:")]
    assert len(profiles) == lives + name.startswith("demo")
    for line in profiles:
        assert re.fullmatch(rf"profile: {PROFILE[0]}=\S+/fastdds.xml {PROFILE[1]}=1", line), line
