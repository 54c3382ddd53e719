"""Generation and the query pass, compared with transformers and with full recomputation."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model.generation import GenerationCancelled, Sampling
from lens_ros.model.images import reasoner_inputs
from lens_ros.model.network import LensModel, Thought, View
from tests.full_pass import full_pass

Built = tuple[LensModel, PreTrainedTokenizerFast]
Encode = Callable[[str], torch.Tensor]

INSTRUCTIONS = ["the ball", "the red mug left of the bowl", "something to drink from"]
GRID = (8, 8)


@pytest.fixture(params=["mrope", "sequential"])
def model(untrained: Built, request: pytest.FixtureRequest) -> Iterator[LensModel]:
    """Yield the same weights with either position scheme."""
    model = copy.copy(untrained[0])
    model.config = dataclasses.replace(model.config, query_positions=request.param)
    yield model


@pytest.fixture
def view(model: LensModel, picture: torch.Tensor, prefix_ids: torch.Tensor) -> View:
    return model.look(picture, torch.nn.functional.pad(picture, (0, 0, 0, 32, 0, 32)), prefix_ids)


def answer(view_of: tuple[LensModel, View], questions: list[torch.Tensor], **settings) -> list[Thought]:
    model, view = view_of
    settings = {"end_token": -1, "pad_token": 0, "max_new_tokens": 30, **settings}
    return model.reason(view, questions, **settings)


@torch.inference_mode()
def recomputed(model: LensModel, picture: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Compute the prompt for the segmenter without any cache."""
    visual = model.see(picture)[1][0]
    read = full_pass(model, ids[None], torch.ones_like(ids)[None], visual, [GRID])
    return model.context_module()(read.queries)[0]


def test_greedy_equals_transformers(
    untrained: Built, model: LensModel, view: View, picture: torch.Tensor, prefix_ids: torch.Tensor,
    question_ids: Encode,
) -> None:  # fmt: skip
    end = untrained[1].eos_token_id
    ids = torch.cat([prefix_ids, question_ids(INSTRUCTIONS[1])])
    pixel_values, grid = reasoner_inputs(picture, model.config.image)
    expected = model.reasoner.generate(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids)[None],
        pixel_values=pixel_values,
        image_grid_thw=grid,
        mm_token_type_ids=(ids == model.reasoner.config.image_token_id).long()[None],
        max_new_tokens=30,
        do_sample=False,
    )[0, len(ids) :].tolist()
    [thought] = answer((model, view), [question_ids(INSTRUCTIONS[1])], end_token=end)
    assert len(set(expected)) > 3  # a constant answer would prove little
    assert thought.token_ids == [t for t in expected if t != end]


@pytest.mark.parametrize("limit", [1, 9, 40])
def test_query_pass_equals_full_recompute(
    model: LensModel, view: View, picture: torch.Tensor, prefix_ids: torch.Tensor, question_ids: Encode,
    limit: int,
) -> None:  # fmt: skip
    question = question_ids(INSTRUCTIONS[2])
    [thought] = answer((model, view), [question], max_new_tokens=limit)
    whole = torch.cat([prefix_ids, question, torch.tensor(thought.token_ids)])
    torch.testing.assert_close(thought.prompt, recomputed(model, picture, whole), atol=1e-5, rtol=0)


def first_new(tokens: list[int], after: int) -> int:
    """Return the index of the first token past ``after`` that did not occur before."""
    return next(k for k, t in enumerate(tokens) if k > after and t not in tokens[:k])


def test_the_end_token_is_read_by_the_queries_and_padding_is_not(
    model: LensModel, view: View, picture: torch.Tensor, prefix_ids: torch.Tensor, question_ids: Encode
) -> None:
    question = question_ids(INSTRUCTIONS[0])
    free = answer((model, view), [question], max_new_tokens=12)[0].token_ids
    at = first_new(free, after=2)
    for role, read in (("end_token", free[: at + 1]), ("pad_token", free[:at])):
        [thought] = answer((model, view), [question], max_new_tokens=12, **{role: free[at]})
        assert thought.token_ids == free[:at]
        whole = torch.cat([prefix_ids, question, torch.tensor(read)])
        torch.testing.assert_close(thought.prompt, recomputed(model, picture, whole), atol=1e-5, rtol=0)


def test_a_ragged_batch_equals_its_rows_alone(model: LensModel, view: View, question_ids: Encode) -> None:
    questions = [question_ids(text) for text in INSTRUCTIONS]
    free = answer((model, view), questions)
    # An end token that stops the rows at different places, and one of them never or late.
    end = free[0].token_ids[first_new(free[0].token_ids, after=3)]
    together = answer((model, view), questions, end_token=end)
    lengths = {len(thought.token_ids) for thought in together}
    assert len({len(q) for q in questions}) > 1 and len(lengths) > 1
    for question, thought in zip(questions, together, strict=True):
        [alone] = answer((model, view), [question], end_token=end)
        assert alone.token_ids == thought.token_ids
        torch.testing.assert_close(alone.prompt, thought.prompt, atol=1e-5, rtol=0)


def test_padding_anywhere_changes_nothing_in_a_full_pass(
    model: LensModel, picture: torch.Tensor, prefix_ids: torch.Tensor, question_ids: Encode
) -> None:
    rows = [torch.cat([prefix_ids, question_ids(text)]) for text in INSTRUCTIONS]
    padding = [(5, 0), (0, 7), (3, 4)]
    longest = max(len(row) + sum(pad) for row, pad in zip(rows, padding, strict=True))
    ids = torch.zeros(3, longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for k, (row, (left, _)) in enumerate(zip(rows, padding, strict=True)):
        ids[k, left : left + len(row)], mask[k, left : left + len(row)] = row, 1
    with torch.inference_mode():
        visual = model.see(picture)[1][0]
        padded = full_pass(model, ids, mask, visual.repeat(3, 1), [GRID] * 3)
        for k, row in enumerate(rows):
            alone = full_pass(model, row[None], torch.ones_like(row)[None], visual, [GRID])
            seen = mask[k].bool()
            torch.testing.assert_close(padded.hidden[k, seen], alone.hidden[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(padded.queries[k], alone.queries[0], atol=1e-5, rtol=0)


def test_the_two_position_schemes_are_not_the_same_model(
    untrained: Built, picture: torch.Tensor, prefix_ids: torch.Tensor
) -> None:
    one, other = copy.copy(untrained[0]), copy.copy(untrained[0])
    other.config = dataclasses.replace(one.config, query_positions="sequential")
    assert (recomputed(one, picture, prefix_ids) - recomputed(other, picture, prefix_ids)).abs().max() > 1e-3


def test_several_instructions_share_the_work_on_the_image(
    model: LensModel, view: View, question_ids: Encode, prefix_ids: torch.Tensor
) -> None:
    calls: list[str] = []
    read: list[int] = []  # lengths of what the language model read
    head: list[int] = []  # rows that the language head was asked for

    def count(name: str) -> Callable:
        return lambda *_: calls.append(name)

    layer = model.language_model.layers[0]
    hooks = [
        model.reasoner.model.visual.register_forward_hook(count("see")),
        model.segmenter.sam.vision_encoder.register_forward_hook(count("encode")),
        layer.register_forward_hook(lambda _, args, out: read.append(args[0].shape[1])),
        model.reasoner.lm_head.register_forward_hook(lambda _, args, out: head.append(args[0].numel())),
    ]
    try:
        questions = [question_ids(text) for text in INSTRUCTIONS]
        answer((model, view), questions, max_new_tokens=5)
        answer((model, view), questions[:1], max_new_tokens=5)
        assert view.features is view.features
    finally:
        for hook in hooks:
            hook.remove()
    assert sorted(calls) == ["encode", "see"]
    schemes = 1 if model.config.query_positions == "mrope" else 2
    assert sorted(read)[-schemes:] == [len(prefix_ids)] * schemes
    assert sorted(read)[-schemes - 1] < len(prefix_ids)
    assert max(head) == 3 * model.width  # the last position of each row, never a whole sequence


def test_streams_every_token_and_stops_within_one(model: LensModel, view: View, question_ids: Encode) -> None:
    seen: list[tuple[int, int]] = []
    questions = [question_ids(text) for text in INSTRUCTIONS[:2]]
    with pytest.raises(GenerationCancelled):
        answer(
            (model, view),
            questions,
            on_token=lambda row, ids: seen.append((row, len(ids))),
            cancelled=lambda: len(seen) == 6,
        )
    assert seen == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]


def test_sampling_is_a_function_of_the_seed(model: LensModel, view: View, question_ids: Encode) -> None:
    questions = [question_ids(text) for text in INSTRUCTIONS]

    def said(asked: list[torch.Tensor], **settings) -> list[list[int]]:
        sampling = Sampling(temperature=1.5, top_k=50, top_p=0.9, **settings)
        return [t.token_ids for t in answer((model, view), asked, max_new_tokens=12, sampling=sampling)]

    first = said(questions, seed=7)
    assert first == said(questions, seed=7)
    assert first != said(questions, seed=8)
    # A row's draw depends on its own seed only, not on the company it keeps.
    assert [said([question], seed=7 + row)[0] for row, question in enumerate(questions)] == first


def test_one_candidate_is_greedy(model: LensModel, view: View, question_ids: Encode) -> None:
    question = [question_ids(INSTRUCTIONS[0])]
    narrow = answer((model, view), question, sampling=Sampling(temperature=2.0, top_k=1))
    assert narrow[0].token_ids == answer((model, view), question)[0].token_ids


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        Sampling(**wrong)


def test_prompts_decode_alike_alone_and_together(untrained: Built, picture: torch.Tensor) -> None:
    model, _ = untrained
    generator = torch.Generator().manual_seed(5)
    prompts = torch.randn(2, 3, model.segmenter.prompt_width, generator=generator)
    images = torch.nn.functional.pad(picture, (0, 0, 0, 32, 0, 32)).repeat(2, 1, 1, 1)
    images[1] = images[1].flip(0)
    with torch.inference_mode():
        together, scores = model.decode(model.encode_image(images), prompts)
        for row in range(2):
            features = model.encode_image(images[row : row + 1])
            for column in range(3):
                alone, score = model.decode(features, prompts[row : row + 1, column : column + 1])
                torch.testing.assert_close(alone[0, 0], together[row, column], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(score[0, 0], scores[row, column], atol=1e-5, rtol=0)
