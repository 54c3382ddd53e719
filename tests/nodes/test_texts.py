"""Texts from any source become short, harmless single lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lens_ros.ros.reporting import described
from lens_ros.ros.texts import QUOTED, SENTENCE, escaped, shortened


@given(st.text(max_size=300), st.integers(1, 100))
def test_a_shortened_text_is_one_printable_line_of_stated_length(text, limit):
    line = shortened(text, limit)
    assert line.isprintable()
    whole = escaped(" ".join(text.split()))
    if line != whole:
        assert line == f"{whole[:limit]}… ({len(text)} characters)"
    assert len(line) <= limit + len("… (300 characters)")


@given(
    st.text(
        st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn", "Zs")), max_size=QUOTED
    )
)
def test_a_short_printable_text_stays_as_it_is(text):
    assert shortened(text) == text


def test_what_commands_a_terminal_is_escaped():
    text = "\x1b[2J\x07 \u202e a\r\n[FATAL] no \x9b31m \u2028"
    assert shortened(text) == "\\x1b[2J\\x07 \\u202e a [FATAL] no \\x9b31m"


def test_megabytes_are_cut_before_they_are_escaped():
    line = shortened("\x1b" * 100_000_000)
    assert line.endswith("… (100000000 characters)") and line.startswith("\\x1b\\x1b") and len(line) < 120


def test_an_error_is_described_in_one_line():
    assert described(RuntimeError("a\n\x1b[2Jb")) == "RuntimeError: a \\x1b[2Jb"
    assert described(ValueError("x" * 9000)) == "x" * SENTENCE + "… (9000 characters)"
