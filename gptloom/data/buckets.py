"""Which examples meet in a batch: those of similar length, so that little is spent on padding.

Length alone must not decide: where it tells of the kind (spam is long), sorted batches would hold one kind each, and every
step would unlearn the one before. So examples are sorted by their rank in length among those of their own kind: the
shortest of each meet, the middle ones, the longest, and every batch has the kinds in their proportions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptloom.data.order import hash_words, permute, skip_excluded

Ints = NDArray[np.int64]

POOL = 50  # batches that are sorted by length together: more waste less, but mix less
EXAMPLES, BATCHES, REPLAY = 5, 6, 7  # what a draw decides


@dataclass(frozen=True)
class Epoch:
    """The examples of one epoch in the order they are read."""

    order: Ints  # [examples]
    bounds: Ints  # [steps + 1]: where each batch begins in ``order``

    def steps_of(self, places: Ints) -> Ints:
        """The batch that holds each of ``places`` in the order."""
        return np.searchsorted(self.bounds, places, side="right") - 1


class Drawn(NamedTuple):
    """What one step reads."""

    epoch: int
    step: int  # in that epoch, as it is with nothing left out
    positions: Ints  # of the examples in the data order, counted from the start of the run; what ``excluded`` takes
    examples: Ints  # their indices


class Buckets:
    """The examples of every step, as a pure function of (seed, step, excluded).

    The examples of an epoch are dealt into pools of 50 batches (of fewer where that would be less than four pools:
    sorting everything would put the same ones together in every epoch), each pool is sorted by length within each kind
    and cut into batches, the longest example of each first, and all the batches are shuffled.
    """

    def __init__(
        self, deal: Callable[[int], Sequence[Ints]], lengths: Ints, kinds: Ints, batch_size: int, seed: int
    ) -> None:
        """``deal``: of an epoch its examples, shuffled, apart where no batch may hold both; as many in every epoch."""
        self._deal, self._lengths, self._kinds = deal, lengths, kinds
        self._batch_size, self._seed = batch_size, seed
        sizes = [len(apart) for apart in deal(0)]
        self.n_examples = sum(sizes)
        self.steps_per_epoch = sum(-(-size // batch_size) for size in sizes)
        self.epoch = lru_cache(maxsize=4)(self._lay_out)

    def draw(self, step: int, excluded: Sequence[int]) -> Drawn:
        """The step's examples without the ``excluded`` positions; where nothing is left of one, the next ones move up."""
        left_out = np.unique(np.asarray(excluded, dtype=np.int64))
        actual = int(skip_excluded(np.array([step], dtype=np.int64), self._emptied(left_out))[0])
        epoch, own = divmod(actual, self.steps_per_epoch)
        laid_out = self.epoch(epoch)
        places = np.arange(laid_out.bounds[own], laid_out.bounds[own + 1])
        positions = places + epoch * self.n_examples
        kept = ~np.isin(positions, left_out)
        return Drawn(epoch, own, positions[kept], laid_out.order[places[kept]])

    def _emptied(self, left_out: Ints) -> list[int]:
        """The steps, as they are with nothing left out, of which ``left_out`` leaves nothing; sorted."""
        emptied = []
        epochs, places = np.divmod(left_out, self.n_examples)
        for epoch in np.unique(epochs).tolist():
            laid_out = self.epoch(epoch)
            steps, counts = np.unique(laid_out.steps_of(places[epochs == epoch]), return_counts=True)
            empty = steps[counts == np.diff(laid_out.bounds)[steps]]
            emptied += (empty + epoch * self.steps_per_epoch).tolist()
        return emptied

    def _lay_out(self, epoch: int) -> Epoch:
        batches: list[Ints] = []
        for shuffled in self._deal(epoch):
            n = len(shuffled)
            pool = self._batch_size * max(1, min(POOL, n // (4 * self._batch_size)))
            for start in range(0, n, pool):
                own = shuffled[start : start + pool]
                own = own[np.argsort(_ranks(self._lengths[own], self._kinds[own]), kind="stable")]
                batches += [own[first : first + self._batch_size] for first in range(0, len(own), self._batch_size)]
        batches = [own[np.argsort(-self._lengths[own], kind="stable")] for own in batches]
        turns = permute(np.arange(len(batches)), len(batches), hash_words(self._seed, BATCHES, epoch))
        batches = [batches[turn] for turn in turns]
        return Epoch(np.concatenate(batches), np.cumsum([0, *map(len, batches)]))


def _ranks(lengths: Ints, kinds: Ints) -> NDArray[np.float64]:
    """Of each example the share of its kind that is shorter."""
    order = np.lexsort((lengths, kinds))
    _, starts, counts = np.unique(kinds[order], return_index=True, return_counts=True)
    ranks = np.empty(len(lengths))
    ranks[order] = (np.arange(len(lengths)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    return ranks
