"""Prompts with the truth beside them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.lens import Lens
from lens_ros.model.answers import extent, parse_answer
from lens_ros.model.network import LensModel
from training.data.batches import BatchPlan
from training.data.prompted import Prompter
from training.data.tabletop import TabletopShards

PLAN = BatchPlan(
    images=12, expressions=1, short=False, simple_share=0.1, box_prompts=1, unknown_words=0.3,
    all_share=0.25, none_share=0.25, fast_share=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def lens() -> Lens:
    return Lens.from_pretrained("lens-nano")


@pytest.fixture(scope="module")
def prompter(lens: Lens, shards: TabletopShards) -> Prompter:
    return Prompter(shards, 16, lens.model, lens.tokenizer)


def test_it_is_a_pure_function_of_seed_step_and_share(prompter: Prompter) -> None:
    first, again = (prompter.prompted(3, 5, 1, PLAN) for _ in range(2))
    assert first.instructions == again.instructions
    assert torch.equal(first.masks, again.masks)
    assert torch.equal(first.reasoner_images, again.reasoner_images)
    for other in ((4, 5, 1), (3, 6, 1), (3, 5, 0)):
        assert not torch.equal(prompter.prompted(*other, PLAN).reasoner_images, first.reasoner_images)


def test_answer_boxes_and_mask_are_of_the_same_objects(lens: Lens, prompter: Prompter) -> None:
    prompted = prompter.prompted(0, 0, 0, PLAN)
    side = lens.model.config.image.reasoner_size
    assert {"none", "all_of"} <= set(prompted.kinds)
    for answer, boxes, mask in zip(prompted.answers, prompted.boxes, prompted.masks.numpy(), strict=True):
        read = parse_answer(answer.removesuffix("<|im_end|>"), extent("absolute", side, side))
        assert read.well_formed
        assert len(read.boxes) == len(boxes)
        assert mask.any() == bool(boxes)
        covered = np.zeros_like(mask)
        for found, true in zip(read.boxes, boxes, strict=True):
            assert found.x1 == pytest.approx(true.x1, abs=0.5 / side + 1e-6)
            assert found.y2 == pytest.approx(true.y2, abs=0.5 / side + 1 / side)
            x1, y1, x2, y2 = (round(v * mask.shape[0]) for v in (true.x1, true.y1, true.x2, true.y2))
            covered[y1:y2, x1:x2] = True
        assert not (mask & ~covered).any()


def test_the_prompt_is_what_a_user_asks(lens: Lens, prompter: Prompter) -> None:
    prompted = prompter.prompted(0, 1, 0, PLAN)
    row = next(k for k, text in enumerate(prompted.instructions) if "<unk>" not in text)
    asked: list[list[int]] = []
    encode = lens._encode
    lens_calls = pytest.MonkeyPatch()
    lens_calls.setattr(lens, "_encode", lambda text: asked.append(encode(text).tolist()) or encode(text))
    try:
        lens.segment(
            prompted.segmenter_images[row].numpy(), prompted.instructions[row],
            think=not prompted.openings[row], max_new_tokens=1,
        )  # fmt: skip
    finally:
        lens_calls.undo()
    ids = prompted.prompt_ids[row][prompted.prompt_mask[row].bool()].tolist()
    assert ids == asked[0] + asked[1]


def test_models_that_look_otherwise_are_refused(
    lens: Lens, shards: TabletopShards, tokenizer: PreTrainedTokenizerFast | None = None
) -> None:
    config = lens.model.config
    image = dataclasses.replace(config.image, protocol="refcoco")
    model = LensModel.__new__(LensModel)
    torch.nn.Module.__init__(model)
    model.config = dataclasses.replace(config, image=image)
    with pytest.raises(ValueError, match="protocol is 'square', not 'refcoco'"):
        Prompter(shards, 16, model, lens.tokenizer)
