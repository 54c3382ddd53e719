"""Batches are pure functions; packing several expressions into a row changes none of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model import prompts
from lens_ros.model.network import LensModel
from lens_ros.model.positions import mrope_positions
from training.config import SuperviseConfig
from training.data.batches import IGNORED, Batch, BatchMaker, BatchPlan, Dialogue, TextPacker
from training.data.tabletop import TabletopShards
from training.nano import build_nano
from training.supervise import SupervisedLoss, _coverage

PLAN = BatchPlan(images=3, expressions=3, short=False, simple_share=0.2, box_prompts=2)
Built = tuple[LensModel, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def built() -> Built:
    return build_nano(seed=0)


@pytest.fixture(scope="module")
def maker(built: Built, shards: TabletopShards) -> BatchMaker:
    return BatchMaker(shards, 16, *built)


def tensors(thing: object) -> list[torch.Tensor]:
    if isinstance(thing, torch.Tensor):
        return [thing]
    if dataclasses.is_dataclass(thing):
        return [t for f in dataclasses.fields(thing) for t in tensors(getattr(thing, f.name))]
    return []


def test_a_batch_depends_on_its_arguments_alone(built: Built, shards: TabletopShards) -> None:
    first, second = (BatchMaker(shards, 16, *built) for _ in range(2))
    first.batch(1, 3, 0, PLAN)  # an earlier batch must leave no trace
    a, b = tensors(first.batch(1, 7, 0, PLAN)), tensors(second.batch(1, 7, 0, PLAN))
    assert len(a) > 10
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("other", [(2, 7, 0), (1, 8, 0), (1, 7, 1)])
def test_seed_step_and_rank_each_change_it(maker: BatchMaker, other: tuple[int, int, int]) -> None:
    a, b = maker.batch(1, 7, 0, PLAN), maker.batch(*other, PLAN)
    assert not torch.equal(a.reasoner_images, b.reasoner_images)


def test_targets_are_where_the_answer_says(maker: BatchMaker) -> None:
    batch = maker.batch(0, 0, 0, PLAN)
    side = batch.instances.shape[-1]
    for row in range(PLAN.images):
        for [target], box in zip(batch.targets[row], batch.target_boxes[row], strict=True):
            if target == 0:
                continue
            y, x = np.nonzero(batch.instances[row].numpy() == int(target))
            found = [x.min() / side, y.min() / side, (x.max() + 1) / side, (y.max() + 1) / side]
            assert box.tolist() == pytest.approx(found)


def test_unknown_words_are_put_into_instructions_alone(built: Built, maker: BatchMaker) -> None:
    unknown = built[1].unk_token_id
    plain, strewn = (maker.batch(0, 0, 0, dataclasses.replace(PLAN, unknown_words=p)).text for p in (0, 1))
    assert plain is not None and not (plain.input_ids == unknown).any()
    assert strewn is not None
    assert (strewn.input_ids == unknown).sum() == (strewn.queries >= 0).sum()
    assert not (strewn.labels == unknown).any()


def learned(batch: Batch, built: Built) -> list[str]:
    """Return the learned parts of the answers in the batch, image by image."""
    assert batch.text is not None
    ids = batch.text.labels[batch.text.labels != IGNORED]
    text = built[1].decode(ids).replace(" ", "")
    return text.split("<|im_end|>")[:-1]


def test_all_of_several_objects_are_answered_by_all_their_boxes(built: Built, maker: BatchMaker) -> None:
    batch = maker.batch(0, 3, 0, dataclasses.replace(PLAN, simple_share=0, all_share=1))
    targets = [row for image in batch.targets.tolist() for row in image if any(row)]
    answers = learned(batch, built)
    assert len(answers) == len(targets)
    assert max(sum(t > 0 for t in row) for row in targets) > 1
    for answer, row in zip(answers, targets, strict=True):
        assert answer.count("bbox_2d") == sum(t > 0 for t in row) >= 1
    several = (batch.targets > 0).sum(-1) > 1
    assert (batch.target_boxes[several] == 0).all()


def test_what_is_not_there_is_answered_by_nothing(built: Built, maker: BatchMaker) -> None:
    batch = maker.batch(0, 3, 0, dataclasses.replace(PLAN, simple_share=0, none_share=1))
    answers = learned(batch, built)
    assert len(answers) > 5
    assert all(answer.endswith("sonothing</think><answer>[]</answer>") for answer in answers)
    assert (batch.targets == 0).all()


def test_fast_answers_begin_where_a_user_has_them_begin(built: Built, maker: BatchMaker) -> None:
    batch = maker.batch(0, 3, 0, dataclasses.replace(PLAN, fast_share=1))
    answers = learned(batch, built)
    assert len(answers) > 5
    assert all(answer.startswith('[{"bbox_2d":[') and "think" not in answer for answer in answers)
    assert batch.text is not None
    opening = built[1].encode(prompts.opening("tabletop", think=False), add_special_tokens=False)
    row, column = (batch.text.labels != IGNORED).nonzero()[0].tolist()
    assert batch.text.input_ids[row, column - 2 : column + 1].tolist() == opening


def test_the_mask_of_several_is_their_union_and_of_none_empty() -> None:
    instances = torch.zeros(1, 256, 256, dtype=torch.uint8)
    instances[0, :64], instances[0, 64:128], instances[0, 128:192] = 1, 2, 3
    several, none = _coverage(instances, torch.tensor([[[1, 3], [0, 0]]]))[0]
    assert several[:32].min() == several[64:96].min() == 1
    assert several[32:64].max() == several[96:].max() == none.max() == 0


def test_too_few_scenes_are_refused(built: Built, shards: TabletopShards) -> None:
    with pytest.raises(ValueError, match="holds 16 scenes, the configuration asks for 17"):
        BatchMaker(shards, 17, *built)


def test_packed_rows_equal_single_sequences(built: Built) -> None:
    """Hidden states of each segment and its queries equal those of the sequence image + text + queries."""
    model, tokenizer = built
    model.eval()
    fast = prompts.opening("tabletop", think=False)
    dialogues = [
        [
            Dialogue("the red mug", prompts.answer("looking for a mug .", [(1, 2, 30, 40)], ["red mug"])),
            Dialogue("a bowl", prompts.answer("", [(9, 9, 99, 99)], ["blue bowl"]), fast),
        ],
        [Dialogue("the leftmost object", prompts.answer("so the ball", [(0, 0, 5, 5)], ["red ball"]))],
    ]
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    packed = TextPacker(model, tokenizer).pack(dialogues, segments=2)
    loss_of = SupervisedLoss(model, tokenizer, SuperviseConfig(data="", out=""))
    with torch.inference_mode():
        _, visual = model.see(images)
        together = loss_of._read(packed, visual)
        for row, image in enumerate(dialogues):
            for k, dialogue in enumerate(image):
                alone, words = _alone(model, tokenizer, visual[row], dialogue.instruction, dialogue.answer)
                begin = int(packed.queries[row, k])
                count = model.context.num_queries
                span = slice(begin - len(words), begin + count)
                torch.testing.assert_close(
                    together[row, span], alone[-len(words) - count :], atol=1e-4, rtol=1e-4
                )
                labels = packed.labels[row, begin - len(words) : begin]
                said = [int(label) for label in labels if label != IGNORED]
                learned = tokenizer.encode(
                    dialogue.answer.removeprefix(dialogue.opening), add_special_tokens=False
                )
                assert said == learned == words[-len(said) :]  # every token that is not given is a label
                assert int(packed.queries[1, 1]) == -1


def _alone(
    model: LensModel, tokenizer: PreTrainedTokenizerFast, visual: torch.Tensor, instruction: str, answer: str
) -> tuple[torch.Tensor, list[int]]:
    token = model.reasoner.config.image_token_id
    words = tokenizer.encode(prompts.question(instruction) + answer, add_special_tokens=False)
    prefix = tokenizer.encode(prompts.image_prefix(64), add_special_tokens=False)
    ids = torch.tensor(prefix + words)
    positions, following = mrope_positions(ids, token, (8, 8))
    queries = model.context.learnable_query
    tail = (torch.arange(queries.shape[1]) + following).expand(3, -1)
    embedded = model.language_model.embed_tokens(ids)[None].clone()
    embedded[0, ids == token] = visual
    hidden = model.language_model(
        inputs_embeds=torch.cat([embedded, queries], dim=1),
        position_ids=torch.cat([positions, tail], dim=1)[:, None],
        use_cache=False,
    ).last_hidden_state
    return hidden[0], words
