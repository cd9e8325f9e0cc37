"""Batches of labelled examples: texts of similar length together, so that little is spent on padding.

Length alone must not decide: where it tells of the label (spam is long), sorted batches would hold one class each, and every
step would unlearn the one before. So texts are sorted by their rank in length among those of their own class: the shortest
of each meet, the middle ones, the longest, and every batch has the classes in their proportions.

B examples, G rows of each, N = B G rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptloom.data.batch import Batch
from gptloom.data.order import hash_words, permute, skip_excluded
from gptloom.data.task_inputs import IGNORED, Encoded

Ints = NDArray[np.int64]

POOL = 50  # batches that are sorted by length together: more waste less, but mix less
BINS = 4  # of scores, each as a class of its own
EXAMPLES, BATCHES = 5, 6  # what a draw decides


@dataclass(frozen=True)
class ExamplePlace:
    """Where one example of a batch comes from."""

    position: int  # in the data order, counted from the start of the run; what ``excluded`` takes
    epoch: int
    index: int  # of the example


@dataclass(frozen=True)
class _Epoch:
    """The examples of one epoch in the order they are read."""

    order: Ints  # [examples]
    bounds: Ints  # [steps + 1]: where each batch begins in ``order``

    def steps_of(self, places: Ints) -> Ints:
        return np.searchsorted(self.bounds, places, side="right") - 1


class TaskBatches:
    """The global batch of every step, as a pure function of (seed, step, excluded).

    An epoch reads each example once. Its examples are shuffled and dealt into pools of 50 batches (of fewer where that
    would be less than four pools: sorting everything would put the same texts together in every epoch), each pool is
    sorted by length within each class and cut into batches, and all the batches are shuffled. A batch holds examples of one
    number of rows, the longest first.
    """

    def __init__(
        self, encoded: Sequence[Encoded], batch_size: int, seed: int, pad_id: int, *, causal: bool, next_word: bool
    ) -> None:
        """``next_word``: batches also ask for each next word, which only a ``causal`` model does not see already."""
        if not encoded or batch_size < 1:
            raise ValueError(f"{len(encoded)} examples in batches of {batch_size} are nothing to train on")
        if next_word and not causal:
            raise ValueError("a model that sees the whole text has no next word to predict")
        self.encoded, self.batch_size, self.seed, self.pad_id = list(encoded), batch_size, seed, pad_id
        self.next_word = next_word
        self._lengths = np.array([one.length for one in encoded], dtype=np.int64)
        self._strata = _strata([one.label for one in encoded])
        self._rows = np.array([len(one.rows) for one in encoded], dtype=np.int64)
        self._alike = [np.flatnonzero(self._rows == rows) for rows in np.unique(self._rows)]
        self.steps_per_epoch = sum(-(-len(alike) // batch_size) for alike in self._alike)
        self._epoch = lru_cache(maxsize=4)(self._lay_out)
        self.tokens_per_epoch = sum(len(row.ids) for one in encoded for row in one.rows)
        """Tokens in one pass over the examples, without padding."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one batch: the mean."""
        return max(1, self.tokens_per_epoch // self.steps_per_epoch)

    def epochs(self, step: int) -> float:
        """Passes over the examples when ``step`` steps are done."""
        return step / self.steps_per_epoch

    def batch(self, step: int, excluded: Sequence[int] = ()) -> Batch:
        """The global batch of a step (the first is 0), without the ``excluded`` positions of the order.

        They are missing from their batch; where nothing is left of one, the batches after it move up.
        """
        _, _, examples = self._places(step, excluded)
        return padded([self.encoded[index] for index in examples], self.pad_id, next_word=self.next_word)

    def describe(self, step: int, excluded: Sequence[int] = ()) -> list[ExamplePlace]:
        """Where each example of ``batch(step, excluded)`` comes from."""
        epoch, positions, examples = self._places(step, excluded)
        pairs = zip(positions.tolist(), examples.tolist(), strict=True)
        return [ExamplePlace(position, epoch, index) for position, index in pairs]

    def _places(self, step: int, excluded: Sequence[int]) -> tuple[int, Ints, Ints]:
        """(epoch, position of each example of the step, its index)."""
        left_out = np.unique(np.asarray(excluded, dtype=np.int64))
        actual = int(skip_excluded(np.array([step], dtype=np.int64), self._emptied(left_out))[0])
        epoch, own = divmod(actual, self.steps_per_epoch)
        laid_out = self._epoch(epoch)
        places = np.arange(laid_out.bounds[own], laid_out.bounds[own + 1])
        positions = places + epoch * len(self.encoded)
        kept = ~np.isin(positions, left_out)
        return epoch, positions[kept], laid_out.order[places[kept]]

    def _emptied(self, left_out: Ints) -> list[int]:
        """The steps, as they are with nothing left out, of which ``left_out`` leaves nothing; sorted."""
        emptied = []
        epochs, places = np.divmod(left_out, len(self.encoded))
        for epoch in np.unique(epochs).tolist():
            laid_out = self._epoch(epoch)
            steps, counts = np.unique(laid_out.steps_of(places[epochs == epoch]), return_counts=True)
            empty = steps[counts == np.diff(laid_out.bounds)[steps]]
            emptied += (empty + epoch * self.steps_per_epoch).tolist()
        return emptied

    def _lay_out(self, epoch: int) -> _Epoch:
        batches: list[Ints] = []
        for kind, alike in enumerate(self._alike):
            n = len(alike)
            shuffled = alike[permute(np.arange(n), n, hash_words(self.seed, EXAMPLES, epoch, kind))]
            pool = self.batch_size * max(1, min(POOL, n // (4 * self.batch_size)))
            for start in range(0, n, pool):
                own = shuffled[start : start + pool]
                own = own[np.argsort(_ranks(self._lengths[own], self._strata[own]), kind="stable")]
                batches += [own[first : first + self.batch_size] for first in range(0, len(own), self.batch_size)]
        batches = [own[np.argsort(-self._lengths[own], kind="stable")] for own in batches]
        turns = permute(np.arange(len(batches)), len(batches), hash_words(self.seed, BATCHES, epoch))
        batches = [batches[turn] for turn in turns]
        return _Epoch(np.concatenate(batches), np.cumsum([0, *map(len, batches)]))


def _strata(labels: Sequence[Any]) -> Ints:
    """Which class each example is of; scores in ``BINS`` of equal size; tags and spans are all of one."""
    if isinstance(labels[0], float):
        order = np.argsort(np.array(labels), kind="stable")
        bins = np.empty(len(labels), dtype=np.int64)
        bins[order] = np.arange(len(labels)) * BINS // len(labels)
        return bins
    return np.array([label if isinstance(label, int) else 0 for label in labels], dtype=np.int64)


def _ranks(lengths: Ints, strata: Ints) -> NDArray[np.float64]:
    """Of each example the share of its stratum that is shorter."""
    order = np.lexsort((lengths, strata))
    _, starts, counts = np.unique(strata[order], return_index=True, return_counts=True)
    ranks = np.empty(len(lengths))
    ranks[order] = (np.arange(len(lengths)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    return ranks


def in_length_order(encoded: Sequence[Encoded], tokens: int) -> Iterator[tuple[list[int], list[Encoded]]]:
    """Every example once, the longest first, in batches of at most ``tokens`` places (or one example), with its index."""
    order = sorted(range(len(encoded)), key=lambda index: (-len(encoded[index].rows), -encoded[index].length))
    start = 0
    while start < len(order):
        longest = encoded[order[start]]
        rows = len(longest.rows)
        end = start + max(1, tokens // (rows * longest.length))
        indices = [index for index in order[start:end] if len(encoded[index].rows) == rows]
        yield indices, [encoded[index] for index in indices]
        start += len(indices)


class TaskBatch(Batch):
    """A batch of rows of different length, padded on the right; each part of it is as wide as its own longest row."""

    def split(self, rows: int) -> list[Self]:
        return [part.trimmed() for part in super().split(rows)]

    @property
    def tokens(self) -> int:
        """Number of tokens, without padding."""
        return self.ids.numel() if self.padding_mask is None else int(self.padding_mask.sum())


def padded(encoded: Sequence[Encoded], pad_id: int, *, next_word: bool = False) -> TaskBatch:
    """One batch of examples that have equally many rows, padded on the right to the longest row.

    The padding mask is left out where nothing is padded, the labels where an example has none. With ``next_word`` the
    targets are the next ids, and each row's weights add up to 1 (Radford et al. 2018, train.py: the mean of a sequence).
    """
    rows = [row for one in encoded for row in one.rows]
    lengths = np.array([len(row.ids) for row in rows])
    real = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(real.shape, pad_id, dtype=np.int64)
    ids[real] = np.fromiter(chain.from_iterable(row.ids for row in rows), dtype=np.int64, count=lengths.sum())
    segments = None
    if rows[0].segments is not None:
        segments = np.zeros(real.shape, dtype=np.int64)
        segments[real] = np.fromiter(chain.from_iterable(row.segments or () for row in rows), dtype=np.int64)
    targets, weights = np.zeros_like(ids), np.zeros(real.shape, dtype=np.float32)
    if next_word:
        targets[:, :-1] = np.where(real[:, 1:], ids[:, 1:], 0)
        weights[:, :-1] = real[:, 1:] / np.maximum(lengths - 1, 1)[:, None]
    return TaskBatch(
        torch.from_numpy(ids),
        torch.from_numpy(targets),
        torch.from_numpy(weights),
        segment_ids=None if segments is None else torch.from_numpy(segments),
        padding_mask=None if real.all() else torch.from_numpy(real),
        labels=_labels(encoded, real.shape[1]),
        group=len(encoded[0].rows),
    )


def _labels(encoded: Sequence[Encoded], width: int) -> Tensor | None:
    """Classes, right choices or scores [B], first and last token of spans [B, 2], or tags of tokens [B, T]."""
    if any(one.label is None for one in encoded):
        return None
    if encoded[0].words is not None:
        tags = np.full((len(encoded), width), IGNORED, dtype=np.int64)
        for row, one in enumerate(encoded):
            places = one.words or ()
            tags[row, list(places)] = one.label[: len(places)]
        return torch.from_numpy(tags)
    labels = [one.label for one in encoded]
    return torch.tensor(labels, dtype=torch.float32 if isinstance(labels[0], float) else torch.int64)
