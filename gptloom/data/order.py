"""The order in which windows of text are trained on, as a pure function of (seed, position).

A permutation of ``n`` windows is computed, not stored: a Feistel network over the next power of two, walked until it
lands inside ``n`` (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 4). It needs no memory and
no state, so any position of any epoch can be looked up at once, which is all that resuming needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

ROUNDS = 8  # of the Feistel network; four make a permutation look random, small domains mix better with more
DRAW = 29  # what a draw decides
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(words: Words) -> Words:
    """Scrambles 64-bit words one to one (the finaliser of SplitMix64: Steele, Lea and Flood 2014, figure 15)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def hash_words(*parts: int | Ints | Words) -> Words:
    """One 64-bit hash from several integers or arrays of them, broadcast against each other."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = mix((state ^ mix(np.atleast_1d(part).astype(np.uint64))) + GOLDEN)
    return state


def permute(places: Ints, n: int, key: Words) -> Ints:
    """Where a pseudo-random permutation of ``range(n)`` sends each of ``places``; ``key`` [like places] chooses it."""
    bits = max(2, (n - 1).bit_length())
    low_bits, high_bits = np.uint64(bits - bits // 2), np.uint64(bits // 2)
    low_mask, high_mask = (np.uint64(1) << low_bits) - np.uint64(1), (np.uint64(1) << high_bits) - np.uint64(1)

    def feistel(words: Words, keys: Words) -> Words:
        high, low = words >> low_bits, words & low_mask
        for turn in range(0, ROUNDS, 2):
            high = high ^ (hash_words(keys, turn, low) & high_mask)
            low = low ^ (hash_words(keys, turn + 1, high) & low_mask)
        return (high << low_bits) | low

    keys = np.broadcast_to(key, places.shape)
    result = feistel(places.astype(np.uint64), keys)
    while (outside := result >= n).any():
        result[outside] = feistel(result[outside], keys[outside])
    return result.astype(np.int64)


def drawn(n: int, batches: Callable[[Sequence[int]], int], limit: int) -> list[int]:
    """Those of ``n`` places, in order, that an evaluation of at most ``limit`` batches takes: the same every time.

    ``batches`` counts those that some places make. Where they are made by length, the first ones hold the longest examples,
    which say little of the others; so the places are drawn, by a hash.
    """
    order = permute(np.arange(n), n, hash_words(DRAW)).tolist()
    count = n
    while (needed := batches(order[:count])) > limit:
        count = max(1, count * limit // needed)
    return sorted(order[:count])


class WindowOrder:
    """Every one of ``n_windows`` once per epoch, each epoch in a different order."""

    def __init__(self, n_windows: int, seed: int) -> None:
        if n_windows < 1:
            raise ValueError(f"an order needs at least one window, not {n_windows}")
        self.n_windows = n_windows
        self.seed = seed

    def windows(self, positions: Ints) -> Ints:
        """The window at each of ``positions`` (0, 1, 2, ... without end; epoch = position // n_windows)."""
        epochs, places = np.divmod(positions, self.n_windows)
        return permute(places, self.n_windows, hash_words(self.seed, epochs))


class MixedOrder:
    """Several sources with weights in one order: a pass holds ``round(weight * n_windows)`` windows of each source.

    Each source walks through its own ``WindowOrder`` from pass to pass, so weight 0.5 takes a different half each pass
    until all were used, and weight 2 takes everything twice. Within a pass the sources are shuffled together.
    """

    def __init__(self, sources: Sequence[tuple[int, float]], seed: int) -> None:
        """``sources``: (n_windows, weight > 0) of each."""
        if not sources or any(weight <= 0 for _, weight in sources):
            raise ValueError(f"an order needs sources with weights above 0, not {list(sources)}")
        self.counts = np.array([max(1, round(weight * n)) for n, weight in sources], dtype=np.int64)
        self.windows_per_pass = int(self.counts.sum())
        self._passes = WindowOrder(self.windows_per_pass, seed)
        self._orders = [WindowOrder(n, int(hash_words(seed, index + 1)[0])) for index, (n, _) in enumerate(sources)]

    def windows(self, positions: Ints) -> tuple[Ints, Ints, Ints]:
        """(source, epoch of that source, window of that source) at each of ``positions``."""
        places = self._passes.windows(positions)
        ends = np.cumsum(self.counts)
        sources = np.searchsorted(ends, places, side="right")
        within = places - (ends - self.counts)[sources] + (positions // self.windows_per_pass) * self.counts[sources]
        epochs, windows = np.empty_like(within), np.empty_like(within)
        for source, order in enumerate(self._orders):
            mine = sources == source
            epochs[mine] = within[mine] // order.n_windows
            windows[mine] = order.windows(within[mine])
        return sources, epochs, windows


def skip_excluded(places: Ints, excluded: Sequence[int]) -> Ints:
    """The positions that stand at ``places`` once the ``excluded`` ones (sorted, distinct) are left out."""
    left_out = np.asarray(excluded, dtype=np.int64)
    if (np.diff(left_out) <= 0).any():
        raise ValueError("excluded positions must be sorted and distinct")
    # left_out[i] - i positions remain before the i-th excluded one, so it shifts every place from there on by one
    return places + np.searchsorted(left_out - np.arange(len(left_out)), places, side="right")
