"""Bring what people type into the form that lens-nano was taught: plain words, and commas that separate.

Only the wording ``"tabletop"`` uses this. A pretrained language model reads punctuation itself.
"""

from __future__ import annotations

import re
import unicodedata

# Marks that end a sentence, or set a part of it apart, do what a comma does within an instruction.
_SEPARATORS = re.compile(r"\.{2,}|[.;!?¿¡|()\[\]{}]|\s[-‐-―]+\s|[‒-―]|-{2,}")
_APOSTROPHES = re.compile(r"[`´‘’‛ʼ′]")
_WITHIN_WORD = re.compile(r"(?<=[^\W_])'(?=[^\W_])")
# A comma separates two noun phrases: "the other mug, not the red one". Elsewhere it is a matter of style.
_SEPARATING = re.compile(r",(?= (?:the|not|but)\b)")
_PLEASE = re.compile(r",? ?\bplease\b,?")


def plain_words(text: str) -> str:
    """Return ``text`` in lower case, its words separated by single blanks, without idle punctuation.

    A comma stays before "the", "not" and "but", where it separates two phrases. An apostrophe stays within a
    word. Texts of the same words give the same result, whatever their capital letters, quotes, brackets,
    final marks and blanks. The result is empty where ``text`` holds neither a letter nor a digit.
    """
    text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("'", text)).casefold()
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())
    text = _SEPARATORS.sub(" , ", f" {text} ")
    text = _WITHIN_WORD.sub("\0", text)
    text = "".join(c if c.isalnum() or c in ",\0" or unicodedata.combining(c) else " " for c in text)
    text = " ".join(text.replace("\0", "'").split())
    text = re.sub(r"(?: ?,)+", ",", text).strip(" ,")
    text = re.sub(r",\s*", ", ", text)
    text = _PLEASE.sub(" please ", text)
    text = _SEPARATING.sub("\0", text).replace(",", " ").replace("\0", ",")
    return " ".join(text.split())
