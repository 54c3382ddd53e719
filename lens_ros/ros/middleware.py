"""Prepare the middleware of this ROS 2 distribution for this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lens_ros.ros import shared_memory
from lens_ros.ros.shared_memory import ProfileError, SharedMemory

# Variable with the path of Fast DDS' profile; Fast DDS 3 (Kilted) renamed it. env.sh and launch/ set it too.
PROFILE_VARIABLE = (
    "FASTRTPS_DEFAULT_PROFILES_FILE"
    if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    else "FASTDDS_DEFAULT_PROFILES_FILE"
)
FAST_DDS = ("", "rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp")


@contextmanager
def fitted_profile(look: Callable[[], SharedMemory] = shared_memory.look) -> Iterator[str]:
    """Give the first node made inside a shared-memory segment that fits into /dev/shm.

    Yields what to tell the user: what was found, what it means and what to do; empty if all is well. Fast DDS
    reads its profile once, with the first node of a process. Only lens_ros' own profile is changed, in a copy
    for this process; the environment is then as it was before, so that a child process chooses for itself.
    """
    if os.environ.get("RMW_IMPLEMENTATION", "") not in FAST_DDS:
        yield ""
        return
    path = os.environ.get(PROFILE_VARIABLE, "")
    text, profile = _choose(path, look())
    with ExitStack() as stack:
        if profile:
            try:
                os.environ[PROFILE_VARIABLE] = stack.enter_context(_file(profile))
                stack.callback(os.environ.__setitem__, PROFILE_VARIABLE, path)
            except OSError as error:
                text += f". This process keeps the profile {path}: a copy cannot be written ({error})"
        yield text


@contextmanager
def _file(text: str) -> Iterator[str]:
    """Yield the path of a temporary file that holds a text."""
    with tempfile.NamedTemporaryFile("w", prefix="lens_ros-", suffix=".xml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        yield file.name


def _choose(path: str, found: SharedMemory) -> tuple[str, str]:
    """Return a message for the user and the profile to use instead of the one at `path`; empty: none."""
    if not path:
        return shared_memory.misfit(found, shared_memory.DEFAULT_BYTES, ""), ""
    try:
        profile = Path(path).read_text("utf-8")
        wanted = shared_memory.wanted_bytes(profile)
        if not shared_memory.is_ours(profile):
            return shared_memory.misfit(found, wanted, path), ""
    except (OSError, UnicodeDecodeError, ProfileError):
        return "", ""  # Fast DDS says itself that it cannot read the file
    size = shared_memory.fitting(wanted, found.usable)
    if size == wanted:
        return "", ""
    return shared_memory.report(found, wanted, size), shared_memory.with_segment(profile, size)
