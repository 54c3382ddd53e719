"""Prompts about pictures with what is true of them: what alignment and reinforcement learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model import prompts
from lens_ros.model.answers import Box
from lens_ros.model.images import squash, visual_grid
from lens_ros.model.network import LensModel, pad_left
from training.data.batches import BatchPlan, Sampler
from training.data.tabletop import TabletopShards
from training.dense import fraction_box


@dataclass(frozen=True)
class Prompted:
    """B pictures, an instruction about each, and the truth.

    Attributes:
        reasoner_images, segmenter_images: ``(B, S, S, 3)`` uint8.
        prompt_ids, prompt_mask: ``(B, P)`` int64, image placeholders included, padding (mask 0) at the left;
            they end where the answer is to begin, behind its opening.
        kinds, instructions: of the expressions.
        openings: what each answer is made to begin with, ``""`` for nothing.
        answers: whole true answers, opening and end token included.
        boxes: of all targets, in fractions of the picture; none where nothing is there.
        masks: ``(B, s, s)`` bool at the segmenter's size, all targets together.
    """

    reasoner_images: torch.Tensor
    segmenter_images: torch.Tensor
    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    kinds: tuple[str, ...]
    instructions: tuple[str, ...]
    openings: tuple[str, ...]
    answers: tuple[str, ...]
    boxes: tuple[tuple[Box, ...], ...]
    masks: torch.Tensor


class Prompter:
    """Makes the prompts of a step from rendered scenes."""

    def __init__(
        self, shards: TabletopShards, scenes: int, model: LensModel, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Uses the first ``scenes`` scenes.

        Raises:
            ValueError: there are fewer, or the model looks at pictures in another way than these are drawn.
        """
        self._image = model.config.image
        if self._image.protocol != "square":
            raise ValueError(
                f"simulated tabletops are for models whose protocol is 'square', not '{self._image.protocol}'"
            )
        self._sampler = Sampler(shards, scenes, self._image)
        self._tokenizer = tokenizer
        rows, cols = visual_grid(self._image.reasoner_size, self._image.reasoner_size)
        self._prefix = prompts.image_prefix(rows * cols)

    def prompted(self, seed: int, step: int, share: int, plan: BatchPlan) -> Prompted:
        """``plan.images`` prompts, which are share ``share`` of the step's: a pure function of the arguments.
        ``plan.expressions`` must be 1."""
        rng = np.random.default_rng([seed, step, share])
        pictures, masks, boxes, said, dialogues = [], [], [], [], []
        for _ in range(plan.images):
            rgb, instances, objects, (expression,) = self._sampler.scene(rng, plan)
            pictures.append(rgb)
            masks.append(np.isin(instances, expression.targets))
            boxes.append(tuple(Box(*fraction_box(instances, target)) for target in expression.targets))
            said.append(expression)
            dialogues.append(self._sampler.dialogue(expression, instances, objects, rng, plan))
        asked = [self._prefix + prompts.question(d.instruction) + d.opening for d in dialogues]
        ids, mask = pad_left([self._encode(text) for text in asked], self._tokenizer.pad_token_id)
        return Prompted(
            reasoner_images=_pictures(pictures, self._image.reasoner_size),
            segmenter_images=_pictures(pictures, self._image.segmenter_size),
            prompt_ids=ids,
            prompt_mask=mask,
            kinds=tuple(e.kind for e in said),
            instructions=tuple(d.instruction for d in dialogues),
            openings=tuple(d.opening for d in dialogues),
            answers=tuple(d.answer for d in dialogues),
            boxes=tuple(boxes),
            masks=torch.from_numpy(np.stack(masks)),
        )

    def _encode(self, text: str) -> torch.Tensor:
        return torch.tensor(self._tokenizer.encode(text, add_special_tokens=False))


def _pictures(rgbs: list[np.ndarray], side: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([squash(rgb, side) for rgb in rgbs]))
