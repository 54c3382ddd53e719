"""Build lens-nano's tokenizer: whole words and whole numbers, a few hundred in all.

Models of other origin bring their own; everything else in this package only uses ``encode`` and ``decode``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lens_ros.model.prompts import END, IMAGE, UNKNOWN

NUMBERS = 256  # the integers 0..255 are single tokens
_PAD = "<|endoftext|>"
_SPECIAL = (_PAD, "<|im_start|>", END, "<|vision_start|>", "<|vision_end|>", IMAGE, "<|video_pad|>", UNKNOWN,
            "<think>", "</think>", "<answer>", "</answer>")  # fmt: skip
# Pieces of the answer's JSON; as single tokens they cost a quarter of the time to write.
_JSON = ('[{"bbox_2d":[', '],"label":"', '"},{"bbox_2d":[', '"}]', "[]")
_WORDS = ("user", "assistant", "(", ")", ".", ",", ";", "?", "'")


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer over ``words``, the integers 0..255 and the answer's punctuation.

    Anything else becomes ``<unk>``. Ids: specials first, numbers last (consecutive, in order).
    """
    vocabulary: dict[str, int] = {}
    numbers = [str(n) for n in range(NUMBERS)]
    for piece in (*_SPECIAL, *_JSON, *_WORDS, *sorted(set(words)), *numbers):
        vocabulary.setdefault(piece, len(vocabulary))
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    json_pieces = "|".join(_escape(piece) for piece in _JSON)
    pattern = Regex(rf"{json_pieces}|\d+|[a-z]+|[^\sa-z\d]")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, behavior="isolated"), pre_tokenizers.Split(Regex(r"\s+"), "removed")]
    )
    core.add_special_tokens([tokenizers.AddedToken(s, normalized=False, special=True) for s in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=_PAD, eos_token=END, unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load ``folder/tokenizer.json`` and its configuration."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _escape(piece: str) -> str:
    return re.sub(r"([\[\]{}])", r"\\\1", piece)
