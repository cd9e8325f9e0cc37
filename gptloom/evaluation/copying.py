"""How much of what a model writes it copied: passages of the training text, and words that exist."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW = 50  # characters

_WORD = re.compile(r"[^\W\d_]+")  # a run of letters
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)


@dataclass(frozen=True)
class Copying:
    """Measures over all samples together."""

    longest: str  # the longest passage of a sample that stands in the training text, word for word
    copied_windows: float  # share of the samples' 50-character windows that stand in the training text
    known_words: float  # share of the samples' words (runs of letters, in either case) that stand in the training text


def measure_copying(samples: Sequence[str], training: str) -> Copying:
    """Compare samples with the training text. A share of nothing (no window, no word) is 0.

    ``copied_windows`` rests on 64-bit hashes alone; ``longest`` is compared character by character.
    """
    index = PassageIndex(training)
    windows = [index.contains_windows(sample, WINDOW) for sample in samples]
    known = set(_words(training))
    words = [word in known for sample in samples for word in _words(sample)]
    return Copying(
        longest=max((index.longest_passage(sample) for sample in samples), key=len, default=""),
        copied_windows=float(np.concatenate(windows).mean()) if any(len(found) for found in windows) else 0.0,
        known_words=sum(words) / len(words) if words else 0.0,
    )


class PassageIndex:
    """Tells which passages of a sample stand in a text, in time proportional to the text's length per question."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._hashed = _HashedText(text)

    def contains_windows(self, sample: str, length: int) -> NDArray[np.bool_]:
        """For each window of ``length`` characters of the sample, whether it stands in the text (by 64-bit hash)."""
        wanted = _HashedText(sample).windows(length)
        present = self._hashed.windows(length)
        possible = np.zeros(1 << 20, np.bool_)  # by the hash's highest 20 bits: nearly all of the text falls through
        possible[wanted >> np.uint64(44)] = True
        return np.isin(wanted, present[possible[present >> np.uint64(44)]])

    def longest_passage(self, sample: str) -> str:
        """The longest passage of the sample that stands in the text, the first of several; bisects its length."""
        best, low, high = "", 0, len(sample)
        while low < high:
            length = (low + high + 1) // 2
            if passage := self._passage(sample, length):
                best, low = passage, length
            else:
                high = length - 1
        return best

    def _passage(self, sample: str, length: int) -> str:
        for start in np.flatnonzero(self.contains_windows(sample, length)):
            passage = sample[start : start + length]
            if passage in self._text:
                return passage
        return ""


class _HashedText:
    """Polynomial hashes modulo 2^64 of all windows of a text, of any length, from one set of prefix sums."""

    def __init__(self, text: str) -> None:
        characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
        self._sums = np.zeros(len(characters) + 1, np.uint64)  # Σ c_i B^i over the first n characters
        np.cumsum(characters * _powers(_BASE, len(characters)), out=self._sums[1:])
        self._inverses = _powers(_INVERSE, len(characters))

    def windows(self, length: int) -> NDArray[np.uint64]:
        """The hash of each window of ``length`` characters: a difference of sums, moved to exponent 0."""
        count = max(0, len(self._sums) - length)
        return (self._sums[length : length + count] - self._sums[:count]) * self._inverses[:count]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """base^0 … base^(count - 1) modulo 2^64."""
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)
