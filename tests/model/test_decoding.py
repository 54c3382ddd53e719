"""Every decoding method writes and streams the growing cache's tokens, and leaves the same cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lens_ros.choices import Decoding
from lens_ros.lens import Cancelled, Lens
from lens_ros.model.generation import GREEDY, GenerationCancelled, Sampling, generate
from lens_ros.model.network import LensModel, Thought, View
from lens_ros.model.prompt_lookup import LookupDecoder, propose
from lens_ros.model.static_decoding import CAPACITY_STEP, StaticDecoder, StaticDecoders

Built = tuple[LensModel, PreTrainedTokenizerFast]
QUESTIONS = (
    "the red mug",
    "everything that is not on the left side of the big green bowl",
    "it",
    "a red red mug",
)
NEVER = -1  # no token has this id: answers have the full length
PADDING = 0


@pytest.fixture(scope="module")
def view(untrained: Built, prefix_ids: torch.Tensor, picture: torch.Tensor) -> View:
    return untrained[0].look(picture, picture, prefix_ids)


Reason = Callable[..., list[Thought]]


@pytest.fixture(scope="module")
def reason(untrained: Built, view: View, question_ids: Callable[[str], torch.Tensor]) -> Reason:
    def ask(texts: tuple[str, ...], decoding: Decoding, tokens: int = 24, **settings) -> list[Thought]:
        asked = [question_ids(text) for text in texts]
        settings = {"end_token": NEVER, "pad_token": PADDING, "max_new_tokens": tokens} | settings
        return untrained[0].reason(view, asked, decoding=decoding, **settings)

    return ask


def same(expected: list[Thought], found: list[Thought]) -> None:
    for one, other in zip(expected, found, strict=True):
        assert one.token_ids == other.token_ids
        assert one.prompt is not None and other.prompt is not None
        torch.testing.assert_close(one.prompt, other.prompt, atol=2e-5, rtol=2e-4)
        assert one.log_probs == pytest.approx(other.log_probs, abs=2e-4)


@pytest.mark.parametrize("texts", [QUESTIONS[:1], QUESTIONS[1:2], QUESTIONS], ids=["short", "long", "ragged"])
@pytest.mark.parametrize("decoding", ["static", "lookup"])
def test_tokens_and_prompts_are_those_of_the_growing_cache(
    reason: Reason, decoding: Decoding, texts: tuple[str, ...]
) -> None:
    same(reason(texts, "dynamic"), reason(texts, decoding))


@pytest.mark.parametrize("decoding", ["dynamic", "static", "lookup"])
@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(temperature=1.5, top_k=20, seed=3)], ids=["greedy", "drawn"]
)
def test_log_probabilities_are_those_of_reading_the_whole_answer(
    untrained: Built, view: View, reason: Reason, question_ids: Callable[[str], torch.Tensor],
    decoding: Decoding, sampling: Sampling,
) -> None:  # fmt: skip
    model = untrained[0]
    (thought,) = reason(QUESTIONS[:1], decoding, sampling=sampling)
    question, answer = question_ids(QUESTIONS[0]), torch.tensor(thought.token_ids)
    with torch.inference_mode():
        reading = view.reading("mrope").fork(1)
        hidden = reading.read(model.language_model.embed_tokens(torch.cat([question, answer])[None]))
        logits = model.reasoner.lm_head(hidden[0, len(question) - 1 : -1])
    expected = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
    assert thought.log_probs == pytest.approx(expected.tolist(), abs=2e-4)


def test_the_token_that_ends_an_answer_has_a_probability_too_and_padding_none(reason: Reason) -> None:
    stop = {"end_token": ending(reason)}
    for thought in reason(QUESTIONS, "dynamic", **stop):
        ended = len(thought.token_ids) < 24
        assert len(thought.log_probs) == len(thought.token_ids) + ended
        assert all(p < 0 for p in thought.log_probs)


def ending(reason: Reason) -> int:
    """Return a token that ends the answers of a batch at different places."""
    answers = [thought.token_ids for thought in reason(QUESTIONS, "dynamic")]
    for token in answers[0][2:]:
        if len({row.index(token) if token in row else len(row) for row in answers}) > 1:
            return token
    raise AssertionError("all answers are the same: they show nothing")


@pytest.mark.parametrize("role", ["end_token", "pad_token"])
def test_rows_that_end_early_are_padded_alike(reason: Reason, role: str) -> None:
    stop = {role: ending(reason)}
    expected = reason(QUESTIONS, "dynamic", **stop)
    assert len({len(thought.token_ids) for thought in expected}) > 1
    same(expected, reason(QUESTIONS, "static", **stop))
    for text in QUESTIONS:
        same(reason((text,), "dynamic", **stop), reason((text,), "lookup", **stop))


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 40])
def test_lookup_stops_at_every_length(reason: Reason, tokens: int) -> None:
    same(reason(QUESTIONS[3:], "dynamic", tokens), reason(QUESTIONS[3:], "lookup", tokens))


def test_samples_are_the_same_too(reason: Reason) -> None:
    hot = {"sampling": Sampling(temperature=1.5, seed=3)}
    expected = reason(QUESTIONS, "dynamic", **hot)
    same(expected, reason(QUESTIONS, "static", **hot))
    same(reason(QUESTIONS[:1], "dynamic", **hot), reason(QUESTIONS[:1], "lookup", **hot))  # not greedy


@pytest.mark.parametrize("decoding", ["dynamic", "static", "lookup"])
def test_tokens_are_told_one_by_one_and_cancelled_in_between(reason: Reason, decoding: Decoding) -> None:
    told: list[list[int]] = []
    (thought,) = reason(QUESTIONS[3:], decoding, on_token=lambda _, ids: told.append(list(ids)))
    assert told == [thought.token_ids[: count + 1] for count in range(len(thought.token_ids))]
    for after in (0, 1, 5):
        told.clear()
        with pytest.raises(GenerationCancelled):
            reason(
                QUESTIONS[3:],
                decoding,
                on_token=lambda _, ids: told.append(list(ids)),
                cancelled=lambda limit=after: len(told) == limit,
            )
        assert told == [thought.token_ids[: count + 1] for count in range(after)]
    same([thought], reason(QUESTIONS[3:], decoding))  # buffers of what was cancelled are no hindrance


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_compiled_step_is_the_same(reason: Reason) -> None:
    same(reason(QUESTIONS, "dynamic"), reason(QUESTIONS, "compiled"))


def test_buffers_are_shared_by_questions_of_similar_length(untrained: Built) -> None:
    decoders = StaticDecoders(untrained[0].language_model, untrained[0].reasoner.lm_head)
    first = decoders.get(1, 10, compiled=False)
    assert decoders.get(1, CAPACITY_STEP, compiled=False) is first
    assert decoders.get(1, CAPACITY_STEP + 1, compiled=False) is not first
    for rows in range(2, 6):
        decoders.get(rows, 10, compiled=False)
    assert decoders.get(1, 10, compiled=False) is not first  # only the last four are kept


def test_what_does_not_fit_is_refused(untrained: Built, view: View) -> None:
    model = untrained[0]
    length = view.reading("mrope").length
    small = StaticDecoder(model.language_model, model.reasoner.lm_head, 1, length + 1, compiled=False)
    with pytest.raises(ValueError, match="2 rows"):
        small.begin(view.reading("mrope").fork(2))
    small.begin(view.reading("mrope").fork(1))
    token, written = torch.tensor([7]), torch.tensor([True])
    with torch.inference_mode():
        small.advance(token, written)
        with pytest.raises(ValueError, match="all .* columns"):
            small.advance(token, written)


def test_the_reading_goes_on_as_if_it_had_grown(untrained: Built, view: View) -> None:
    model = untrained[0]
    readings, ids = [], []
    with torch.inference_mode():
        for static in (False, True):
            reading = view.reading("mrope").fork(2)
            logits = torch.zeros(2, 524).index_fill_(1, torch.tensor([9]), 1.0)
            decoder = None
            if static:
                columns = reading.length + 8
                decoder = StaticDecoder(
                    model.language_model, model.reasoner.lm_head, 2, columns, compiled=False
                )
            said = generate(
                reading, logits, embed=model.language_model.embed_tokens, head=model.reasoner.lm_head,
                end_token=NEVER, pad_token=NEVER, max_new_tokens=8, decoder=decoder,
            )  # fmt: skip
            readings.append(reading)
            ids.append(said.token_ids)
    grown, fixed = readings
    assert torch.equal(*ids)
    assert torch.equal(grown.mask, fixed.mask) and torch.equal(grown.next, fixed.next)
    for one, other in zip(grown.layers(), fixed.layers(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_lens_decodes_as_it_was_told(untrained: Built) -> None:
    image = torch.randint(0, 256, (120, 160, 3), dtype=torch.uint8).numpy()
    plain = Lens(*untrained).segment(image, "the red mug", max_new_tokens=20)
    for decoding in ("static", "lookup"):
        lens = Lens(*untrained, decoding=decoding)
        assert lens.segment(image, "the red mug", max_new_tokens=20).answer == plain.answer
        with pytest.raises(Cancelled):
            lens.segment(image, "the red mug", cancelled=lambda: True)


def test_lookup_needs_fewer_passes_where_words_come_back(untrained: Built, view: View) -> None:
    """The made-up language model counts in circles."""

    class Circles(torch.nn.Module):
        def forward(self, embedded: torch.Tensor) -> torch.Tensor:
            following = (embedded[..., 0].round().long() + 1) % 5
            return torch.nn.functional.one_hot(following, 5).float()

    class Counted:
        mask = torch.zeros(1, 0)
        length = 0

        def read(self, embedded: torch.Tensor) -> torch.Tensor:
            self.length += embedded.shape[1]
            return embedded

        def crop(self, columns: int) -> None:
            self.length -= columns

    reading = Counted()
    start = torch.nn.functional.one_hot(torch.tensor([1]), 5).float()
    lookup = LookupDecoder(reading, start, [0, 1, 2, 3, 4, 0], lambda ids: ids[..., None].float(), Circles())  # type: ignore[arg-type]
    taken = [lookup.take()[0] for _ in range(23)]
    lookup.stop()
    assert taken == [(k + 1) % 5 for k in range(23)]
    assert lookup.passes <= 5
    assert reading.length == 22  # all but the last


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=24), st.integers(1, 4), st.integers(1, 6))
def test_what_is_proposed_followed_the_longest_repetition(said: list[int], ngram: int, count: int) -> None:
    proposed = propose(said, ngram=ngram, count=count)
    assert len(proposed) <= count
    repeated = [
        (length, start)
        for length in range(1, ngram + 1)
        for start in range(len(said) - length)
        if said[start : start + length] == said[len(said) - length :]
    ]
    if not repeated:
        assert proposed == []
        return
    length, start = max(repeated)  # the longest, and of its places the last
    assert proposed == said[start + length : start + length + count]
    assert proposed  # there is always something to propose
