"""Launch the node `perception` and activate it.

ros2 launch lens_ros perception.launch.py image_topic:=/camera/color/image_raw
ros2 launch lens_ros perception.launch.py --show-args
"""

from __future__ import annotations

import time
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.utilities import prefix_namespace

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from lens_ros.ros.launching import ASKED_TO_END, LEVELS, Restarts, beside, existing_file, logger, truth

SHARE = Path(get_package_share_directory("lens_ros"))
PROFILE = str(SHARE / "config" / "fastdds.xml")
# An empty value changes nothing: settings by params_file, or by SetParameter and SetRemap of a launch file
# that includes this one, stay.
ARGUMENTS = {
    "namespace": ("", "Namespace of the node and of its relative topics"),
    "params_file": ("", f"File of parameters; {SHARE / 'config' / 'perception.yaml'} explains them all"),
    "model": ("", "Name of a model that ships with lens_ros, or path of a checkpoint folder"),
    "device": ("", "Where the model runs: cpu, cuda, cuda:1"),
    "image_topic": (
        "",
        "Color images (with image_transport:=compressed, the name without /compressed); empty: image",
    ),
    "camera_info_topic": ("", "Calibration of the camera; empty: camera_info beside image_topic"),
    "image_transport": ("", "raw or compressed"),
    "depth_topic": (
        "",
        "Depth that is registered to the color images (with depth_transport:=compressedDepth, the name "
        "without /compressedDepth); empty: depth",
    ),
    "depth_transport": ("", "none, raw or compressedDepth; a depth_topic alone means raw"),
    "instruction_topic": ("", "Instructions, std_msgs/String; empty: instruction"),
    "instruction": ("", "Instruction to follow from the beginning"),
    "autostart": (
        "",
        "Configure and activate the node at once; false leaves that to a lifecycle manager. Empty: as the "
        "parameters say, else true",
    ),
    "respawn": (
        "true",
        "Start the node's process again, 2 s later, when it has crashed; not after errors of configuration, "
        "and at most 5 times in 10 minutes",
    ),
    "fastdds_profile": (
        PROFILE,
        "Fast DDS profile of the processes started here (images above 0.5 MB need it); empty changes "
        "nothing, and the default leaves the environment a profile of its own",
    ),
    "log_level": ("", f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]}; empty: info"),
    "use_sim_time": ("", "true takes the time from /clock; empty: as the parameters say, else false"),
}
RESPAWN_DELAY_S = 2.0
TEXTS = ("model", "device", "image_transport", "depth_transport", "instruction")
SWITCHES = ("autostart", "use_sim_time")


def generate_launch_description() -> LaunchDescription:
    """Declare every argument at top level, then start the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the node, which activates itself if autostart is set."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if given["depth_topic"] and not given["depth_transport"]:
        given["depth_transport"] = "raw"
    # Texts stay texts: an instruction `yes` is not a boolean.
    chosen = {name: ParameterValue(given[name], value_type=str) for name in TEXTS if given[name]}
    chosen |= {name: truth(name, given[name]) for name in SWITCHES if given[name]}
    file = [ParameterFile(existing_file("params_file", given["params_file"]))] if given["params_file"] else []
    node = LifecycleNode(
        package="lens_ros",
        executable="perception_node",
        name="perception",
        namespace=given["namespace"],
        parameters=[*file, *([chosen] if chosen else [])],
        remappings=remappings(given),
        # The first parameters on the command line are overridden by all that follow.
        ros_arguments=["-p", "autostart:=true", *log_level(context, given)],
        output="screen",
        emulate_tty=True,
        respawn=truth("respawn", given["respawn"]),
        respawn_delay=RESPAWN_DELAY_S,
    )
    return [*fastdds(context, given["fastdds_profile"]), *give_up(node), node]


def remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """Return the remapped topics; camera_info defaults to the namespace of the images."""
    images = given["image_topic"]
    topics = {
        "image": images,
        "camera_info": given["camera_info_topic"] or (beside(images, "camera_info") if images else ""),
        "depth": given["depth_topic"],
        "instruction": given["instruction_topic"],
    }
    return [(name, topic) for name, topic in topics.items() if topic]


def log_level(context: LaunchContext, given: dict[str, str]) -> list[str]:
    """Return the ROS arguments that set the level of the node's logger in any namespace."""
    if not given["log_level"]:
        return []
    if given["log_level"].lower() not in LEVELS:
        raise ValueError(f"log_level is '{given['log_level']}'; expected one of {', '.join(LEVELS)}")
    around = context.launch_configurations.get("ros_namespace")  # set by PushRosNamespace
    namespace = prefix_namespace(around, given["namespace"]) or ""
    return ["--log-level", f"{logger(namespace, 'perception')}:={given['log_level']}"]


def give_up(node: LifecycleNode) -> list[LaunchDescriptionEntity]:
    """Return the handler that stops respawning a node when a restart makes no sense."""
    restarts = Restarts()

    def after_exit(event: ProcessExited, context: LaunchContext) -> LaunchDescriptionEntity | None:
        objection = restarts.objection(event.returncode, time.monotonic())
        if context.is_shutdown or not objection:
            return None
        log = get_logger("perception")
        (log.info if objection == ASKED_TO_END else log.error)(f"not started again: {objection}")
        # The process has exited; this ends the wait for its respawn.
        return EmitEvent(event=ShutdownProcess(process_matcher=matches_action(node)))

    return [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=after_exit))]


def fastdds(context: LaunchContext, profile: str) -> list[LaunchDescriptionEntity]:
    """Set the Fast DDS profile through the environment variable that this distribution reads."""
    older = context.environment.get("ROS_DISTRO", "") in ("humble", "iron", "jazzy")
    variable = f"{'FASTRTPS' if older else 'FASTDDS'}_DEFAULT_PROFILES_FILE"
    if not profile or (profile == PROFILE and context.environment.get(variable)):
        return []
    environment = {variable: existing_file("fastdds_profile", profile)}
    if profile == PROFILE:
        # With this variable ROS 2 leaves some QoS to the profile, which sets it.
        environment["RMW_FASTRTPS_USE_QOS_FROM_XML"] = "1"
    return [SetEnvironmentVariable(name, value) for name, value in environment.items()]
