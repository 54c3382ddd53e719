"""The node `perception`, brought up to active.

ros2 launch lens_ros perception.launch.py image_topic:=/camera/color/image_raw
ros2 launch lens_ros perception.launch.py --show-args
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = Path(get_package_share_directory("lens_ros"))
# Where an argument is also a parameter, empty means: as in params_file.
ARGUMENTS = {
    "namespace": ("", "Namespace of the node and of its relative topics"),
    "params_file": (
        str(SHARE / "config" / "perception.yaml"),
        "Parameters; the default file explains them all",
    ),
    "model": ("", "Name of a model that ships with lens_ros, or path of a checkpoint folder"),
    "device": ("", "Where the model runs: cpu, cuda, cuda:1"),
    "image_topic": ("image", "Color images (with image_transport:=compressed, the name without /compressed)"),
    "camera_info_topic": ("", "Calibration of the camera; empty: camera_info beside image_topic"),
    "image_transport": ("", "raw or compressed"),
    "instruction_topic": ("instruction", "Instructions, std_msgs/String"),
    "instruction": ("", "Instruction to follow from the beginning"),
    "autostart": (
        "true",
        "Configure and activate the node at once; false leaves that to a lifecycle manager",
    ),
    "respawn": ("true", "Start the node's process anew, 2 s later, when it has ended"),
    "fastdds_profile": (
        str(SHARE / "config" / "fastdds.xml"),
        "Fast DDS profile of the processes started here (images above 0.5 MB need it); empty changes nothing",
    ),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "use_sim_time": ("false", "Take the time from /clock"),
}
RESPAWN_DELAY_S = 2.0
PARAMETERS = ("model", "device", "image_transport", "instruction")


def generate_launch_description() -> LaunchDescription:
    """Declares every argument at top level, then starts the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, which with autostart brings itself up."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    node = LifecycleNode(
        package="lens_ros",
        executable="perception_node",
        name="perception",
        namespace=given["namespace"],
        parameters=[
            ParameterFile(given["params_file"]),
            # Texts stay texts: an instruction `yes` is no boolean.
            {name: ParameterValue(given[name], value_type=str) for name in PARAMETERS if given[name]},
            {name: is_true(given[name]) for name in ("autostart", "use_sim_time")},
        ],
        remappings=[
            ("image", given["image_topic"]),
            ("camera_info", given["camera_info_topic"] or beside(given["image_topic"], "camera_info")),
            ("instruction", given["instruction_topic"]),
        ],
        ros_arguments=["--log-level", f"perception:={given['log_level']}"],
        output="screen",
        emulate_tty=True,
        respawn=is_true(given["respawn"]),
        respawn_delay=RESPAWN_DELAY_S,
    )
    return [*fastdds(given["fastdds_profile"]), node]


def is_true(text: str) -> bool:
    """What people write for true."""
    return text.strip().lower() in ("true", "1", "yes", "on")


def beside(topic: str, name: str) -> str:
    """A topic in the namespace of another one."""
    space, slash, _ = topic.rpartition("/")
    return f"{space}{slash}{name}"


def fastdds(profile: str) -> list[LaunchDescriptionEntity]:
    """Sets the Fast DDS profile, under the name that this distribution reads."""
    if not profile:
        return []
    older = os.environ.get("ROS_DISTRO", "") in ("humble", "iron", "jazzy")
    environment = {f"{'FASTRTPS' if older else 'FASTDDS'}_DEFAULT_PROFILES_FILE": profile}
    if profile == ARGUMENTS["fastdds_profile"][0]:
        environment["RMW_FASTRTPS_USE_QOS_FROM_XML"] = "1"  # what that leaves to the profile is in there
    return [SetEnvironmentVariable(name, value) for name, value in environment.items()]
