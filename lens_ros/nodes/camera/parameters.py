"""Parameters of the node `camera`."""

from __future__ import annotations

from dataclasses import dataclass

from lens_ros.ros.parameters import parameter


@dataclass(frozen=True)
class CameraParameters:
    """Parameters of the node `camera`."""

    source: str = parameter(
        "",
        "A recording (rosbag2 folder, .mcap, .db3, or .bag of ROS 1), or a folder of pictures.",
        when="start",
    )
    loop: bool = parameter(True, "Begin again at the end; otherwise the node ends there.", when="start")
    rate: float = parameter(
        1.0,
        "Playing speed of a recording: 2 is twice as fast as it was recorded.",
        bounds=(0.01, 100.0),
        when="start",
    )
    paused: bool = parameter(False, "Stay where it is, and publish nothing meanwhile.")
    frame_rate_hz: float = parameter(
        10.0, "Pictures per second from a folder of pictures.", bounds=(0.01, 1000.0), when="start"
    )
    stamp: str = parameter(
        "now",
        "now stamps every message when it is published (messages of one recorded instant share a stamp), "
        "recorded keeps the recording's stamps.",
        choices=("now", "recorded"),
        when="start",
    )
    frame_id: str = parameter(
        "",
        "frame_id of every message; empty keeps the recording's, or camera_color_optical_frame.",
        when="start",
    )
    color_topic: str = parameter(
        "",
        "Color topic in the recording; empty chooses by type, encoding and name, and the log says which.",
        when="start",
    )
    depth_topic: str = parameter(
        "", "Depth topic in the recording; empty takes one registered to color, if any.", when="start"
    )
    camera_info_topic: str = parameter(
        "", "CameraInfo topic in the recording; empty takes the one nearest to the color topic.", when="start"
    )
    jpeg_quality: int = parameter(
        90,
        "Quality of image/compressed where the source is not compressed already.",
        bounds=(1, 100),
        when="start",
    )
