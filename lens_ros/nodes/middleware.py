"""Names that the middleware of this ROS 2 distribution knows."""

from __future__ import annotations

import os

# Variable with the path of Fast DDS' profile; Fast DDS 3 (Kilted) renamed it. env.sh and launch/ set it too.
PROFILE_VARIABLE = (
    "FASTRTPS_DEFAULT_PROFILES_FILE"
    if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    else "FASTDDS_DEFAULT_PROFILES_FILE"
)
