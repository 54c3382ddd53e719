"""Render tabletop scenes into shards and read them back by memory map.

python -m training.data.tabletop --seed 1 --scenes 12288 --workers 2 --out data/tabletop

A shard is one block of 64 scenes of one image size: OUT/<seed>-<block>/ with rgb.npy (n, H, W, 3) uint8,
instances.npy (n, H, W) uint8 and objects.json (n lists of SceneObject fields). A shard gets its final name
when it is complete. An interrupted run renders only what is missing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lens_ros.simulation.layout import SCENES_PER_BLOCK
from lens_ros.simulation.renderer import SimulatorUnavailable, TabletopSimulator
from lens_ros.simulation.scene import SceneObject
from lens_ros.whole import whole_folder


@dataclass(frozen=True)
class Job:
    """One shard to render: the first `scenes` scenes of `block`."""

    seed: int
    block: int
    scenes: int
    count: tuple[int, int]
    held_out_pairs: bool
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / f"{self.seed}-{self.block:05d}"


class TabletopShards:
    """All scenes of the shards below a folder, sorted by shard name. Images stay on disk until read."""

    def __init__(self, directory: str | Path) -> None:
        """Open the shards. Raises FileNotFoundError if `directory` holds no finished shard."""
        folders = sorted(path.parent for path in Path(directory).glob("[0-9]*/objects.json"))
        if not folders:
            raise FileNotFoundError(
                f"no finished shards in {directory}: "
                f"render some with python -m training.data.tabletop --out {directory}"
            )
        self._rgb = [np.load(folder / "rgb.npy", mmap_mode="r") for folder in folders]
        self._instances = [np.load(folder / "instances.npy", mmap_mode="r") for folder in folders]
        self._objects = [
            [tuple(_scene_object(entry) for entry in scene) for scene in json.loads(_read(folder))]
            for folder in folders
        ]
        self._starts = np.cumsum([0] + [len(scenes) for scenes in self._objects])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def scene(self, index: int) -> tuple[np.ndarray, np.ndarray, tuple[SceneObject, ...]]:
        """Return the images and the objects of scene `index`.

        Returns:
            rgb (H, W, 3) uint8, instances (H, W) uint8 (both read-only maps), and the objects.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        local = index - int(self._starts[shard])
        return self._rgb[shard][local], self._instances[shard][local], self._objects[shard][local]


def render_shards(
    jobs: Iterable[Job], *, workers: int = 1, progress: Callable[[int], object] | None = None
) -> int:
    """Render the jobs whose shard is missing and return the number of scenes rendered.

    Args:
        jobs: The shards to render.
        workers: Number of processes.
        progress: Called with the number of scenes of each finished shard.

    Raises:
        SimulatorUnavailable: There is no OpenGL.
    """
    missing = [job for job in jobs if not job.folder.exists()]
    for job in missing:
        job.out.mkdir(parents=True, exist_ok=True)
    total = 0
    # Software OpenGL would start one thread per core in every worker.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if workers <= 1:
        with TabletopSimulator() as simulator:
            for job in missing:
                total += _render_shard(simulator, job)
                if progress:
                    progress(job.scenes)
        return total
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for scenes in pool.imap_unordered(_render_in_worker, missing):
            total += scenes
            if progress:
                progress(scenes)
    return total


def plan(
    seed: int, scenes: int, out: Path, *, count: tuple[int, int] = (3, 9), held_out_pairs: bool = False
) -> list[Job]:
    """Return jobs for the first `scenes` scenes of `seed`; the last block may be partial."""
    starts = range(0, scenes, SCENES_PER_BLOCK)
    return [
        Job(
            seed, start // SCENES_PER_BLOCK, min(SCENES_PER_BLOCK, scenes - start), count, held_out_pairs, out
        )
        for start in starts
    ]


_worker_simulator: TabletopSimulator | None = None


def _render_in_worker(job: Job) -> int:
    global _worker_simulator  # one OpenGL context per process, reused for all shards
    if _worker_simulator is None:
        _worker_simulator = TabletopSimulator()
    return _render_shard(_worker_simulator, job)


def _render_shard(simulator: TabletopSimulator, job: Job) -> int:
    first = job.block * SCENES_PER_BLOCK
    frames = [
        simulator.frame(job.seed, first + i, count=job.count, held_out_pairs=job.held_out_pairs, depth=False)
        for i in range(job.scenes)
    ]
    objects = [[asdict(item) for item in frame.objects] for frame in frames]
    with whole_folder(job.folder) as unfinished:
        np.save(unfinished / "rgb.npy", np.stack([frame.rgb for frame in frames]))
        np.save(unfinished / "instances.npy", np.stack([frame.instances for frame in frames]))
        (unfinished / "objects.json").write_text(json.dumps(objects), encoding="utf-8")
    return job.scenes


def _read(folder: Path) -> str:
    return (folder / "objects.json").read_text(encoding="utf-8")


def _scene_object(entry: dict) -> SceneObject:
    return SceneObject(**{**entry, "position": tuple(entry["position"]), "box": tuple(entry["box"])})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Render tabletop scenes into shards.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=12288)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, nargs=2, default=(3, 9), metavar=("FEWEST", "MOST"))
    parser.add_argument("--held-out-pairs", action="store_true", help="also render the held-out pairs")
    options = parser.parse_args(arguments)
    jobs = plan(
        options.seed,
        options.scenes,
        options.out,
        count=tuple(options.count),
        held_out_pairs=options.held_out_pairs,
    )
    done = sum(job.scenes for job in jobs if job.folder.exists())
    try:
        with tqdm(total=options.scenes, initial=done, unit="scene") as bar:
            render_shards(jobs, workers=options.workers, progress=bar.update)
    except SimulatorUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
