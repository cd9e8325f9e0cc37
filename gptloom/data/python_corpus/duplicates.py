"""Near-duplicate texts: those that say almost nothing that has not been said before."""

from __future__ import annotations

import re

RUN_LENGTH = 5  # words
MOST_SEEN = 0.5  # share of a text's runs that may have stood before

_WORD = re.compile(r"\w+")
_DIGIT = re.compile(r"\d")


class SeenText:
    """Remembers every run of five words of the texts it took in, and tells when a new text is made of them.

    A text is a near-duplicate when more than half of its runs stand in earlier texts, taken together: so a chapter that
    repeats three others is found too, which no pairwise comparison of whole texts sees. Case, punctuation and line
    breaks do not count, and words with a digit are all one word: ``cp1251`` is ``cp1252``. A text shorter than five
    words is one run: it goes only when it was seen as a whole. Feed the training texts first: then what is left of the
    held-out ones is new.
    """

    def __init__(self) -> None:
        self._runs: set[str] = set()

    def overlap(self, text: str) -> float:
        """Share of the text's runs that stand in the texts taken in so far; 1 for a text without words."""
        runs = _runs(text)
        return len(runs & self._runs) / len(runs) if runs else 1.0

    def take(self, text: str) -> bool:
        """Take the text in and return True, or return False for a near-duplicate."""
        if self.overlap(text) > MOST_SEEN:
            return False
        self._runs |= _runs(text)
        return True


def _runs(text: str) -> set[str]:
    words = ["0" if _DIGIT.search(word) else word for word in _WORD.findall(text.lower())]
    count = max(1, len(words) - RUN_LENGTH + 1) if words else 0
    return {" ".join(words[start : start + RUN_LENGTH]) for start in range(count)}
