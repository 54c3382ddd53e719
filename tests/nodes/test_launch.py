"""Launch files, executed if launch_ros can be imported, otherwise checked statically."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lens_ros.ros import launching
from lens_ros.ros.command_line import CRASHED, ENDED, UNUSABLE
from lens_ros.ros.launching import RESTARTS, RESTARTS_WITHIN_S, Restarts

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


def defaults(path: Path) -> dict[str, str]:
    """Return the default of each argument as it is written in the file."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "ARGUMENTS":
            rows = ast.literal_eval(ast.unparse(_Written().visit(statement.value)))
            return {name: default for name, (default, _) in rows.items()}
    raise AssertionError(path)


class _Written(ast.NodeTransformer):
    """Replace what is not a literal, such as an f-string, by its source."""

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (ast.Name, ast.Call, ast.JoinedStr)):
            return ast.Constant(ast.unparse(node))
        return super().visit(node)


@pytest.mark.parametrize("name", FILES)
def test_no_argument_has_a_default_that_would_override_a_parameter(name):
    """An empty argument is not passed on; the two others are not parameters, topics or names."""
    given = {argument: default for argument, default in defaults(LAUNCH / name).items() if default}
    assert set(given) <= {"respawn", "fastdds_profile"}


# What decides, without launch -----------------------------------------------------------------------------


def test_only_crashes_are_worth_a_restart():
    for returncode in (ENDED, -signal.SIGINT, -signal.SIGTERM):
        assert Restarts().objection(returncode, 0.0) == "it was asked to end"
    assert "correct them" in Restarts().objection(UNUSABLE, 0.0)
    for returncode in (CRASHED, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT):
        assert Restarts().objection(returncode, 0.0) == ""


def test_crashes_that_follow_each_other_fast_end_the_restarts():
    restarts = Restarts()
    for number in range(RESTARTS):
        assert restarts.objection(CRASHED, 10.0 * number) == ""
    assert f"crashed {RESTARTS + 1} times within 10 minutes" in restarts.objection(CRASHED, 10.0 * RESTARTS)


def test_rare_crashes_never_end_the_restarts():
    restarts = Restarts()
    for number in range(20 * RESTARTS):
        assert restarts.objection(CRASHED, number * RESTARTS_WITHIN_S / RESTARTS) == ""


@pytest.mark.parametrize(
    ("text", "meaning"), [("true", True), (" On ", True), ("0", False), ("False", False)]
)
def test_true_and_false_are_what_people_write(text, meaning):
    assert launching.truth("autostart", text) is meaning


def test_unusable_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="autostart is 'flase'; expected true or false"):
        launching.truth("autostart", "flase")
    with pytest.raises(ValueError, match="rate is 'fast'; expected a number"):
        launching.number("rate", "fast")
    with pytest.raises(ValueError, match=rf"params_file {tmp_path}/absent.yaml does not exist"):
        launching.existing_file("params_file", str(tmp_path / "absent.yaml"))
    with pytest.raises(ValueError, match=rf"params_file {tmp_path} is no file"):
        launching.existing_file("params_file", str(tmp_path))
    with pytest.raises(ValueError, match="fastdds_profile .* does not exist; correct the path, or leave"):
        launching.existing_file("fastdds_profile", "missing.xml")


def test_a_logger_is_named_as_rclpy_names_it(graph):
    import rclpy

    for namespace in ("", "/", "robot", "/robot/left"):
        node = rclpy.create_node(
            "perception", namespace=namespace, context=graph.context, start_parameter_services=False
        )
        assert launching.logger(namespace, "perception") == node.get_logger().name
        node.destroy_node()


# For real -------------------------------------------------------------------------------------------------

# As this distribution reads it.
PROFILE = (
    "FASTRTPS_DEFAULT_PROFILES_FILE"
    if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    else "FASTDDS_DEFAULT_PROFILES_FILE",
    "RMW_FASTRTPS_USE_QOS_FROM_XML",
)

PROGRAM = """
import json
import os
import signal
import sys
from pathlib import Path
from launch import LaunchDescription, LaunchService
from launch.actions import EmitEvent, GroupAction, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessIO, OnProcessStart
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter, SetRemap

# `kills`: how many processes are killed once they said `ready`, or at their start where that is empty.
path, ready, kills, around, *arguments = sys.argv[1:]
told = []

def kill_or_stop(event):
    told.append(event)
    if len(told) <= int(kills):
        os.kill(event.pid, signal.SIGKILL)
    elif ready and len(told) == int(kills) + 1:  # launch_ros bears one shutdown
        return EmitEvent(event=Shutdown(reason="ready"))

def hear(event):
    if ready and ready in event.text.decode(errors="replace"):
        return kill_or_stop(event)

def tell_start(event, context):
    process = Path(f"/proc/{event.pid}")
    given = (process / "environ").read_text().split(chr(0))
    print("profile:", *sorted(each for each in given if each.startswith(("FAST", "RMW_FASTRTPS_"))))
    print("command:", *event.cmd)
    return None if ready else kill_or_stop(event)

service = LaunchService()
others = json.loads(around)
service.include_launch_description(LaunchDescription([
    RegisterEventHandler(OnProcessStart(on_start=tell_start)),
    RegisterEventHandler(OnProcessIO(on_stdout=hear, on_stderr=hear)),
    GroupAction([
        PushRosNamespace(others.get("namespace", "")),
        *(SetParameter(name, value) for name, value in others.get("parameters", {}).items()),
        *(SetRemap(name, topic) for name, topic in others.get("topics", {}).items()),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(path), launch_arguments=[a.split(":=", 1) for a in arguments]
        ),
    ]),
]))
sys.exit(service.run())
"""
needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None, reason="launch_ros is not installed (the wheels lack it)"
)


def launch(
    name: str,
    *arguments: str,
    ready: str = "",
    kills: int = 0,
    around: dict | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Launch a file until a process prints `ready`, or to the end.

    Args:
        name: Name of the launch file.
        arguments: Launch arguments.
        ready: Text to wait for.
        kills: How often to kill the node.
        around: Settings of a parent launch file.
        environment: Further environment variables.
    """
    given = {name: value for name, value in os.environ.items() if name not in PROFILE}
    command = [sys.executable, "-c", PROGRAM, str(LAUNCH / name), ready, str(kills), json.dumps(around or {})]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**given, **(environment or {})},
    )
    done.stdout += done.stderr
    return done


def starts(said: str, what: str = "command") -> list[str]:
    """Return the command line, or the profile, of each process that was started."""
    return re.findall(rf"^{what}: (.*)$", said, re.MULTILINE)


@needs_launch
@pytest.mark.parametrize(
    ("name", "ready", "kills", "arguments"),
    [
        (
            "perception.launch.py",
            "active: images from /robot/camera",
            0,
            ["namespace:=robot", "image_topic:=camera"],
        ),
        ("perception.launch.py", "active: images from /image/compressed", 0, ["image_transport:=compressed"]),
        ("perception.launch.py", "active: images from /image", 2, []),
        ("demo.launch.py", "'yes': nothing", 0, ["instruction:=yes"]),
    ],
)
def test_launching_brings_the_node_to_active(name, ready, kills, arguments, graph, checkpoint, pictures):
    """`graph` is only used for its environment: a separate domain."""
    if name.startswith("demo"):
        arguments = [*arguments, f"source:={pictures}", "rate:=2"]
    done = launch(name, f"model:={checkpoint}", *arguments, ready=ready, kills=kills)
    said = done.stdout
    assert done.returncode == 0 and ready in said, said
    profiles = starts(said, "profile")
    assert len(profiles) == kills + 1 + name.startswith("demo")
    for line in profiles:
        assert re.fullmatch(rf"{PROFILE[0]}=\S+/fastdds.xml {PROFILE[1]}=1", line), line


@needs_launch
def test_a_profile_of_the_environment_stays(graph):
    own = str(LAUNCH.parent / "config" / "fastdds.xml")  # another path than the installed one's
    done = launch(
        "perception.launch.py",
        "autostart:=false",
        ready="waits to be configured",
        environment={PROFILE[0]: own},
    )
    assert starts(done.stdout, "profile") == [f"{PROFILE[0]}={own}"], done.stdout


@needs_launch
def test_what_a_parent_has_set_is_not_overridden(graph, checkpoint):
    around = {
        "namespace": "robot",
        "parameters": {"model": str(checkpoint), "max_new_tokens": 17, "instruction": "the mug"},
        "topics": {"image": "/cam/image"},
    }
    ready = "active: images from /cam/image, instructions from /robot/instruction"
    done = launch("perception.launch.py", ready=ready, around=around)
    assert ready in done.stdout and f"loading model '{checkpoint}'" in done.stdout, done.stdout
    # Nothing but what the parent says comes after it.
    command = starts(done.stdout)[0]
    assert "max_new_tokens:=17" in command and "params-file" not in command, command


@needs_launch
@pytest.mark.parametrize("by", ["parent", "file", "argument"])
def test_autostart_is_the_parents_the_files_or_the_users(by, graph, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    autostart: {'false' if by == 'file' else 'true'}\n")
    done = launch(
        "perception.launch.py",
        *([f"params_file:={file}"] if by != "parent" else []),
        *(["autostart:=false"] if by == "argument" else []),
        ready="waits to be configured",
        around={"parameters": {"autostart": False}} if by == "parent" else {},
    )
    assert done.returncode == 0 and "waits to be configured" in done.stdout, done.stdout
    assert "use_sim_time" not in starts(done.stdout)[0]


@needs_launch
def test_the_level_of_the_log_counts_in_a_namespace_and_for_both_nodes(graph, tmp_path):
    ready = "cannot configure: no model"
    told = {}
    for level in ("info", "warn"):
        done = launch(
            "demo.launch.py",
            f"log_level:={level}",
            f"model:={tmp_path / 'absent'}",
            "namespace:=left",
            ready=ready,
            around={"namespace": "robot"},
        )
        assert ready in done.stdout, done.stdout
        assert f"robot.left.camera:={level}" in "".join(starts(done.stdout))
        told[level] = "loading model" in done.stdout, "[robot.left.camera]: playing" in done.stdout
    assert told == {"info": (True, True), "warn": (False, False)}


@needs_launch
def test_a_missing_file_of_parameters_ends_the_launch_with_one_message(graph, tmp_path):
    for name in FILES:
        done = launch(name, f"params_file:={tmp_path / 'absent.yaml'}")
        assert done.returncode == 1 and not starts(done.stdout), done.stdout
        assert f"params_file {tmp_path / 'absent.yaml'} does not exist; correct the path" in done.stdout
        assert "Traceback" not in done.stdout


@needs_launch
def test_an_error_of_configuration_is_not_worth_a_restart(graph, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    max_new_tokens: 3\n")
    done = launch("perception.launch.py", f"params_file:={file}")
    assert len(starts(done.stdout)) == 1, done.stdout
    assert "expected an integer from 16 to 4096" in done.stdout
    assert "not started again: its arguments or parameters cannot be used" in done.stdout


@needs_launch
def test_restarts_come_to_an_end(graph):
    done = launch("perception.launch.py", kills=99)
    assert len(starts(done.stdout)) == RESTARTS + 1, done.stdout
    assert f"not started again: it crashed {RESTARTS + 1} times" in done.stdout
