"""Train a SAM 2 segmenter to use mask prompts, without changing anything else.

python -m training.tools.mask_prompts --model lens-nano --out runs/mask_prompts/model

Renders pairs of neighbouring frames of tabletops in motion. The segmenter's own mask of the earlier frame,
degraded at random, and its box are the prompt on the later frame. Only the convolutions that read a mask
prompt (``prompt_encoder.mask_embed``) are trained. Initially they act as if there were no mask prompt.
Answers without a mask prompt stay bit-identical.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.errors import CheckpointError
from lens_ros.model.images import mask_prompts, squash
from lens_ros.model.network import LensModel
from lens_ros.model.sam2 import ImageFeatures, Sam2Segmenter
from lens_ros.simulation.motion import MOTIONS, moments, moving_frames
from lens_ros.simulation.renderer import SimulatorUnavailable, TabletopSimulator
from training.dense import fraction_box
from training.export import RECORD, save_trained
from training.losses import mask_iou, mask_loss
from training.progress import METRICS

_FRAMES = 100  # frames of a motion; a pair is two of them
_MOST_APART = 4  # largest distance in frames within a pair
_LEAST_AREA = 70  # smallest area in pixels of an object, in both frames
_SIDE = 128  # side in pixels at which masks are compared
_PAIRS_PER_STEP, _OBJECTS_PER_PAIR = 8, 4
_BOX_JITTER = 0.06  # share of a box's size


@dataclass(frozen=True)
class Pair:
    """Two encoded frames and their instance maps ``(S, S)`` uint8 at the segmenter's size.

    ``objects`` are the indices of the objects that both frames show.
    """

    earlier: ImageFeatures
    later: ImageFeatures
    instances: tuple[np.ndarray, np.ndarray]
    objects: tuple[int, ...]


def rendered_pairs(model: LensModel, seed: int, count: int) -> Iterator[Pair]:
    """Yield ``count`` pairs of frames from scenes of ``seed``, each of a separate motion."""
    made, index = 0, 0
    with TabletopSimulator() as simulator:
        while made < count:
            rng = np.random.default_rng([seed, index])
            layout = simulator.layout(seed, index)
            target = int(rng.integers(len(layout.placements))) + 1
            pool = simulator.pool(seed, index)
            story = moments(pool, layout, target, MOTIONS[index % len(MOTIONS)], rng, _FRAMES)
            first = int(rng.integers(_FRAMES - _MOST_APART))
            second = first + int(rng.integers(1, _MOST_APART + 1))
            two = list(moving_frames(simulator, seed, index, [story[first], story[second]]))
            both = tuple(
                a.index
                for a, b in zip(two[0].objects, two[1].objects, strict=True)
                if min(a.area, b.area) >= _LEAST_AREA
            )
            index += 1
            if both:
                made += 1
                yield _encoded(model, [frame.rgb for frame in two], [f.instances for f in two], both)


@torch.inference_mode()
def _encoded(
    model: LensModel, rgb: list[np.ndarray], instances: list[np.ndarray], objects: tuple[int, ...]
) -> Pair:
    side = model.config.image.segmenter_size
    pictures = torch.from_numpy(np.stack([squash(picture, side) for picture in rgb]))
    features = model.encode_image(pictures)
    embedding = features.embedding.half()
    levels = [level.half() for level in features.high_resolution]
    one, two = (
        ImageFeatures(embedding[k : k + 1], tuple(level[k : k + 1] for level in levels)) for k in (0, 1)
    )
    small = [cv2.resize(each, (side, side), interpolation=cv2.INTER_NEAREST) for each in instances]
    return Pair(one, two, (small[0], small[1]), objects)


class _Lessons:
    """Draw the training data of a step."""

    def __init__(self, model: LensModel, rng: np.random.Generator) -> None:
        self._model, self._rng = model, rng

    def __call__(self, pairs: list[Pair]) -> tuple[ImageFeatures, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the inputs and targets of a step for ``B`` pairs.

        Returns:
            Features of the ``B`` later frames, box prompts ``(B, n, T, C)``, mask prompts ``(B, n, S/4,
            S/4)`` and targets ``(B * n, 128, 128)``.
        """
        owners = [self._rng.choice(pair.objects, size=_OBJECTS_PER_PAIR) for pair in pairs]
        before = [p.instances[0] for p in pairs]
        logits = self._decode(_batch([p.earlier for p in pairs]), self._boxes(before, owners, 1.0))
        masks = [[self._worse(mask) for mask in each] for each in (logits > 0).numpy()]
        boxes = np.array([[_box(mask) for mask in each] for each in masks], dtype=np.float32)
        prompts = self._prompts(torch.from_numpy(self._jittered(boxes)))
        previous = torch.stack([mask_prompts(each, self._model.config.image) for each in masks])
        targets = np.stack(
            [p.instances[1] == owner for p, each in zip(pairs, owners, strict=True) for owner in each]
        )
        cover = F.adaptive_avg_pool2d(torch.from_numpy(targets).float(), _SIDE)
        return _batch([p.later for p in pairs]), prompts, previous, cover

    @torch.no_grad()
    def _decode(self, features: ImageFeatures, prompts: torch.Tensor) -> torch.Tensor:
        return self._model.segmenter.decode(features, prompts)[0]

    def _boxes(self, instances: list[np.ndarray], owners: list[np.ndarray], jitter: float) -> torch.Tensor:
        boxes = [
            [fraction_box(each, int(k)) for k in mine] for each, mine in zip(instances, owners, strict=True)
        ]
        return self._prompts(torch.from_numpy(self._jittered(np.array(boxes, dtype=np.float32), jitter)))

    def _jittered(self, boxes: np.ndarray, strength: float = 1.0) -> np.ndarray:
        extent = np.tile(boxes[..., 2:] - boxes[..., :2], 2)
        noise = self._rng.normal(size=boxes.shape).astype(np.float32) * _BOX_JITTER * strength
        return boxes + noise * extent

    @torch.no_grad()
    def _prompts(self, fractions: torch.Tensor) -> torch.Tensor:
        return self._model.segmenter.box_prompts(fractions * self._model.config.image.segmenter_size)

    def _worse(self, mask: np.ndarray) -> np.ndarray:
        """Shift, grow or shrink a mask ``(s, s)`` bool; return it unchanged if nothing would be left."""
        shift = self._rng.integers(-1, 2, size=2)
        worse: np.ndarray = np.roll(mask, shift, axis=(0, 1)).astype(np.uint8)
        change = self._rng.random()
        if change < 0.15:
            worse = cv2.dilate(worse, np.ones((3, 3), np.uint8))
        elif change < 0.3:
            worse = cv2.erode(worse, np.ones((2, 2), np.uint8))
        return worse > 0 if worse.any() else mask


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    return fraction_box(mask.astype(np.uint8), 1)


def _batch(features: list[ImageFeatures]) -> ImageFeatures:
    levels = zip(*(f.high_resolution for f in features), strict=True)
    return ImageFeatures(
        torch.cat([f.embedding for f in features]).float(),
        tuple(torch.cat(list(level)).float() for level in levels),
    )


def begin_without_effect(segmenter: Sam2Segmenter) -> list[torch.nn.Parameter]:
    """Initialise mask prompts to have no effect; return the parameters to train."""
    embed = segmenter.sam.prompt_encoder.mask_embed
    for module in embed.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            torch.nn.init.zeros_(module.bias)
    last = [module for module in embed.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data.copy_(segmenter.no_mask_embedding.flatten())
    return list(embed.parameters())


def train(model: LensModel, pairs: list[Pair], steps: int, lr: float, seed: int) -> list[dict[str, float]]:
    """Train in place and return the curve.

    The curve holds loss and IoU of masks with and without the mask prompt, means over 50 steps.
    """
    if not isinstance(model.segmenter, Sam2Segmenter):
        raise ValueError("this model's segmenter is not a SAM 2; SAM's mask prompts are trained as released")
    model.requires_grad_(False)
    parameters = begin_without_effect(model.segmenter)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    rng = np.random.default_rng([seed, 1])
    lessons = _Lessons(model, rng)
    curve: list[dict[str, float]] = []
    recent: list[tuple[float, float, float]] = []
    for step in tqdm(range(1, steps + 1), unit="step"):
        chosen = [pairs[k] for k in rng.choice(len(pairs), _PAIRS_PER_STEP, replace=False)]
        features, prompts, previous, targets = lessons(chosen)
        with torch.no_grad():
            plain = _sized(model.segmenter.decode(features, prompts)[0])
        logits = _sized(model.segmenter.decode(features, prompts, previous)[0])
        loss = mask_loss(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        with_prompt, without = (mask_iou(each.detach(), targets).mean().item() for each in (logits, plain))
        recent.append((loss.item(), with_prompt, without))
        if step % 50 == 0 or step == steps:
            mean = np.mean(recent, axis=0).round(4).tolist()
            curve.append(dict(zip(("step", "loss", "iou", "iou_box_only"), (step, *mean), strict=True)))
            tqdm.write(str(curve[-1]))
            recent.clear()
    return curve


def _sized(logits: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits.flatten(0, 1)[:, None], size=(_SIDE, _SIDE), mode="bilinear")[:, 0]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="lens-nano", help="name or folder (default: lens-nano)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new model, replaced")
    parser.add_argument("--seed", type=int, default=5, help="of the scenes that are rendered")
    parser.add_argument("--pairs", type=int, default=900)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if min(options.pairs, options.steps, options.threads) < 1 or options.pairs < _PAIRS_PER_STEP:
        parser.error(f"--pairs must be at least {_PAIRS_PER_STEP}, --steps and --threads at least 1")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started = time.monotonic()
    try:
        source = find_model(options.model)
        model, tokenizer = load_model(source)
        pairs = list(
            tqdm(rendered_pairs(model, options.seed, options.pairs), total=options.pairs, unit="pair")
        )
        curve = train(model, pairs, options.steps, options.lr, options.seed)
        save_trained(model, tokenizer, options.out)
        parent = json.loads((source / RECORD).read_text(encoding="utf-8"))
    except (CheckpointError, SimulatorUnavailable, OSError, ValueError) as error:
        print(f"training.tools.mask_prompts: {error}", file=sys.stderr)
        return 2
    record = {
        "program": "training.tools.mask_prompts",
        "seconds": round(time.monotonic() - started),
        "rendered_seeds": sorted({options.seed, *parent["rendered_seeds"]}),
        "config": {name: getattr(options, name) for name in ("seed", "pairs", "steps", "lr")},
        "curve": curve,
        "started_from": parent,
    }
    (options.out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.copy(source / METRICS, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
