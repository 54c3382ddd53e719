"""Make texts from outside harmless before they reach the log, /diagnostics or a reason. No ROS.

An encoding, a frame_id or an instruction may hold commands for a terminal, line breaks that forge a line of
the log, or megabytes. Every such text passes `shortened` where it is put into a sentence; the log and
/diagnostics pass whole sentences through it again.
"""

from __future__ import annotations

QUOTED = 80  # characters of a text from outside that are quoted in a sentence
SENTENCE = 2000  # characters of a whole line of the log, or of a value in /diagnostics


def shortened(text: str, limit: int = QUOTED) -> str:
    """Return `text` on one line without characters that command a terminal, `limit` characters of it at most.

    White space becomes a blank, other unprintable characters are escaped as Python writes them. What is cut
    ends in "…" and the original length in characters.
    """
    line = escaped(" ".join(text[: 8 * limit].split()))  # escaping megabytes would take seconds
    if len(line) <= limit and len(text) <= 8 * limit:
        return line
    return f"{line[:limit]}… ({len(text)} characters)"


def escaped(text: str) -> str:
    """Return `text` with its unprintable characters escaped as Python writes them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
