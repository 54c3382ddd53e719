"""Tell which instructions name an object that a model of few words was taught.

lens-nano answers with an object even where it is asked for "the table". Until it knows better, its
configuration lists the nouns that it was taught to find (:class:`Subjects`); models without that list are
asked everything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lens_ros.codes import Code, Coded

# After these "can" is a verb: "something i can eat", "the toy that can roll".
_BEFORE_A_VERB = frozenset({"i", "you", "we", "child", "that", "which", "what"})
_PREPOSITIONS = frozenset(
    {
        "at",
        "behind",
        "beside",
        "between",
        "by",
        "for",
        "from",
        "front",
        "in",
        "next",
        "of",
        "on",
        "to",
        "with",
    }
)
_AFTER_A_VERB = frozenset({"me", "the", "a", "an", "my", "all", "every", "each", "some", "any"})
# lens-nano was taught these words only together with its own objects. Next to them it takes any noun for one
# of those ("my elbow", "a straw to drink from"). Without them it knows that an unread noun is not there.
_MISLEADING = frozenset({"my", "to"})
_SHOWN = 5  # nouns that the reason names as examples


@dataclass(frozen=True)
class Subjects:
    """The nouns of a model's vocabulary.

    ``objects``: words that stand for something that can be found, the plain names first. ``others``: nouns
    that only help to describe it, such as "table" in "something to wipe the table with". ``requests``: how a
    request begins, such as "pick up", before the words that name the object.
    """

    objects: tuple[str, ...]
    others: tuple[str, ...]
    requests: tuple[str, ...]

    def objection(self, plain: str, known: Collection[str], model: str) -> str:
        """Return why ``plain`` asks for no object, or the empty string where it may be asked.

        Args:
            plain: plain words (:func:`~lens_ros.model.plain.plain_words`).
            known: every word that the model was taught. Others are for the model to judge, except next to
                words that mislead it.
            model: its name, for the message.
        """
        words = re.findall(r"[^\s,]+", self._without_request(plain.replace(",", " ")))
        head = self._other_head(words)
        if head:
            return self._sentence(f"'{head}' is no object that {model} knows")
        if any(self._names_object(words, at) for at in range(len(words))):
            return ""
        unread = [word for word in words if word not in known]
        if unread:
            if _MISLEADING.isdisjoint(words):
                return ""
            return self._sentence(f"'{unread[0]}' is no object that {model} knows")
        return self._sentence(f"'{' '.join(words) or plain}' names no object that {model} knows")

    def _sentence(self, objection: str) -> str:
        examples = ", ".join(self.objects[:_SHOWN])
        return Coded(
            f"{objection}; ask for what it was taught to find, such as {examples}", Code.UNKNOWN_OBJECT
        )

    def _without_request(self, plain: str) -> str:
        said = " ".join(word for word in plain.split() if word != "please")
        while True:
            begun = next((r for r in self.requests if f"{said} ".startswith(f"{r} ")), "")
            if not begun:
                return said
            said = said[len(begun) :].strip()

    def _names_object(self, words: Sequence[str], at: int) -> bool:
        if words[at] == "can" and at > 0 and words[at - 1] in _BEFORE_A_VERB:
            return words[at + 1 : at + 2] in (["is"], ["are"])  # "which can is blue"
        if words[at] == "drink" and words[at - 1 : at] == ["to"]:  # "a straw to drink from"
            return False
        return words[at] in self.objects

    def _other_head(self, words: Sequence[str]) -> str:
        """Return the noun that the request is about, where that is one of the others."""
        for at, word in enumerate(words):
            if self._names_object(words, at) or word in _PREPOSITIONS:
                return ""
            following = words[at + 1] if at + 1 < len(words) else ""
            compound = following in self.objects or following in self.others
            verb = following in _AFTER_A_VERB  # "hand the mug to me"
            if word in self.others and not compound and not verb:
                return word
        return ""
