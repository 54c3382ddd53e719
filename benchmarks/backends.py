"""Compare the speed of segmenter backends: torch, ONNX Runtime and TensorRT, with the same weights.

    python -m benchmarks.backends                                      # lens-nano on the CPU
    python -m benchmarks.backends --device cuda --models sam2-large    # with a GPU: SAM 2-L, random weights

The backends take turns. The columns are medians in milliseconds: the image encoder; the decoder for one and
for eight objects; a frame's update with a cached prompt, from a 640x480 picture to its mask, everything
included; and how often per second that can be done. The ratio compares the frame's update with torch's.
Engines that are missing in the given folder are built first. A backend that cannot run here is listed with
the reason. Exit status 1 if a backend's masks differ from torch's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm import tqdm

from benchmarks.first_mask import scaled
from benchmarks.timing import seconds
from lens_ros.choices import BackendChoice
from lens_ros.engine.backends import compiled, open_engines
from lens_ros.engine.build import build
from lens_ros.engine.cache import EngineCache
from lens_ros.engine.errors import EngineError
from lens_ros.engine.selfcheck import PICTURES
from lens_ros.model.checkpoint import SEGMENTER, WEIGHTS, find_model, load_segmenter
from lens_ros.model.config import ImageConfig, LensConfig
from lens_ros.model.images import segmenter_boxes, segmenter_inputs, segmenter_picture, upsample
from lens_ros.model.network import build_segmenter
from lens_ros.model.sam2 import ImageFeatures, Sam2Segmenter

BACKENDS: tuple[BackendChoice, ...] = ("torch", "onnxruntime", "tensorrt_rtx", "tensorrt")


class Said:
    """Print the progress of a build on standard error."""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def step(self, phase: str, done: int, of: int) -> None:
        pass


def random_folder(parent: Path, config: LensConfig) -> Path:
    """Write a SAM 2 with random weights as a model folder, with only what a segmenter needs."""
    torch.manual_seed(0)
    segmenter = build_segmenter(config)
    assert isinstance(segmenter, Sam2Segmenter)
    segmenter.initialize_from_scratch()
    folder = parent / config.name
    folder.mkdir(parents=True)
    config.save(folder)
    save_file({SEGMENTER + n: t.contiguous() for n, t in segmenter.state_dict().items()}, folder / WEIGHTS)
    return folder


class Stage:
    """A segmenter, a picture, and the calls that are timed on them."""

    def __init__(self, segmenter: Any, truth: Any, image: ImageConfig, device: str) -> None:
        self.segmenter, self.image, self.device = segmenter, image, device
        self.rgb = np.asarray(Image.open(PICTURES / "tabletop1.jpg").convert("RGB"))
        boxes = json.loads((PICTURES / "boxes.json").read_text())["boxes"]["tabletop1.jpg"][:8]
        height, width = self.rgb.shape[:2]
        fractions = torch.tensor([boxes]) / torch.tensor([width, height, width, height])
        self.prompts = truth.box_prompts(segmenter_boxes(fractions, (height, width), image).to(device))
        self.features: ImageFeatures = self.encode()

    def encode(self) -> ImageFeatures:
        picture = torch.from_numpy(np.array(segmenter_picture(self.rgb, self.image)))[None].to(self.device)
        return self.segmenter.encode(segmenter_inputs(picture, self.image))

    def decode(self, count: int) -> torch.Tensor:
        prompts = self.prompts.expand(1, -1, -1, -1)[:, torch.arange(count) % self.prompts.shape[1]]
        return self.segmenter.decode(self.features, prompts)[0]

    def frame(self) -> np.ndarray:
        logits = self.segmenter.decode(self.encode(), self.prompts[:, :1])[0]
        return (upsample(logits[0], self.rgb.shape[:2], self.image) > 0).cpu().numpy()


@torch.inference_mode()
def measure(folder: Path, device: str, cache: EngineCache, repeats: int) -> list[dict[str, Any]]:
    config, truth, _ = load_segmenter(folder)
    truth = truth.to(device)
    rows, stages = [], {}
    for backend in BACKENDS:
        row: dict[str, Any] = {"model": config.name, "device": device, "backend": backend, "note": ""}
        rows.append(row)
        try:
            if backend != "torch" and backend != "auto":
                build(folder, backend, cache, Said())
            engines = open_engines(folder, config, backend=backend, device=device, cache=cache)
            if backend != "torch" and (engines.encoder.label == "torch" or engines.decoder.label == "torch"):
                raise EngineError(str(engines))
        except EngineError as error:
            row["note"] = str(error)
            continue
        row["precision"] = engines.encoder.label.split()[-1] if backend != "torch" else "fp32"
        segmenter = compiled(load_segmenter(folder)[1], engines).to(device)
        stages[backend] = Stage(segmenter, truth, config.image, device)
    runs: dict[str, dict[str, Callable[[], Any]]] = {
        name: {
            "encode_ms": stage.encode,
            "decode1_ms": partial(stage.decode, 1),
            "decode8_ms": partial(stage.decode, 8),
            "frame_ms": stage.frame,
        }
        for name, stage in stages.items()
    }
    times: dict[tuple[str, str], list[float]] = {(b, n): [] for b in runs for n in runs[b]}
    for turn in tqdm(range(repeats + 3), desc=config.name, file=sys.stderr):
        for owner, what in runs.items():
            for name, run in what.items():
                elapsed = 1e3 * seconds(run, device)
                if turn >= 3:  # the first turns are warm-up
                    times[owner, name].append(elapsed)
    expected = stages["torch"].decode(8) > 0
    for row in rows:
        if row["backend"] in stages:
            row |= {n: statistics.median(t) for (b, n), t in times.items() if b == row["backend"]}
            row["hz"] = 1e3 / row["frame_ms"]
            found = stages[row["backend"]].decode(8) > 0
            union = (found | expected).sum()
            row["iou"] = float((found & expected).sum() / union.clamp_min(1))
    torch_ms = rows[0]["frame_ms"]
    for row in rows:
        if "frame_ms" in row:
            row["ratio"] = torch_ms / row["frame_ms"]
    return rows


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", choices=["lens-nano", "sam2-large"], default=["lens-nano"])
    parser.add_argument("--engines", type=Path, help="folder of the engines (default: one that is removed)")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2, help="on the CPU (default: 2)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = EngineCache(options.engines or Path(scratch) / "engines")
        for name in options.models:
            nano = name == "lens-nano"
            folder = find_model(name) if nano else random_folder(Path(scratch), scaled(1, name))
            rows += measure(folder, options.device, cache, options.repeats)
    _print(rows)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.get("iou", 1.0) >= 0.98 for row in rows) else 1


def _print(rows: list[dict[str, Any]]) -> None:
    head = f"{'model':11s} {'backend':13s} precision  encoder  decoder N=1    N=8"
    print(f"{head}  frame 640x480        ratio  mask IoU")
    for row in rows:
        head = f"{row['model']:11s} {row['backend']:13s}"
        if "frame_ms" not in row:
            print(f"{head} not here: {row['note'][:110]}")
            continue
        print(
            f"{head} {row['precision']:9s} {row['encode_ms']:8.1f} {row['decode1_ms']:12.1f} "
            f"{row['decode8_ms']:6.1f} {row['frame_ms']:7.1f} ms {row['hz']:5.0f} Hz {row['ratio']:6.2f}x "
            f"{row['iou']:9.4f}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
