"""``lens build-engine``: build, list and remove compiled segmenters for this machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from lens_ros.choices import BACKENDS, PARTS, PRECISIONS
from lens_ros.engine.cache import EngineCache, Entry
from lens_ros.engine.errors import EngineError
from lens_ros.model.errors import CheckpointError


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="lens-nano", help="name or folder (default: lens-nano)")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="onnxruntime",
        help="tensorrt: this machine's GPU or Jetson; tensorrt_rtx: RTX desktops, also built without a GPU; "
        "onnxruntime: any CPU (default)",
    )  # fmt: skip
    parser.add_argument("--part", choices=PARTS, action="append", help="one half alone (default: both)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="this one (default: the first that passes the self-check)"
    )
    parser.add_argument(
        "--for", dest="capabilities", default="", metavar="SM86,SM89",
        help="tensorrt_rtx: the GPUs that the engine is for (default: the one here, else every RTX)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the engines (default: the user's cache)")
    parser.add_argument("--json", type=Path, help="also write what was made here")
    parser.add_argument("--force", action="store_true", help="make anew what is there already")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show the engines that are there, and their state")
    what.add_argument("--prune", action="store_true", help="remove damaged, stale and half-made engines")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status: 0 done, 2 not possible."""
    cache = EngineCache(options.out) if options.out else EngineCache()
    try:
        if options.list:
            return _list(cache, options)
        if options.prune:
            return _prune(cache, options)
        return _build(cache, options)
    except (CheckpointError, EngineError) as error:
        print(f"lens build-engine: {error}", file=sys.stderr)
        return 2


def _build(cache: EngineCache, options: argparse.Namespace) -> int:
    from lens_ros.engine.build import as_json, build
    from lens_ros.model.checkpoint import find_model

    terminal = Terminal()
    try:
        built = build(
            find_model(options.model),
            options.backend,
            cache,
            terminal,
            parts=tuple(options.part or PARTS),
            precision=options.precision,
            capabilities=tuple(filter(None, options.capabilities.split(","))),
            force=options.force,
        )
    finally:
        terminal.close()
    for one in built:
        size = one.entry.file.stat().st_size / 1e6
        made = "was there" if one.reused else f"{one.seconds:.1f} s"
        print(
            f"{one.part:8s} {options.backend} {one.precision}  {size:8.1f} MB  {made:>9s}  {one.entry.file}"
        )
    _write(options.json, {"backend": options.backend, "engines": as_json(built)})
    return 0


def _list(cache: EngineCache, options: argparse.Namespace) -> int:
    objection = _objection(options)
    rows = [(entry, _state(entry, objection)) for entry in cache.entries()]
    if not rows:
        print(f"no engines in {cache.root}")
    for entry, state in rows:
        print(f"{entry.folder.parent.name}/{entry.folder.name}: {state}")
    engines = [
        {
            "folder": str(entry.folder),
            "state": state,
            "manifest": asdict(entry.manifest) if entry.manifest else None,
        }
        for entry, state in rows
    ]
    _write(options.json, {"cache": str(cache.root), "engines": engines})
    return 0


def _prune(cache: EngineCache, options: argparse.Namespace) -> int:
    removed = cache.prune(_objection(options))
    for folder, reason in removed:
        print(f"removed {folder.parent.name}/{folder.name}: {reason}")
    print(f"{len(removed)} removed from {cache.root}")
    _write(options.json, {"removed": [{"folder": str(f), "reason": reason} for f, reason in removed]})
    return 0


def _objection(options: argparse.Namespace):
    from lens_ros.engine.build import Source
    from lens_ros.engine.state import staleness
    from lens_ros.model.checkpoint import find_model

    try:
        source = Source.read(find_model(options.model))
        digests = {source.config.name: source.digest}
    except CheckpointError:
        digests = {}
    return lambda key: staleness(key, digests)


def _state(entry: Entry, objection) -> str:
    if entry.manifest is None or entry.fault:
        return f"damaged: {entry.fault}"
    stale = objection(entry.manifest.key)
    return f"stale: {stale}" if stale else f"ready, {entry.manifest.check_note}"


def _write(path: Path | None, content: dict) -> None:
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise EngineError(f"{path} cannot be written: {error}; choose another --json") from error


class Terminal:
    """Progress for people: one line per message, one bar per phase of the compiler."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def say(self, text: str) -> None:
        self.close()
        print(text, file=sys.stderr, flush=True)

    def step(self, phase: str, done: int, of: int) -> None:
        if self._bar is None or self._bar.desc != phase or self._bar.total != of:
            self.close()
            self._bar = tqdm(total=of, desc=phase, file=sys.stderr, leave=False, mininterval=0.2)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
