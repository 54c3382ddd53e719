"""Generation and the query pass against transformers and against full recomputation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model.images import reasoner_grid, reasoner_inputs
from lens_ros.model.network import GenerationCancelled, LensModel
from lens_ros.model.positions import mrope_positions

Built = tuple[LensModel, PreTrainedTokenizerFast]
Encode = Callable[[str], torch.Tensor]


@torch.inference_mode()
def full_recompute(model: LensModel, picture: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The prompt for the segmenter with no cache at all."""
    token = model.reasoner.config.image_token_id
    positions, following = mrope_positions(ids, token, reasoner_grid(model.config.image))
    queries = model.context.learnable_query
    tail = (torch.arange(queries.shape[1]) + following).expand(3, -1)
    embedded = model.language_model.embed_tokens(ids)[None].clone()
    embedded[0, ids == token] = model.see(picture)[1][0]
    hidden = model.language_model(
        inputs_embeds=torch.cat([embedded, queries], dim=1),
        position_ids=torch.cat([positions, tail], dim=1)[:, None],
        use_cache=False,
    ).last_hidden_state
    return model.context(hidden[:, -queries.shape[1] :])


def test_greedy_equals_transformers(untrained: Built, picture: torch.Tensor, prompt_ids: Encode) -> None:
    model, tokenizer = untrained
    ids = prompt_ids("the red mug left of the bowl")
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
    thought = model.reason(picture, ids, end_token=tokenizer.eos_token_id, max_new_tokens=30)
    assert len(set(expected)) > 3  # a constant answer would prove little
    assert thought.token_ids == [t for t in expected if t != tokenizer.eos_token_id]


@pytest.mark.parametrize("limit", [1, 9, 40])
def test_query_pass_equals_full_recompute(
    untrained: Built, picture: torch.Tensor, prompt_ids: Encode, limit: int
) -> None:
    model, _ = untrained
    ids = prompt_ids("something to drink from")
    thought = model.reason(picture, ids, end_token=-1, max_new_tokens=limit)
    whole = torch.cat([ids, torch.tensor(thought.token_ids)])
    torch.testing.assert_close(thought.prompt, full_recompute(model, picture, whole), atol=1e-5, rtol=0)


def test_the_end_token_is_read_by_the_queries(
    untrained: Built, picture: torch.Tensor, prompt_ids: Encode
) -> None:
    model, _ = untrained
    ids = prompt_ids("the ball")
    free = model.reason(picture, ids, end_token=-1, max_new_tokens=12).token_ids
    end = next(t for k, t in enumerate(free) if k > 2 and t not in free[:k])
    at = free.index(end)
    thought = model.reason(picture, ids, end_token=end, max_new_tokens=12)
    assert thought.token_ids == free[:at]
    whole = torch.cat([ids, torch.tensor(free[: at + 1])])
    torch.testing.assert_close(thought.prompt, full_recompute(model, picture, whole), atol=1e-5, rtol=0)


def test_streams_every_token_and_stops_within_one(
    untrained: Built, picture: torch.Tensor, prompt_ids: Encode
) -> None:
    model, _ = untrained
    seen: list[int] = []
    with pytest.raises(GenerationCancelled):
        model.reason(
            picture,
            prompt_ids("the ball"),
            end_token=-1,
            max_new_tokens=50,
            on_token=lambda tokens: seen.append(len(tokens)),
            cancelled=lambda: len(seen) == 3,
        )
    assert seen == [1, 2, 3]


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
