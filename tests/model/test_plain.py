"""The same words give the same prompt, however they are typed."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lens_ros.model.plain import plain_words
from lens_ros.model.prompts import question
from lens_ros.simulation.expressions import vocabulary

# Blanks, and marks that say nothing at the end of an instruction or around it.
BLANKS = st.sampled_from([" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2009", "\u3000", " \u200b"])
ENDS = st.text(" .,;:!?\u2026\u3002\uff01-\n\u00a0", max_size=6)
QUOTES = st.sampled_from(
    ["", '""', "''", "()", "[]", "{}", "<>", "**", "``", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb",
     "\u201e\u201c", "\u300c\u300d"]
)  # fmt: skip
WORDS = st.lists(st.sampled_from(vocabulary()), min_size=1, max_size=8)
CASES = st.sampled_from([str.lower, str.upper, str.title, str.capitalize])


@settings(deadline=None)
@given(words=WORDS, data=st.data())
def test_marks_around_the_words_and_blanks_between_them_change_nothing(
    words: list[str], data: st.DataObject
) -> None:
    said = words[0]
    for word in words[1:]:
        said += data.draw(BLANKS) + word
    quotes = data.draw(QUOTES)
    half = len(quotes) // 2
    said = quotes[:half] + data.draw(CASES)(said) + data.draw(ENDS) + quotes[half:] + data.draw(ENDS)
    assert plain_words(said) == " ".join(words)


@settings(deadline=None)
@given(text=st.text() | st.text(string.ascii_letters + " .,'-()!?\n\u2019\u201c", max_size=40))
@example("")
@example("...")
@example("\ud800")
def test_plain_words_stay_as_they_are(text: str) -> None:
    once = plain_words(text)
    assert plain_words(once) == once
    assert once == " ".join(once.split())
    assert not set(once) & set('.;:!?()"\n')


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("Pick up the other mug, not the red one.", "pick up the other mug, not the red one"),
        ("the other mug,not the red one", "the other mug, not the red one"),
        ("the other mug; not the red one", "the other mug, not the red one"),
        ("the mug (the red one)", "the mug, the red one"),
        ("something to eat \u2014 the leftmost one", "something to eat, the leftmost one"),
        ("Something to eat. The leftmost one!", "something to eat, the leftmost one"),
        ("the red, round ball", "the red round ball"),
        ("Please, the red mug", "please the red mug"),
        ("the red mug, please!", "the red mug please"),
        ("Hand me, please, the red mug.", "hand me please the red mug"),
        ("Find: the red mug", "find the red mug"),
        ("the mug next to\nthe red ball", "the mug next to the red ball"),
        ("the coffee-mug", "the coffee mug"),
        ("what\u2019s left of the mug?", "what's left of the mug"),
        ("\uff34\uff48\uff45 red mug", "the red mug"),
        ("the red mug \U0001f642", "the red mug"),
        ("?!", ""),
    ],
)
def test_marks_within_an_instruction_keep_what_they_mean(said: str, plain: str) -> None:
    assert plain_words(said) == plain


def test_the_papers_wording_takes_the_text_as_it_is() -> None:
    assert "The (red) mug\u2026" in question("The (red) mug\u2026", "paper", think=False)
    assert "The (red) mug\u2026" in question("The (red) mug\u2026", "paper", think=True)
