"""Fit Fast DDS' shared memory to what is free in /dev/shm. No ROS.

Fast DDS allocates the whole segment of a participant when it creates that. A segment that does not fit leaves
the participant without shared memory: its images go over UDP, and what exceeds a socket's buffer is lost.
Docker's /dev/shm has 64 MB, which is less than a single segment of `config/fastdds.xml` needs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

FOLDER = Path("/dev/shm")
MIB = 1 << 20
SHARE = 6  # of the free memory, one part goes to each participant: the fifth still gets half of the first
SMALLEST_BYTES = 2 * MIB  # holds two raw images of 640x480
DEFAULT_BYTES = MIB // 2  # the segment of a participant without a profile
PORTS_BYTES = MIB  # needed in addition to a segment; measured: 0.3 to 0.8 MiB
LARGEST_IMAGE = 2 / 3  # of a segment; measured (docs/guides/containers.md)
STALE_AGE_S = 10.0  # a younger file may be one that is just being made
PROFILE_NAME = "lens_ros"  # of the participant in config/fastdds.xml
NAMESPACE = "http://www.eprosima.com"

REMEDY = "with Docker, start the container with --shm-size=1g or --ipc=host"


class ProfileError(ValueError):
    """Raised for a text that is no XML profile."""


@dataclass(frozen=True)
class SharedMemory:
    """State of /dev/shm, in bytes.

    `stale` bytes are held by processes that were killed; `trouble` says why the folder cannot be used.
    """

    free: int = 0
    size: int = 0
    stale: int = 0
    trouble: str = ""

    @property
    def usable(self) -> int:
        """Free bytes that this process may allocate."""
        return 0 if self.trouble else self.free


def look(folder: Path = FOLDER) -> SharedMemory:
    """Return the state of the folder in which Fast DDS makes its segments."""
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return SharedMemory(trouble=f"cannot be used ({error.strerror})")
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    trouble = ""
    if found.f_flag & os.ST_RDONLY:
        trouble = f"is not writable ({os.strerror(errno.EROFS)})"
    elif not os.access(folder, os.W_OK | os.X_OK):
        trouble = f"is not writable ({os.strerror(errno.EACCES)})"
    return SharedMemory(free, size, stale_bytes(folder), trouble)


def stale_bytes(folder: Path = FOLDER) -> int:
    """Return the size of the segments whose process has been killed.

    Fast DDS holds a lock on `NAME_el` as long as the owner of the segment `NAME` lives.
    """
    total = 0
    for lock in [*folder.glob("fastrtps_*_el"), *folder.glob("fastdds_*_el")]:
        segment = lock.with_name(lock.name.removesuffix("_el"))
        try:
            if time.time() - lock.stat().st_mtime < STALE_AGE_S:
                continue
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back when the file is closed
                total += segment.stat().st_blocks * 512
        except OSError:
            continue  # locked, just removed, or somebody else's
    return total


def fitting(wanted: int, usable: int) -> int:
    """Return the size of the segment, in bytes: `wanted`, less where little is free, 0 for none at all."""
    share = usable // SHARE // MIB * MIB
    if share >= wanted:
        return wanted
    return share if share >= SMALLEST_BYTES else 0


def wanted_bytes(profile: str) -> int:
    """Return the sum of the segments that a profile asks for; raise `ProfileError`."""
    try:
        return sum(
            int(each.findtext(_tag("segment_size"), "0"))
            for each in _parsed(profile).iter(_tag("transport_descriptor"))
            if (each.findtext(_tag("type")) or "").strip() == "SHM"
        )
    except ValueError as error:
        raise ProfileError(f"a segment_size is no number ({error})") from error


def is_ours(profile: str) -> bool:
    """Return whether a profile is config/fastdds.xml, or a copy that kept its name; raise `ProfileError`."""
    participants = _parsed(profile).iter(_tag("participant"))
    return any(each.get("profile_name") == PROFILE_NAME for each in participants)


def with_segment(profile: str, size: int) -> str:
    """Return a profile with segments of `size` bytes, without any for 0; raise `ProfileError`."""
    root = _parsed(profile)
    for transports in root.iter(_tag("transport_descriptors")):
        for each in list(transports):
            if (each.findtext(_tag("type")) or "").strip() != "SHM":
                continue
            segment = each.find(_tag("segment_size"))
            if size and segment is not None:
                segment.text = str(size)
            elif not size:
                transports.remove(each)
                _leave_out(root, each.findtext(_tag("transport_id"), ""))
    ElementTree.register_namespace("", NAMESPACE)
    return ElementTree.tostring(root, encoding="unicode")


def report(found: SharedMemory, wanted: int, size: int) -> str:
    """Return a message about a segment of `size` bytes; empty if it is as large as wanted."""
    if size >= wanted:
        return ""
    if found.trouble:
        what = f"{FOLDER} {found.trouble}"
    else:
        what = f"{FOLDER} has {_mib(found.free)} MiB free of {_mib(found.size)} MiB"
        if found.stale >= MIB:
            what += (
                f", and {_mib(found.stale)} MiB are held by processes that were killed "
                "(`fastdds shm clean` frees them)"
            )
    if size:
        means = (
            f"this process has Fast DDS use {_mib(size)} MiB of shared memory instead of {_mib(wanted)} MiB, "
            f"so raw images above {size * LARGEST_IMAGE / 1e6:.0f} MB that it publishes may get lost"
        )
    else:
        means = (
            "Fast DDS works without shared memory in this process, so raw images go over UDP and get lost "
            "where net.core.rmem_max is smaller than an image"
        )
    return f"{what}; {means}; {REMEDY}"


def misfit(found: SharedMemory, wanted: int, profile: str) -> str:
    """Return a message about segments that a profile of the user sets; empty if they fit."""
    if not wanted or found.usable >= wanted + PORTS_BYTES:
        return ""
    text = report(found, wanted, 0)
    return f"{text}; the profile {profile} asks for {_mib(wanted)} MiB" if profile else text


def _parsed(profile: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(profile)
    except ElementTree.ParseError as error:
        raise ProfileError(f"not an XML file ({error})") from error


def _leave_out(root: ElementTree.Element, transport: str) -> None:
    for used in root.iter(_tag("userTransports")):
        for each in list(used):
            if (each.text or "").strip() == transport.strip():
                used.remove(each)


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _mib(size: int) -> str:
    return f"{size / MIB:.0f}" if size >= MIB else f"{size / MIB:.1f}"
