"""Words, numbers and JSON are single tokens; unknown words are marked, never dropped silently."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lens_ros.model.prompts import UNKNOWN, answer, image_prefix, question
from lens_ros.model.tokenizer import build_tokenizer, load_tokenizer
from lens_ros.simulation.expressions import vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(vocabulary())


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def test_a_dialogue_in_whole_words(tokenizer: PreTrainedTokenizerFast) -> None:
    text = image_prefix(2) + question("The MUG, left of the bowl?") + answer(
        "so the red mug ( 12 255 )", [(1, 20, 255, 0)], ["red mug"]
    )  # fmt: skip
    assert pieces(tokenizer, text) == [
        "<|im_start|>", "user", "<|vision_start|>", "<|image_pad|>", "<|image_pad|>", "<|vision_end|>",
        "the", "mug", "left", "of", "the", "bowl", "<|im_end|>", "<|im_start|>", "assistant",
        "<think>", "so", "the", "red", "mug", "(", "12", "255", ")", "</think>",
        "<answer>", '[{"bbox_2d":[', "1", ",", "20", ",", "255", ",", "0", '],"label":"', "red", "mug", '"}]',
        "</answer>", "<|im_end|>",
    ]  # fmt: skip


def test_numbers_are_consecutive(tokenizer: PreTrainedTokenizerFast) -> None:
    first = tokenizer.convert_tokens_to_ids("0")
    assert [tokenizer.convert_tokens_to_ids(str(n)) for n in range(256)] == list(range(first, first + 256))


@given(text=st.text(max_size=60))
def test_any_text_encodes(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert all(0 <= i < len(tokenizer) for i in ids)


def test_unknown_words_are_marked(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, "the xylophone 256") == ["the", UNKNOWN, UNKNOWN]


def test_saved_and_loaded_alike(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = question("the red mug") + answer("so", [(1, 2, 3, 4)], ["mug"])
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.eos_token_id == tokenizer.eos_token_id
