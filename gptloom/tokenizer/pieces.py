"""Cutting a long text where the tokens on both sides stay what they were, so that its parts can be encoded apart."""

from __future__ import annotations

import re
from collections.abc import Iterator

PIECE_CHARACTERS = 1 << 18  # big enough that a piece's overhead vanishes, small enough to keep every core busy

# Before a space or line feed that follows something other than white space. GPT-2's pattern, and ours for words, has
# no token that reaches over such a place, and neither looks back beyond it.
_SAFE_CUT = re.compile(r"(?<=\S)[ \n]")


def cut_text(text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Yield ``text`` in consecutive parts of at least ``size`` characters (the last may be shorter).

    Encoding the parts one by one with any tokenizer that gptloom trains, or GPT-2's, gives the ids of the whole. A text
    without white space is one part: there is no safe place to cut it.
    """
    start = 0
    while len(text) - start > size:
        cut = _SAFE_CUT.search(text, start + size)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    if start < len(text):
        yield text[start:]
