"""A recorded camera and the node `perception`.

ros2 launch lens_ros demo.launch.py instruction:="the red mug"
ros2 topic pub --once /instruction std_msgs/msg/String "{data: the largest bowl}"
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = Path(get_package_share_directory("lens_ros"))
ARGUMENTS = {
    "source": (str(SHARE / "demo" / "tabletop"), "A rosbag2 folder, or a folder of pictures"),
    "rate": ("1.0", "Playing speed of a recording"),
    "namespace": ("", "Namespace of both nodes"),
    "params_file": (str(SHARE / "config" / "perception.yaml"), "Parameters of the node perception"),
    "model": ("", "Name of a model that ships with lens_ros, or path of a checkpoint folder"),
    "device": ("", "Where the model runs: cpu, cuda, cuda:1"),
    "image_transport": ("", "How perception receives images: raw or compressed"),
    "instruction": ("", "Instruction to follow from the beginning"),
    "fastdds_profile": (
        str(SHARE / "config" / "fastdds.xml"),
        "Fast DDS profile of the processes started here (images above 0.5 MB need it); empty changes nothing",
    ),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def generate_launch_description() -> LaunchDescription:
    """Declares every argument at top level, then starts both nodes."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The camera, and perception by its own launch file."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    camera = Node(
        package="lens_ros",
        executable="camera_node",
        name="camera",
        namespace=given["namespace"],
        parameters=[
            {
                "source": ParameterValue(given["source"], value_type=str),
                "rate": float(given["rate"]),
            }
        ],
        ros_arguments=["--log-level", f"camera:={given['log_level']}"],
        output="screen",
        emulate_tty=True,
    )
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "perception.launch.py")),
        launch_arguments={name: given[name] for name in given if name not in ("source", "rate")}.items(),
    )
    # Perception first: it sets the Fast DDS profile, which counts above all where images are published.
    return [perception, camera]
