"""Store compiled models: one folder per engine, with a manifest that is read first.

``<cache>/<model>/<part>-<precision>-<backend>-<fingerprint>/`` holds ``engine.plan`` or ``graph.onnx`` and
``manifest.json``. A folder appears under its name when it is complete, by one rename; before that, its
name begins with a dot. Several models, devices and versions lie side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lens_ros.choices import Backend, Part, Precision
from lens_ros.engine.errors import EngineError, EngineMissing
from lens_ros.inputs import expand_path, writable_folder
from lens_ros.whole import whole_file

MANIFEST = "manifest.json"
_SAME = ("part", "precision", "backend")  # engines that differ in these are other engines, not stale ones
PLAN, GRAPH = "engine.plan", "graph.onnx"


@dataclass(frozen=True)
class Key:
    """Everything that an engine depends on; if any of it changes, the engine is stale.

    ``source`` is the digest of the segmenter's weights, ``format`` that of the graphs' meaning, ``profile``
    the sizes it was made for. ``library`` and ``device`` are empty for ONNX files, which are portable;
    otherwise the TensorRT library with its full version, and compute capability, name and (Jetson) L4T
    release of the GPU, or the list of compute capabilities that a portable engine was made for.
    """

    model: str
    part: Part
    precision: Precision
    backend: Backend
    source: str
    format: int
    profile: str
    library: str = ""
    device: str = ""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def differences(self, other: Key) -> str:
        """Return how this key differs, in words: ``device: 8.7 Orin, expected 8.9 RTX 4090``."""
        mine, theirs = asdict(self), asdict(other)
        short = {"source": "weights"}
        return "; ".join(
            f"{short.get(name, name)}: {_brief(mine[name])}, expected {_brief(theirs[name])}"
            for name in mine
            if mine[name] != theirs[name]
        )


@dataclass(frozen=True)
class Manifest:
    """Recorded facts about an engine.

    ``check`` is the result of the self-check (mask IoU against torch), None if it could not run yet;
    ``check_note`` says why, or what it found. ``tensors`` are name, dtype, shape (-1 is free) and direction
    of every input and output, in order.
    """

    key: Key
    file: str
    size: int
    sha256: str
    seconds: float
    created: str
    check: float | None = None
    check_note: str = ""
    tensors: tuple[dict[str, Any], ...] = ()
    onnx_sha256: str = ""


@dataclass(frozen=True)
class Entry:
    """An engine in the cache.

    ``fault`` says why it cannot be used; it is empty if nothing is known against it.
    """

    folder: Path
    manifest: Manifest | None
    fault: str = ""

    @property
    def file(self) -> Path:
        return self.folder / (self.manifest.file if self.manifest else PLAN)

    def read_again(self) -> Entry:
        """Return the entry's present state; files are compared by size only."""
        return _read(self.folder)


@dataclass(frozen=True)
class EngineCache:
    """Cache of engines in the folder ``root``, which need not exist."""

    root: Path = field(default_factory=lambda: default_root())

    def entries(self, model: str | None = None) -> list[Entry]:
        """Return every entry, damaged ones too; files are compared by size only."""
        pattern = f"{_safe(model)}/*" if model else "*/*"
        folders = sorted(p for p in self.root.glob(pattern) if p.is_dir() and not p.name.startswith("."))
        return [_read(folder) for folder in folders]

    def find(self, key: Key) -> Entry:
        """Return the engine with exactly this key, its file checked byte by byte.

        Raises:
            EngineMissing: there is none of this half, precision and backend.
            EngineError: it is damaged, or differs; the message says in what.
        """
        entry = _read(self._folder(key)) if self._folder(key).is_dir() else None
        if entry is None:
            told, stale = f"no {key.backend} engine for {self._wanted(key)} in {self.root}", self._stale(key)
            if stale:
                raise EngineError(
                    f"{told}; what is there is stale ({stale}): lens build-engine makes it anew"
                )
            raise EngineMissing(f"{told}: lens build-engine makes it")
        if not entry.fault and entry.manifest is not None and entry.manifest.key != key:
            entry = replace(entry, fault=f"its manifest is another's: {entry.manifest.key.differences(key)}")
        if not entry.fault and entry.manifest is not None and sha256(entry.file) != entry.manifest.sha256:
            entry = replace(entry, fault="its bytes are not those that were written: the file is damaged")
        if entry.fault:
            raise EngineError(
                f"{entry.folder} is not usable: {entry.fault}. Build it again: lens build-engine --force"
            )
        return entry

    @contextlib.contextmanager
    def staging(self, key: Key, need: int, *, waits: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """Yield a folder to build an engine in; it is removed afterwards unless :meth:`commit` moved it.

        Holds the lock of this key: a second process that builds the same engine waits, and then finds it.
        Partial builds of this key left by a killed process are removed.

        Args:
            key: of the engine.
            need: most bytes that will be written.
            waits: called when another process holds the lock.

        Raises:
            EngineError: the cache cannot be written, or has not enough space.
        """
        model = self.root / _safe(key.model)
        try:
            model.mkdir(parents=True, exist_ok=True)
            name = self._folder(key).name
            with open(model / f".{name}.lock", "w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waits()
                    fcntl.flock(lock, fcntl.LOCK_EX)
                for left in model.glob(f".making-{name}-*"):  # not in the making: the lock is ours
                    shutil.rmtree(left, ignore_errors=True)
                _need_space(model, need)
                folder = model / f".making-{name}-{os.getpid()}"
                try:  # begins before the folder is there: a signal's exception may come between two steps
                    folder.mkdir()
                    yield folder / "engine"
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise EngineError(
                f"the engine cache {self.root} cannot be written: {error}. Make it writable, free space "
                "there, or choose another folder (--out, LENS_ENGINE_CACHE, parameter engine_cache_dir)."
            ) from error

    def commit(self, made: Path, manifest: Manifest) -> Entry:
        """Make the folder ``made``, which holds the engine's file, an entry, in place of an older one."""
        folder = self._folder(manifest.key)
        write_manifest(made, manifest)
        if folder.exists():
            aside = made.parent / "replaced"
            os.replace(folder, aside)
        os.replace(made, folder)
        return Entry(folder, manifest)

    def sweep(self) -> list[Path]:
        """Remove partial builds left by killed processes, and return their folders."""
        removed = [folder for folder in sorted(self.root.glob("*/.making-*")) if _abandoned(folder)]
        for folder in removed:
            shutil.rmtree(folder, ignore_errors=True)
        return removed

    def prune(self, objection: Callable[[Key], str]) -> list[tuple[Path, str]]:
        """Remove damaged engines, partial builds, and every engine that ``objection`` objects to.

        Returns what was removed, and why.
        """
        removed = [(folder, "left by a build that was killed") for folder in self.sweep()]
        for entry in self.entries():
            reason = entry.fault or (objection(entry.manifest.key) if entry.manifest else "")
            if reason:
                removed.append((entry.folder, reason))
        for folder, _ in removed:
            shutil.rmtree(folder, ignore_errors=True)
        return removed

    def _folder(self, key: Key) -> Path:
        name = f"{key.part}-{key.precision}-{key.backend}-{key.fingerprint[:12]}"
        return self.root / _safe(key.model) / name

    def _wanted(self, key: Key) -> str:
        device = f" on {key.device}" if key.device else ""
        return f"the {key.part} of '{key.model}' in {key.precision}{device}"

    def _stale(self, key: Key) -> str:
        """Return how engines of the same half, precision and backend differ from the wanted one."""
        return " | ".join(
            entry.manifest.key.differences(key)
            for entry in self.entries(key.model)
            if entry.manifest
            and all(getattr(entry.manifest.key, name) == getattr(key, name) for name in _SAME)
        )


def default_root() -> Path:
    """Return ``$LENS_ENGINE_CACHE``, or ``lens_ros/engines`` in the user's cache folder (XDG).

    Raises:
        PathError: a variable names no folder, or there is no home folder.
    """
    if os.environ.get("LENS_ENGINE_CACHE"):
        return writable_folder(os.environ["LENS_ENGINE_CACHE"], "environment variable LENS_ENGINE_CACHE")
    if os.environ.get("XDG_CACHE_HOME"):
        home = writable_folder(os.environ["XDG_CACHE_HOME"], "environment variable XDG_CACHE_HOME")
    else:
        home = expand_path("~/.cache", "folder of the engines (set LENS_ENGINE_CACHE)")
    return home / "lens_ros" / "engines"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``folder/manifest.json`` in one step."""
    with whole_file(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(folder: Path) -> Entry:
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["key"] = Key(**values["key"])
        values["tensors"] = tuple(values["tensors"])
        manifest = Manifest(**values)
    except FileNotFoundError:
        return Entry(folder, None, f"{MANIFEST} is missing")
    except (OSError, ValueError, TypeError, KeyError) as error:
        return Entry(folder, None, f"{MANIFEST} cannot be read ({type(error).__name__}: {error})")
    entry = Entry(folder, manifest)
    if not entry.file.is_file():
        return replace(entry, fault=f"{manifest.file} is missing")
    size = entry.file.stat().st_size
    if size != manifest.size:
        return replace(
            entry, fault=f"{manifest.file} has {size} bytes, expected {manifest.size}: half written"
        )
    return entry


def _need_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise EngineError(
            f"{folder} has {free / 1e6:.0f} MB free, the engine needs up to {need / 1e6:.0f} MB: free space, "
            "remove old engines (lens build-engine --prune), or choose another folder (--out)"
        )


def _abandoned(making: Path) -> bool:
    """Return whether the lock of ``.making-ENTRY-...`` is free, so that no process builds it.

    Unlike the id of a process, a lock also works across the containers of a machine.
    """
    name = making.name.removeprefix(".making-").rpartition("-")[0]
    try:
        with open(making.parent / f".{name}.lock", "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:  # another's lock, or a cache that is not ours to write
        return False
    return True


def _safe(model: str) -> str:
    """Return a model's name as a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in model).lstrip(".") or "model"


def _brief(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text or "none"
