"""Instructions on simulated tabletops with the true answer and mask, as input for :class:`Policy`.

All are pure functions of a random generator, so a step's batch depends on (seed, step, share) alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from lens_ros.model import prompts
from lens_ros.model.images import reasoner_picture, segmenter_picture, visual_grid
from lens_ros.model.network import LensModel
from lens_ros.simulation.expressions import SIMPLE_KINDS, Expression, sample_expression
from lens_ros.simulation.scene import SceneObject, mirror
from training.data.batches import HARD_KINDS
from training.data.tabletop import TabletopShards
from training.dense import fraction_box
from training.policy import Completions

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in fractions of the image


@dataclass(frozen=True)
class Mix:
    """Shares, 0 to 1, of the kinds of instructions.

    Attributes:
        simple, hard: A simple kind of expression, or one of those that are hardest to learn, drawn on
            purpose.
        all_of, none: All of several objects, and absent objects.
        fast: Answers without a rationale.
        unknown_words: Instructions with a word, at a random place, that the tokenizer does not know.
    """

    simple: float = 0.12
    hard: float = 0.0
    all_of: float = 0.16
    none: float = 0.14
    fast: float = 0.25
    unknown_words: float = 0.15


@dataclass(frozen=True)
class Example:
    """One instruction on one image.

    Attributes:
        rgb: ``(H, W, 3)`` uint8.
        instruction: Text as a person says it.
        think: Whether a rationale is asked for.
        rationale: Rationale of the true answer.
        labels: Labels of the true answer, one per box.
        boxes: Boxes of all targets; empty if there is no target.
        mask: ``(H, W)`` bool, all targets.
        kind: Kind of expression (:mod:`lens_ros.simulation.expressions`).
    """

    rgb: np.ndarray
    instruction: str
    think: bool
    rationale: str
    labels: tuple[str, ...]
    boxes: tuple[Box, ...]
    mask: np.ndarray
    kind: str


class Examples:
    """Draw examples from rendered scenes."""

    def __init__(self, shards: TabletopShards, scenes: int, mix: Mix, extent: int) -> None:
        """Use the first ``scenes`` scenes.

        Args:
            shards: The rendered scenes.
            scenes: Number of scenes to use.
            mix: Shares of the kinds of instructions.
            extent: Side of the picture to which pixel coordinates in rationales refer.

        Raises:
            ValueError: There are fewer scenes.
        """
        if len(shards) < scenes:
            raise ValueError(
                f"the data folder holds {len(shards)} scenes, the configuration asks for {scenes}; "
                "render the rest with python -m training.data.tabletop"
            )
        self._shards, self._scenes, self._mix, self._extent = shards, scenes, mix, extent

    def draw(self, rng: np.random.Generator, count: int) -> list[Example]:
        """Draw ``count`` examples, each of a separate scene, mirrored and relit at random."""
        return [self._draw(rng) for _ in range(count)]

    def _draw(self, rng: np.random.Generator) -> Example:
        while True:
            rgb, instances, objects = self._shards.scene(int(rng.integers(self._scenes)))
            size = (rgb.shape[1], rgb.shape[0])
            if rng.random() < 0.5:
                rgb, instances, objects = rgb[:, ::-1], instances[:, ::-1], mirror(objects, size[0])
            if objects and (said := self._say(objects, size, rng)) is not None:
                break
        named = {o.index: f"{o.color} {o.category}" for o in objects}
        think = rng.random() >= self._mix.fast
        gain = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, size=3)  # exposure and white balance
        return Example(
            rgb=np.clip(rgb * gain.astype(np.float32), 0, 255).astype(np.uint8),
            instruction=said.text,
            think=think,
            rationale=said.rationale if think else "",
            labels=tuple(named[target] for target in said.targets),
            boxes=tuple(fraction_box(instances, target) for target in said.targets),
            mask=np.isin(instances, said.targets),
            kind=said.kind,
        )

    def _say(
        self, objects: tuple[SceneObject, ...], size: tuple[int, int], rng: np.random.Generator
    ) -> Expression | None:
        mix, kind, draw = self._mix, None, rng.random()
        if draw < mix.simple:
            kind = SIMPLE_KINDS[int(rng.integers(len(SIMPLE_KINDS)))]
        elif draw < mix.simple + mix.all_of:
            kind = "all_of"
        elif draw < mix.simple + mix.all_of + mix.none:
            kind = "none"
        elif draw < mix.simple + mix.all_of + mix.none + mix.hard:
            kind = HARD_KINDS[int(rng.integers(len(HARD_KINDS)))]
        said = sample_expression(objects, size, rng, kind=kind, coordinate_extent=self._extent)
        if said is None or rng.random() >= mix.unknown_words:
            return said
        words = said.text.split()
        words.insert(int(rng.integers(len(words) + 1)), prompts.UNKNOWN)
        return dataclasses.replace(said, text=" ".join(words))


def taught(examples: Sequence[Example], model: LensModel, tokenizer: PreTrainedTokenizerFast) -> Completions:
    """Return the examples as the policy reads them, each with the true answer as its only completion.

    For other completions of the same prompts, replace ``completion_ids`` and ``completion_mask``.

    Raises:
        ValueError: The reasoner's pictures differ in size.
    """
    config = model.config
    pictures = [reasoner_picture(example.rgb, config.image) for example in examples]
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(
            "the reasoner's pictures of a batch must have one size, got "
            f"{sorted({p.shape[:2] for p in pictures})}: "
            "use images of one size, one image per part (accumulate), or protocol 'square'"
        )
    height, width = pictures[0].shape[:2]
    rows, cols = visual_grid(height, width)
    prefix = prompts.image_prefix(rows * cols, config.wording)

    def encode(text: str) -> torch.Tensor:
        return torch.tensor(tokenizer.encode(text, add_special_tokens=False))

    asked, said = [], []
    for example in examples:
        opening = prompts.opening(config.wording, think=example.think)
        question = prompts.question(example.instruction, config.wording, think=example.think)
        boxes = [pixel_box(box, width, height) for box in example.boxes]
        answer = prompts.answer(example.rationale, boxes, example.labels)
        asked.append(encode(prefix + question + opening))
        said.append(encode(answer.removeprefix(opening)))
    prompt_ids, prompt_mask = _padded(asked, tokenizer.pad_token_id, left=True)
    completion_ids, completion_mask = _padded(said, tokenizer.pad_token_id, left=False)
    return Completions(
        torch.from_numpy(np.stack(pictures)),
        torch.from_numpy(np.stack([segmenter_picture(example.rgb, config.image) for example in examples])),
        prompt_ids,
        prompt_mask,
        completion_ids[:, None],
        completion_mask[:, None],
    )


def pixel_box(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Convert a box in fractions of the image to whole pixels, 0 to side - 1, of a picture of this size."""
    x1, y1, x2, y2 = (
        min(side - 1, max(0, round(f * side)))
        for f, side in zip(box, (width, height, width, height), strict=True)
    )
    return x1, y1, x2, y2


def _padded(sequences: Sequence[torch.Tensor], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token sequences to ``(B, L)`` int64 ids and mask."""
    longest = max(len(s) for s in sequences)

    def padding(s: torch.Tensor) -> tuple[int, int]:
        missing = longest - len(s)
        return (missing, 0) if left else (0, missing)

    ids = torch.stack([F.pad(s, padding(s), value=pad) for s in sequences])
    return ids, torch.stack([F.pad(torch.ones_like(s), padding(s)) for s in sequences])
