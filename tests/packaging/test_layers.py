"""Which part of the project may import which other part, read from all import statements."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
# From the bottom to the top: a part imports those before it. `lens_ros` itself holds version and logging.
LAYERS = (
    "lens_ros",
    "choices", "codes", "channels", "tones", "interrupts", "whole", "resources", "system", "geometry",
    "recording_topics", "recordings",
    "evaluation", "simulation",
    "inputs",
    "model",
    "engine", "instances",
    "segmentation",
    "lens",
    "tracking", "visualization",
    "deployment",
    "ros",
    "client", "nodes.camera", "nodes.perception",
    "commands",
    "cli",
)  # fmt: skip
WITH_ROS = ("ros", "client", "nodes", "commands")
ROS_MODULES = {
    "action_msgs", "diagnostic_msgs", "geometry_msgs", "launch", "launch_ros", "lifecycle_msgs",
    "rcl_interfaces", "rclpy", "rosidl_runtime_py", "sensor_msgs", "std_msgs", "std_srvs",
    "vision_msgs", "visualization_msgs",
}  # fmt: skip
GENERATED = ("lens_ros.msg", "lens_ros.srv", "lens_ros.action")
LONGEST = 450  # lines of a file
LONG_TABLES = {"simulation/phrases.py"}  # data, not code


def modules(*folders: str) -> dict[str, Path]:
    """Return the files of these packages by the module's name."""
    found = {}
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules("lens_ros", "training")


def imported(path: Path) -> set[str]:
    """Return what a file imports: a module if it imports one by name, else what follows `from`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES or name in GENERATED else node.module for name in full}
    return names


def part(module: str) -> str:
    """Return the part of `lens_ros` that a module belongs to."""
    _, *path = module.split(".")
    if not path:
        return "lens_ros"
    return ".".join(path[:2]) if path[0] == "nodes" and len(path) > 1 else path[0]


def test_no_module_imports_in_a_circle() -> None:
    graph = {name: imported(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_part_imports_one_above_it() -> None:
    upward = []
    for name, path in MODULES.items():
        for other in imported(path) & MODULES.keys():
            if name.startswith("training") or other.startswith("training"):
                if not name.startswith("training"):
                    upward.append(f"{name} imports {other}")
            elif part(name) != "nodes" and LAYERS.index(part(other)) > LAYERS.index(part(name)):
                upward.append(f"{name} imports {other}")
    assert upward == []


def test_the_nodes_do_not_know_each_other() -> None:
    for name, path in MODULES.items():
        if part(name) == "nodes.camera":
            assert not {other for other in imported(path) if other.startswith("lens_ros.nodes.perception")}
        if part(name) in ("nodes.perception", "nodes.camera"):
            assert not {other for other in imported(path) if other.startswith("lens_ros.client")}


def test_ros_stays_in_its_rooms() -> None:
    """Training, model, simulator and evaluation work without ROS."""
    offenders = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if name.startswith("training") or part(name).split(".")[0] not in WITH_ROS
        for other in imported(path)
        if other.split(".")[0] in ROS_MODULES or other.startswith(GENERATED)
    ]
    assert offenders == []


def test_no_file_is_long() -> None:
    lengths = {
        str(path.relative_to(ROOT / "lens_ros")): len(path.read_text().splitlines())
        for name, path in MODULES.items()
        if name.startswith("lens_ros")
    }
    long = {name for name, lines in lengths.items() if lines > LONGEST}
    assert long <= LONG_TABLES, {name: lengths[name] for name in long}
