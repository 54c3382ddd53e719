"""Fast DDS' shared-memory segment fits into free space, and the user is warned if it had to be smaller."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_ros.ros import middleware, shared_memory
from lens_ros.ros.middleware import PROFILE_VARIABLE, fitted_profile
from lens_ros.ros.shared_memory import MIB, SMALLEST_BYTES, SharedMemory

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "fastdds.xml"
WANTED = 64 * MIB
DOCKER = SharedMemory(free=64 * MIB, size=64 * MIB)
OTHERS = """<profiles xmlns="http://www.eprosima.com"><transport_descriptors><transport_descriptor>
<transport_id>mine</transport_id><type>SHM</type><segment_size>33554432</segment_size></transport_descriptor>
</transport_descriptors></profiles>"""


@given(st.integers(1, 1 << 32), st.integers(0, 1 << 40))
def test_a_segment_leaves_most_of_the_memory_to_others(wanted: int, free: int) -> None:
    size = shared_memory.fitting(wanted, free)
    assert size in (0, wanted) or SMALLEST_BYTES <= size < wanted
    assert 6 * size <= free


@given(st.integers(1, 1 << 32), st.integers(0, 1 << 38), st.integers(0, 1 << 38))
def test_more_memory_never_makes_a_smaller_segment(wanted: int, free: int, more: int) -> None:
    assert shared_memory.fitting(wanted, free) <= shared_memory.fitting(wanted, free + more)


def test_dockers_64_mb_are_enough_for_a_robot() -> None:
    free, sizes = 64 * MIB, []
    for _ in range(4):  # camera, perception, the program that asks, one that watches
        sizes.append(shared_memory.fitting(WANTED, free) / MIB)
        free -= int(sizes[-1] * MIB) + MIB  # its ports take 0.8 MiB
    assert sizes == [10, 8, 7, 6]  # 640x480 needs 1, 1280x720 needs 4, 1920x1080 needs 8


@pytest.mark.parametrize("size", [9 * MIB, 0])
def test_the_shipped_profile_keeps_all_the_rest(size: int) -> None:
    shipped = SHIPPED.read_text("utf-8")
    assert shared_memory.wanted_bytes(shipped) == WANTED and shared_memory.is_ours(shipped)
    changed = shared_memory.with_segment(shipped, size)
    assert shared_memory.wanted_bytes(changed) == size and shared_memory.is_ours(changed)

    def others(text: str) -> list[tuple[str, str | None]]:
        left_out = ("shared_memory", "SHM") if not size else ()
        return [
            (each.tag, each.text)
            for each in ElementTree.fromstring(text).iter()
            if len(each) == 0 and not each.tag.endswith("segment_size") and each.text not in left_out
        ]

    assert others(changed) == others(shipped)


@pytest.mark.parametrize(
    ("found", "size", "parts"),
    [
        (DOCKER, 10 * MIB, ("64 MiB free of 64 MiB", "10 MiB", "above 7 MB", "--shm-size=1g", "--ipc=host")),
        (SharedMemory(5 * MIB, 64 * MIB), 0, ("5 MiB free of 64 MiB", "without shared memory", "rmem_max")),
        (SharedMemory(trouble="is not writable (x)"), 0, ("/dev/shm is not writable (x)", "--ipc=host")),
        (SharedMemory(12 * MIB, 64 * MIB, 50 * MIB), 2 * MIB, ("50 MiB are held", "fastdds shm clean")),
    ],
)
def test_one_line_says_what_was_found_and_what_to_do(
    found: SharedMemory, size: int, parts: tuple[str, ...]
) -> None:
    assert shared_memory.fitting(WANTED, found.usable) == size
    text = shared_memory.report(found, WANTED, size)
    assert all(part in text for part in parts) and "\n" not in text


def test_nothing_is_said_when_all_is_well(monkeypatch) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, str(SHIPPED))
    with fitted_profile(lambda: SharedMemory(1 << 30, 1 << 30, stale=1 << 29)) as trouble:
        assert trouble == "" and os.environ[PROFILE_VARIABLE] == str(SHIPPED)


def test_the_profile_fits_while_a_node_is_made_and_no_longer(monkeypatch) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, str(SHIPPED))
    with fitted_profile(lambda: DOCKER) as trouble:
        chosen = Path(os.environ[PROFILE_VARIABLE])
        assert shared_memory.wanted_bytes(chosen.read_text("utf-8")) == 10 * MIB
        assert chosen.resolve() == chosen  # Fast DDS asks for the real path
    assert "10 MiB" in trouble
    assert os.environ[PROFILE_VARIABLE] == str(SHIPPED) and not chosen.exists()


@pytest.mark.parametrize(
    ("free", "said"), [(64 * MIB, ""), (32 * MIB, "asks for 32 MiB"), (0, "asks for 32 MiB")]
)
def test_a_profile_of_the_users_is_never_replaced(monkeypatch, tmp_path, free: int, said: str) -> None:
    own = tmp_path / "mine.xml"
    own.write_text(OTHERS)
    monkeypatch.setenv(PROFILE_VARIABLE, str(own))
    with fitted_profile(lambda: SharedMemory(free, 64 * MIB)) as trouble:
        assert os.environ[PROFILE_VARIABLE] == str(own)
    assert said in trouble and bool(trouble) == bool(said)


@pytest.mark.parametrize("text", [None, "", "not XML", OTHERS.replace("33554432", "big"), "\xff"])
def test_a_profile_that_cannot_be_read_is_left_to_fast_dds(monkeypatch, tmp_path, text: str | None) -> None:
    own = tmp_path / "mine.xml"
    if text is not None:
        own.write_bytes(text.encode("latin-1"))
    monkeypatch.setenv(PROFILE_VARIABLE, str(own))
    with fitted_profile(lambda: DOCKER) as trouble:
        assert trouble == "" and os.environ[PROFILE_VARIABLE] == str(own)


@pytest.mark.parametrize(("free", "said"), [(2 * MIB, False), (MIB // 2, True)])
def test_without_a_profile_fast_dds_needs_little(monkeypatch, free: int, said: bool) -> None:
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    with fitted_profile(lambda: SharedMemory(free, 64 * MIB)) as trouble:
        assert PROFILE_VARIABLE not in os.environ
    assert ("without shared memory" in trouble) == said


def test_another_middleware_is_none_of_our_business(monkeypatch) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, str(SHIPPED))
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    with fitted_profile(lambda: SharedMemory(trouble="cannot be used")) as trouble:
        assert trouble == ""


def test_where_no_copy_can_be_written_the_profile_stays(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, str(SHIPPED))
    monkeypatch.setattr(middleware.tempfile, "tempdir", str(tmp_path / "missing"))
    with fitted_profile(lambda: DOCKER) as trouble:
        assert os.environ[PROFILE_VARIABLE] == str(SHIPPED)
    assert "cannot be written" in trouble and "--shm-size=1g" in trouble


def test_segments_of_killed_processes_are_told_from_living_ones(tmp_path) -> None:
    """Fast DDS locks `NAME_el` for as long as the segment's owner lives."""
    old = time.time() - 60
    for name, age in (
        ("fastrtps_dead", old),
        ("fastdds_dead", old),
        ("fastrtps_live", old),
        ("fastdds_new", None),
    ):
        (tmp_path / name).write_bytes(bytes(MIB))
        lock = tmp_path / f"{name}_el"
        lock.touch()
        if age is not None:
            os.utime(lock, (age, age))
    (tmp_path / "fastrtps_gone_el").touch()
    os.utime(tmp_path / "fastrtps_gone_el", (old, old))
    with (tmp_path / "fastrtps_live_el").open("rb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        assert shared_memory.stale_bytes(tmp_path) == 2 * MIB


def test_a_folder_that_cannot_be_used_is_explained(tmp_path) -> None:
    found = shared_memory.look(tmp_path / "missing")
    assert found.usable == 0 and found.trouble == "cannot be used (No such file or directory)"
    here = shared_memory.look(tmp_path)
    assert here.trouble == "" and 0 < here.usable == here.free <= here.size
