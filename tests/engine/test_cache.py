"""Engine cache: stale, damaged, incomplete and leftover engines are reported and never opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_ros.engine.cache import MANIFEST, PLAN, EngineCache, Key, Manifest, default_root, sha256
from lens_ros.engine.child import package_environment
from lens_ros.engine.errors import EngineError, EngineMissing

KEY = Key(
    "model", "decoder", "fp16", "tensorrt", "a" * 64, 1, "16 instances", "tensorrt 10.3.0.30", "8.7 Orin"
)


def put(cache: EngineCache, key: Key = KEY, content: bytes = b"an engine") -> Path:
    with cache.staging(key, 10) as made:
        made.mkdir()
        (made / PLAN).write_bytes(content)
        manifest = Manifest(key, PLAN, len(content), sha256(made / PLAN), 1.0, "2026-11-24", 1.0, "fine")
        return cache.commit(made, manifest).folder


def test_what_was_put_is_found(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    folder = put(cache)
    entry = cache.find(KEY)
    assert entry.folder == folder and entry.file.read_bytes() == b"an engine"
    assert entry.manifest is not None and entry.manifest.key == KEY
    put(cache, content=b"a newer one")
    assert cache.find(KEY).file.read_bytes() == b"a newer one"
    assert len(cache.entries()) == 1
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".making")] == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"source": "b" * 64}, "weights: aaaaaaaaaaaa, expected bbbbbbbbbbbb"),
        ({"library": "tensorrt 10.13.3.9"}, "tensorrt 10.3.0.30, expected tensorrt 10.13.3.9"),
        ({"device": "8.9 RTX 4090"}, "8.7 Orin, expected 8.9 RTX 4090"),
        ({"profile": "8 instances"}, "16 instances, expected 8 instances"),
        ({"format": 2}, "format: 1, expected 2"),
    ],
)
def test_a_stale_engine_is_named_with_what_differs(tmp_path: Path, changed: dict, told: str) -> None:
    cache = EngineCache(tmp_path)
    put(cache)
    with pytest.raises(EngineError, match="stale") as caught:
        cache.find(replace(KEY, **changed))
    assert told in str(caught.value) and "lens build-engine" in str(caught.value)


def test_none_at_all_is_another_matter(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "not there")
    assert cache.entries() == []
    with pytest.raises(EngineMissing, match="lens build-engine"):
        cache.find(KEY)
    put(cache)
    with pytest.raises(EngineMissing):
        cache.find(replace(KEY, precision="fp32"))


@given(st.integers(0, 8))
@settings(max_examples=9, deadline=None)
def test_a_half_written_engine_is_refused(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("cache"))
    file = put(cache) / PLAN
    file.write_bytes(b"an engine"[:size])
    with pytest.raises(EngineError, match=rf"{size} bytes, expected 9: half written"):
        cache.find(KEY)


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    (put(cache) / PLAN).write_bytes(b"an enginE")
    with pytest.raises(EngineError, match="bytes are not those"):
        cache.find(KEY)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"key": 3}', b'{"key": {"model": "m"}, "tensors": []}', b"\xff\xfe"]
)
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: bytes) -> None:
    cache = EngineCache(tmp_path)
    (put(cache) / MANIFEST).write_bytes(damage)
    with pytest.raises(EngineError, match=f"{MANIFEST} cannot be read"):
        cache.find(KEY)
    assert len(cache.prune(lambda key: "")) == 1 and cache.entries() == []


def test_a_missing_manifest_or_engine_is_named(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    folder = put(cache)
    (folder / PLAN).unlink()
    with pytest.raises(EngineError, match=f"{PLAN} is missing"):
        cache.find(KEY)
    (folder / MANIFEST).unlink()
    with pytest.raises(EngineError, match=f"{MANIFEST} is missing"):
        cache.find(KEY)


def test_a_manifest_of_another_engine_is_refused(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    mine, other = put(cache), put(cache, replace(KEY, device="8.9 RTX 4090"), b"another's")
    (mine / MANIFEST).write_bytes((other / MANIFEST).read_bytes())
    (mine / PLAN).write_bytes(b"another's")
    with pytest.raises(EngineError, match="manifest is another's.*8.9 RTX 4090"):
        cache.find(KEY)


def test_prune_keeps_what_is_good_and_what_is_being_made(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    good, stale, damaged = (put(cache, replace(KEY, device=d)) for d in ("8.7 Orin", "8.9 RTX", "9.0 H100"))
    (damaged / PLAN).unlink()
    left = tmp_path / "model" / f".making-{good.name}-x"
    (left / "engine").mkdir(parents=True)
    with cache.staging(replace(KEY, precision="fp32"), 10) as made:
        made.mkdir()
        removed = dict(cache.prune(lambda key: "not this GPU" if "RTX" in key.device else ""))
        assert made.is_dir()
    assert set(removed) == {stale, damaged, left} and good.is_dir()
    assert removed[stale] == "not this GPU" and "killed" in removed[left]


def test_what_a_killed_build_left_goes_with_the_next_one_of_its_kind(tmp_path: Path) -> None:
    making = (
        "import os, signal, sys\n"
        "from tests.engine.test_cache import KEY, EngineCache, Path\n"
        "with EngineCache(Path(sys.argv[1])).staging(KEY, 10) as made:\n"
        "    made.mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", making, str(tmp_path)], env=package_environment(), cwd=root)
    (left,) = tmp_path.glob("*/.making-*")
    cache = EngineCache(tmp_path)
    with cache.staging(replace(KEY, precision="fp32"), 10) as made:
        assert made.parent.is_dir() and left.is_dir()
        put(cache)  # of the same kind as what was left
        assert made.parent.is_dir() and not left.exists()


def test_two_makers_of_the_same_wait_for_each_other(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    inside, most = 0, 0

    def make() -> None:
        nonlocal inside, most
        with cache.staging(KEY, 10) as made:
            inside += 1
            most = max(most, inside)
            made.mkdir()
            (made / PLAN).write_bytes(b"x")
            cache.commit(made, Manifest(KEY, PLAN, 1, sha256(made / PLAN), 1.0, "now"))
            inside -= 1

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and len(cache.entries()) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EngineError, match="cannot be written.*LENS_ENGINE_CACHE"):
        put(EngineCache(tmp_path / "file" / "cache"))


def test_too_little_space_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"MB free, the engine needs up to \d+ MB.*--prune"):
        with EngineCache(tmp_path).staging(KEY, 1 << 60):
            pytest.fail("there is no such disk")
    assert [p for p in (tmp_path / "model").iterdir() if not p.name.endswith(".lock")] == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        cache = EngineCache(tmp_path)
        put(cache)
        with pytest.raises(EngineError, match="No space left on device"):
            put(cache, replace(KEY, device="8.9 RTX"), bytes(1 << 20))
        assert [e.fault for e in cache.entries()] == [""]
        assert cache.find(KEY).file.read_bytes() == b"an engine"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_models_name_cannot_leave_the_cache(tmp_path: Path) -> None:
    folder = put(EngineCache(tmp_path / "cache"), replace(KEY, model="../../etc/passwd"))
    assert (tmp_path / "cache") in folder.parents


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LENS_ENGINE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "lens_ros" / "engines"
    monkeypatch.setenv("LENS_ENGINE_CACHE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"
    assert json.loads(json.dumps(os.fspath(EngineCache().root))) == str(tmp_path / "mine")
