"""Instructions to lens-nano: all that its grammar can generate, and known words that name no object."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listeners import STRANGE, samples

from lens_ros.model.checkpoint import find_model, load_tokenizer, read_config
from lens_ros.model.plain import plain_words
from lens_ros.simulation import phrases
from lens_ros.simulation.catalog import CATEGORIES, COLORS
from lens_ros.simulation.expressions import KINDS, UNSEEN_KINDS, vocabulary
from training.nano import nano_config

FOLDER = find_model("lens-nano")
CONFIG = read_config(FOLDER)
TOKENIZER = load_tokenizer(FOLDER)
KNOWN = TOKENIZER.get_vocab()
OBJECTS = phrases.object_nouns()
NOUNS = st.sampled_from(CATEGORIES)
# Known words that name no object on the table.
NAMELESS = (
    "table", "chair", "hand", "camera", "nail", "cake", "soup", "workshop", "monkey", "tower", "water",
    "child", "nothing", "none",
)  # fmt: skip
FRAMES = st.sampled_from((*phrases.IMPERATIVES, *phrases.STATEMENTS, *phrases.DEFINITE_QUESTIONS, "{}"))
DETERMINERS = st.sampled_from(
    ("the ", "a ", "my ", "every ", "the red ", "the small white ", "the leftmost ", "")
)


def objection(instruction: str) -> str:
    assert CONFIG.subjects is not None
    return CONFIG.subjects.objection(plain_words(instruction), KNOWN, "lens-nano")


@pytest.mark.parametrize("kind", (*KINDS, *UNSEEN_KINDS))
def test_nothing_that_the_grammar_says_is_refused(kind: str) -> None:
    for _, _, expression in samples(60, seed=31, kind=kind):
        for text in (expression.text, f"{expression.text.capitalize()}."):
            assert objection(text) == "", text


def test_every_phrase_for_a_purpose_is_asked() -> None:
    for affordance in phrases.AFFORDANCES:
        for text in (*affordance.phrases, *affordance.questions):
            assert objection(text) == "", text


@settings(deadline=None)
@given(noun=st.sampled_from(NAMELESS), frame=FRAMES, before=DETERMINERS, data=st.data())
def test_a_known_word_that_names_no_object_is_refused(
    noun: str, frame: str, before: str, data: st.DataObject
) -> None:
    relations = [f" {words} " for said in phrases.RELATIONS.values() for words in said]
    after = data.draw(st.just("") | st.sampled_from(relations))
    anchor = f"the {data.draw(NOUNS)}" if after else ""
    text = frame.format(f"{before}{noun}{after}{anchor}")
    assert f"'{noun}' is no object that lens-nano knows" in objection(text) or objection(text).startswith(
        f"'{noun}"
    ), text


@settings(deadline=None)
@given(words=st.lists(st.sampled_from(sorted(set(vocabulary()) - set(OBJECTS))), min_size=1, max_size=5))
def test_words_without_any_noun_for_an_object_are_refused(words: list[str]) -> None:
    assert "lens-nano knows; ask for what it was taught to find, such as mug" in objection(" ".join(words))


@settings(deadline=None)
@given(noun=NOUNS, color=st.sampled_from(COLORS), other=st.sampled_from(NAMELESS[:11]))
def test_an_object_is_asked_for_beside_any_other_noun(noun: str, color: str, other: str) -> None:
    for text in (
        f"the {noun} on the {other}",
        f"the {color} {noun} next to my {other}",
        f"on the {other}, the {noun}",
        f"the {other} {noun}",
        f"hand the {noun} to me",
        f"kindly hand me the {noun}, would you?",
        f"can you hand me the {color} {noun}?",
        f"something for the {other}",
    ):
        assert objection(text) == "", text


@pytest.mark.parametrize(
    "text", ["left", "the red", "behind", "can you see the table", "show me", "...", "please"]
)
def test_what_holds_no_noun_at_all_is_refused(text: str) -> None:
    assert objection(text).startswith("'")


@pytest.mark.parametrize(
    "text", ["the can", "can you see the can", "the red one", "a soda can", "the tin", "mug"]
)
def test_short_names_are_asked(text: str) -> None:
    assert objection(text) == ""


@pytest.mark.parametrize("noun", sorted(STRANGE))
def test_a_word_that_it_has_never_read_is_left_to_the_model(noun: str) -> None:
    assert objection(f"the {noun}") == ""


@pytest.mark.parametrize("noun", sorted(STRANGE))
def test_an_unread_word_beside_words_that_mislead_the_model_is_refused(noun: str) -> None:
    for text in (f"my {noun}", f"can you see my {noun}?", f"the {noun} to drink from"):
        assert f"'{noun}' is no object that lens-nano knows" in objection(text), text


def test_the_model_that_ships_lists_what_the_grammar_says(tmp_path: Path) -> None:
    assert CONFIG.subjects == nano_config(TOKENIZER).subjects
    assert {*CONFIG.subjects.objects, *CONFIG.subjects.others} <= {*vocabulary(), "no"}
    CONFIG.save(tmp_path)
    assert read_config(tmp_path) == CONFIG
