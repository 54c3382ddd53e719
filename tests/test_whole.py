"""Files and folders appear only when they are complete."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lens_ros.whole import put_in_place, whole_file, whole_folder


def folder_of(number: int, path: Path) -> Path:
    path.mkdir()
    (path / "number").write_text(str(number))
    return path


def test_a_robot_that_reads_meanwhile_finds_the_older_or_the_newer_folder(tmp_path: Path) -> None:
    out = folder_of(0, tmp_path / "robot")
    over = threading.Event()
    read: list[int] = []

    def reads() -> None:
        while not over.is_set():
            assert out.is_dir()
            with contextlib.suppress(FileNotFoundError):  # opened before it was replaced, read after
                read.append(int((out / "number").read_text()))

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(reads)
        for number in range(1, 200):
            put_in_place(folder_of(number, tmp_path / "made"), out)
        over.set()
        reading.result()  # raises what it met
    assert read == sorted(read) and read[-1] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["robot"]


def test_where_folders_cannot_be_exchanged_the_older_one_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lens_ros.whole._exchange", lambda one, other: False)
    out = folder_of(0, tmp_path / "robot")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "not made", out)
    assert (out / "number").read_text() == "0"
    put_in_place(folder_of(1, tmp_path / "made"), out)
    assert (out / "number").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["robot"]


def test_an_interrupted_write_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "file") as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    folder_of(0, tmp_path / "folder")
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "folder") as partial:
        (partial / "number").write_text("1")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "old" and (tmp_path / "folder" / "number").read_text() == "0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_what_a_killed_process_left_is_removed_and_another_at_work_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for number in (dead.pid, os.getppid()):
        (tmp_path / f".folder.{number}.partial").mkdir()
    with whole_folder(tmp_path / "folder") as partial:
        (partial / "number").write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".folder.{os.getppid()}.partial", "folder"]
