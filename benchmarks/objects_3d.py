"""Compare located objects with the simulator's truth, and measure the time of one.

    python -m benchmarks.objects_3d --scenes 60 --json out/objects_3d.json --sheet out/objects_3d.jpg

True masks of random tabletops, objects of which at least 60 % are visible. `center` is the distance between
the centres of the true and the estimated box, `edges` the error of an edge's length: medians in millimetres.
Times are of one core, as a ratio to an OpenCV blur of the same image.
"""

from __future__ import annotations

import argparse
import collections
import json
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from lens_ros.geometry.cameras import Camera
from lens_ros.geometry.depth_views import DepthView
from lens_ros.geometry.errors import GeometryError
from lens_ros.geometry.objects import Located, locate
from lens_ros.simulation.depth_noise import structured_light
from lens_ros.simulation.meshes import Shape
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Frame, Placement
from lens_ros.visualization import draw_box

VISIBLE = 0.6  # least share of an object's silhouette
SIZE = (640, 480)


def camera_of(frame: Frame) -> Camera:
    """Return the frame's camera; the simulator puts the centre of the first pixel at 0.5, 0.5."""
    matrix = frame.intrinsics
    return Camera(matrix[0, 0], matrix[1, 1], matrix[0, 2] - 0.5, matrix[1, 2] - 0.5)


def true_box(frame: Frame, shape: Shape, placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """Return centre (3,) in the camera's frame and edges (3,) of an object's upright box, in metres."""
    vertices = np.concatenate([part.surface.vertices for part in shape.parts])
    turn = np.array(
        [[np.cos(placement.yaw), -np.sin(placement.yaw)], [np.sin(placement.yaw), np.cos(placement.yaw)]]
    )
    flat = vertices[:, :2] @ turn.T + placement.position[:2]
    (x, y), edges, _ = cv2.minAreaRect(flat.astype(np.float32))
    bottom, top = placement.position[2], placement.position[2] + shape.height
    center = np.array([x, y, (bottom + top) / 2])
    pose = frame.camera_pose
    return (center - pose[:3, 3]) @ pose[:3, :3], np.array([*sorted(edges), shape.height])


def errors(found: Located, center: np.ndarray, edges: np.ndarray) -> dict[str, float]:
    """Return the errors of one object in millimetres."""
    width, length, height = *sorted(found.box.size[:2]), found.box.size[2]
    off = np.abs(np.array([width, length, height]) - edges) * 1e3
    names = ("short edge", "long edge", "height")
    return {
        "center": float(np.linalg.norm(found.box.center - center) * 1e3),
        **dict(zip(names, off.tolist(), strict=True)),
    }


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return medians over objects; `edges` over all edges of all objects."""
    names = ("short edge", "long edge", "height")
    medians = {name: float(np.median([row[name] for row in rows])) for name in ("center", *names)}
    return {
        "n": len(rows),
        **medians,
        "edges": float(np.median([row[name] for row in rows for name in names])),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=9701)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="write pictures of the first scenes here")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    measured: dict[str, list[dict[str, float]]] = {"exact depth": [], "structured light": []}
    by_category: dict[str, list[dict[str, float]]] = collections.defaultdict(list)
    milliseconds, blurs, failed, pictures = [], [], 0, []
    with TabletopSimulator() as simulator:
        for index in tqdm(range(options.scenes), unit="scene", disable=None):
            frame = simulator.frame(options.seed, index, size=SIZE)
            layout, pool = simulator.layout(options.seed, index), simulator.pool(options.seed, index)
            rng = np.random.default_rng([options.seed, index])
            drawn = frame.rgb.copy()
            for name, depth in (
                ("exact depth", frame.depth),
                ("structured light", structured_light(frame.depth, rng)),
            ):
                view = DepthView.registered(depth, camera_of(frame), depth.shape)
                for each, placement in zip(frame.objects, layout.placements, strict=True):
                    if each.visible_fraction < VISIBLE:
                        continue
                    mask = frame.instances == each.index
                    started = time.perf_counter()
                    try:
                        found = locate(view, mask)
                    except GeometryError:
                        failed += 1
                        continue
                    milliseconds.append(1e3 * (time.perf_counter() - started))
                    row = errors(found, *true_box(frame, pool.shapes[placement.pool_index], placement))
                    measured[name].append(row)
                    if name == "structured light":
                        by_category[each.category].append(row)
                        draw_box(drawn, view.camera, found.box.corners)
            started = time.perf_counter()
            cv2.GaussianBlur(frame.rgb, (0, 0), 5)
            blurs.append(1e3 * (time.perf_counter() - started))
            pictures.append(drawn)
    report = {name: summary(rows) for name, rows in measured.items()}
    categories = {name: summary(rows) for name, rows in sorted(by_category.items())}
    times = {"ms": float(np.median(milliseconds)), "ms_p95": float(np.percentile(milliseconds, 95))}
    times["ratio_to_blur"] = times["ms"] / float(np.median(blurs))
    columns = ("n", "center", "short edge", "long edge", "height", "edges")
    for name, row in (report | categories).items():
        print(f"{name:18}", *(f"{column} {row[column]:6.1f}" for column in columns))
    print(f"one object: median {times['ms']:.1f} ms, 95 % {times['ms_p95']:.1f} ms, "
          f"{times['ratio_to_blur']:.2f} times a Gaussian blur; not located: {failed}")  # fmt: skip
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps(
                {"errors_mm": report, "by_category": categories, "times": times, "failed": failed}, indent=1
            )
        )
    if options.sheet:
        rows = [
            np.concatenate(pictures[k : k + 3], axis=1) for k in range(0, min(9, len(pictures) // 3 * 3), 3)
        ]
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows)).save(options.sheet)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
