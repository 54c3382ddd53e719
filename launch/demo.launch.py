"""Launch a recorded camera and the node `perception`.

ros2 launch lens_ros demo.launch.py instruction:="the red bottle"
ros2 topic pub --once /instruction std_msgs/msg/String "{data: the largest mug}"
"""

from __future__ import annotations

import json
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import prefix_namespace

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from lens_ros.ros.launching import LEVELS, logger, number

SHARE = Path(get_package_share_directory("lens_ros"))
BAG = str(SHARE / "demo" / "tabletop")
# An empty value changes nothing, as in perception.launch.py.
ARGUMENTS = {
    "source": ("", f"A rosbag2 folder, or a folder of pictures; empty: {BAG}"),
    "rate": ("", "Playing speed of a recording; empty: 1.0"),
    "namespace": ("", "Namespace of both nodes"),
    "params_file": ("", "File of parameters of the node perception; empty: their defaults"),
    "model": ("", "Name of a model that ships with lens_ros, or path of a checkpoint folder"),
    "device": ("", "Where the model runs: cpu, cuda, cuda:1"),
    "image_transport": ("", "How perception receives images: raw or compressed"),
    "instruction": ("", "Instruction to follow from the beginning"),
    "fastdds_profile": (
        str(SHARE / "config" / "fastdds.xml"),
        "Fast DDS profile of the processes started here (images above 0.5 MB need it); empty changes "
        "nothing, and the default leaves the environment a profile of its own",
    ),
    "log_level": ("", f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]}, of both nodes; empty: info"),
}
OF_CAMERA = ("source", "rate")


def generate_launch_description() -> LaunchDescription:
    """Declare every argument at top level, then start both nodes."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the camera node, and perception through its own launch file."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    around = context.launch_configurations.get("ros_namespace")  # set by PushRosNamespace
    name = logger(prefix_namespace(around, given["namespace"]) or "", "camera")
    parameters = {}
    if given["source"]:
        parameters["source"] = ParameterValue(given["source"], value_type=str)
    if given["rate"]:
        parameters["rate"] = number("rate", given["rate"])
    camera = Node(
        package="lens_ros",
        executable="camera_node",
        name="camera",
        namespace=given["namespace"],
        parameters=[parameters] if parameters else [],
        # The first parameters on the command line are overridden by all that follow.
        ros_arguments=[
            "-p",
            f"source:={json.dumps(BAG)}",
            *(["--log-level", f"{name}:={given['log_level']}"] if given["log_level"] else []),
        ],
        output="screen",
        emulate_tty=True,
    )
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "perception.launch.py")),
        launch_arguments={name: given[name] for name in given if name not in OF_CAMERA}.items(),
    )
    # Perception goes first: it sets the Fast DDS profile, which matters most where images are published.
    return [perception, camera]
