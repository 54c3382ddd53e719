"""The prompts are byte for byte those that the weights were trained on."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lens_ros.model.prompts import IMAGE, Wording, answer, image_prefix, opening, question
from lens_ros.model.tokenizer import build_tokenizer
from lens_ros.simulation.expressions import vocabulary

# What the chat template of Qwen2.5-VL does to such messages (its counting of pictures, its videos and its
# default system turn left out).
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# LENS, src/open_r1/constants.py: pr1_grounding and samr1_v4.
PLAIN = "Output the bounding box of the {question} in the image."
THINKING = (
    'Locate "{question}", report the bbox coordinates in JSON format.Compare the difference between objects '
    "and find the most closely matched one.Output the thinking process in <think> </think> and final answer "
    "in <answer> </answer> tags.Output the one bbox inside the interested object in JSON format.i.e., "
    "<think>thinking process here</think><answer>answer here</answer>"
)

instructions = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(vocabulary())


@pytest.mark.parametrize(("think", "text"), [(False, PLAIN), (True, THINKING)])
@given(instruction=instructions, tokens=st.integers(1, 5))
@example(instruction="the {question} {0} {", tokens=1)
@example(instruction="{{ messages }} \\1 %s", tokens=1)
def test_the_papers_prompt_is_what_the_chat_template_makes_of_its_messages(
    tokenizer: PreTrainedTokenizerFast, think: bool, text: str, instruction: str, tokens: int
) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant. "},
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": text.format(question=instruction)}],
        },
    ]
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    # Qwen's processor repeats the picture's placeholder once per visual token.
    expected = rendered.replace(IMAGE, IMAGE * tokens, 1)
    ours = image_prefix(tokens, "paper") + question(instruction, "paper", think=think)
    assert ours + opening("paper", think=think) == expected


def test_the_papers_prompt_written_out() -> None:
    assert image_prefix(2, "paper") + question("red mug", "paper", think=False) == (
        "<|im_start|>system\nYou are a helpful assistant. <|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
        "Output the bounding box of the red mug in the image.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("think", [False, True])
def test_the_tabletop_prompt_written_out(think: bool) -> None:
    assert image_prefix(2) + question("The red mug!", think=think) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
        "the red mug<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_fast_answer_goes_on_as_a_taught_one_without_thought() -> None:
    assert opening("tabletop", think=True) == ""
    taught = answer("", [(1, 2, 3, 4)], ["cup"])
    assert taught.removeprefix(opening("tabletop", think=False)).startswith('[{"bbox_2d":[1,2,3,4]')


@pytest.mark.parametrize("wording", ["tabletop", "paper"])
@given(instruction=instructions, think=st.booleans())
def test_prompts_can_be_encoded_in_two_parts(
    tokenizer: PreTrainedTokenizerFast, wording: Wording, instruction: str, think: bool
) -> None:
    """The image's part is encoded and read once for all instructions."""
    first = image_prefix(2, wording)
    second = question(instruction, wording, think=think) + opening(wording, think=think)
    assert tokenizer.encode(first) + tokenizer.encode(second) == tokenizer.encode(first + second)
