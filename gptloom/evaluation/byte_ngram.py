"""A byte n-gram with back-off: interpolated Kneser–Ney (Chen and Goodman 1999, section 3), in sorted numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Grams = NDArray[np.uint64]  # an n-gram as one number: its bytes, the latest one lowest
_Counts = NDArray[np.int64]


@dataclass(frozen=True)
class _Level:
    """The n-grams of one length with their counts, and what the contexts they begin with have seen."""

    grams: _Grams  # sorted
    counts: _Counts
    contexts: _Grams  # sorted
    totals: _Counts  # of a context: the sum of its n-grams' counts
    followers: _Counts  # of a context: how many different bytes follow it
    discount: float

    @classmethod
    def of(cls, grams: _Grams, counts: _Counts) -> _Level:
        contexts, first, followers = np.unique(grams >> np.uint64(8), return_index=True, return_counts=True)
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once and twice else 0.5
        return cls(grams, counts, contexts, np.add.reduceat(counts, first), followers, discount)

    def interpolate(self, grams: _Grams, lower: NDArray[np.float64]) -> NDArray[np.float64]:
        """p(byte | context) of each n-gram, where ``lower`` holds p(byte | context without its first byte)."""
        count = _look_up(self.grams, self.counts, grams)
        contexts = grams >> np.uint64(8)
        total = _look_up(self.contexts, self.totals, contexts)
        kept_back = self.discount * _look_up(self.contexts, self.followers, contexts)
        seen = (np.maximum(count - self.discount, 0) + kept_back * lower) / np.maximum(total, 1)
        return np.where(total > 0, seen, lower)


class ByteNgram:
    """Probabilities of bytes after the ``order - 1`` bytes before them (order 2 to 8). Sums to 1 over the 256 bytes.

    The highest level counts n-grams; every lower one counts in how many different continuations to the left a shorter
    n-gram was seen. A discount D = n₁ / (n₁ + 2 n₂) is taken from every count and given to the level below, the lowest
    one mixes with 1/256. An unseen context leaves the word to the level below.
    """

    def __init__(self, training: bytes, order: int = 6) -> None:
        if not 2 <= order <= 8:
            raise ValueError(f"order is {order}; an n-gram must fit into 64 bits: 2 to 8")
        if len(training) < order:
            raise ValueError(f"{len(training)} training bytes hold no {order}-gram")
        self.order = order
        grams, counts = np.unique(_grams(np.frombuffer(training, np.uint8), order)[order - 1 :], return_counts=True)
        levels = [_Level.of(grams, counts)]
        for length in range(order - 1, 0, -1):
            grams, counts = np.unique(grams & _mask(length), return_counts=True)
            levels.append(_Level.of(grams, counts))
        self._levels = levels[::-1]

    def probabilities(self, text: NDArray[np.uint8]) -> NDArray[np.float64]:
        """p(byte | bytes before it) at every position of ``text``; before its start stand bytes 0."""
        grams = _grams(text, self.order)
        probability = np.full(len(text), 1 / 256)
        for length, level in enumerate(self._levels, start=1):
            probability = level.interpolate(grams & _mask(length), probability)
        return probability


def _mask(length: int) -> np.uint64:
    return np.uint64((1 << 8 * length) - 1)


def _grams(text: NDArray[np.uint8], order: int) -> _Grams:
    """The n-gram that ends at each position, the start filled up with bytes 0."""
    padded = np.concatenate([np.zeros(order - 1, np.uint8), text])
    grams = np.zeros(len(text), np.uint64)
    for start in range(order):
        grams = grams << np.uint64(8) | padded[start : start + len(text)]
    return grams


def _look_up(keys: _Grams, values: NDArray[Any], wanted: _Grams) -> NDArray[Any]:
    """The value of each wanted key, 0 for those that are not among the sorted keys."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
