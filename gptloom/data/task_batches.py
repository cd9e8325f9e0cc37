"""Batches of labelled examples, in the order of ``Buckets``: an example's kind is its class.

B examples, G rows of each, N = B G rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptloom.data.batch import Batch
from gptloom.data.buckets import EXAMPLES, Buckets
from gptloom.data.order import hash_words, permute
from gptloom.data.packing import PaddedBatch
from gptloom.data.task_inputs import IGNORED, Encoded

Ints = NDArray[np.int64]

BINS = 4  # of scores, each as a class of its own


@dataclass(frozen=True)
class ExamplePlace:
    """Where one example of a batch comes from."""

    position: int  # in the data order, counted from the start of the run; what ``excluded`` takes
    epoch: int
    index: int  # of the example


class TaskBatches:
    """The global batch of every step, as a pure function of (seed, step, excluded).

    An epoch reads each example once. A batch holds examples of one number of rows, the longest first.
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
        self._rows = np.array([len(one.rows) for one in encoded], dtype=np.int64)
        self._alike = [np.flatnonzero(self._rows == number) for number in np.unique(self._rows)]
        self._buckets = Buckets(self._deal, self._lengths, _kinds([one.label for one in encoded]), batch_size, seed)
        self.steps_per_epoch = self._buckets.steps_per_epoch
        self.tokens_per_epoch = sum(len(row.ids) for one in encoded for row in one.rows)
        """Tokens in one pass over the examples, without padding."""

    @property
    def n_examples(self) -> int:
        """Examples of one epoch."""
        return len(self.encoded)

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
        examples = self._buckets.draw(step, excluded).examples
        return padded([self.encoded[index] for index in examples], self.pad_id, next_word=self.next_word)

    def describe(self, step: int, excluded: Sequence[int] = ()) -> list[ExamplePlace]:
        """Where each example of ``batch(step, excluded)`` comes from."""
        epoch, _, positions, examples = self._buckets.draw(step, excluded)
        pairs = zip(positions.tolist(), examples.tolist(), strict=True)
        return [ExamplePlace(position, epoch, index) for position, index in pairs]

    def longest(self) -> Batch:
        """The batch of the first epoch that takes the most places, padding included."""
        laid_out = self._buckets.epoch(0)
        begins = laid_out.bounds[:-1]
        rows = np.diff(laid_out.bounds) * self._rows[laid_out.order[begins]]
        return self.batch(int(np.argmax(rows * np.maximum.reduceat(self._lengths[laid_out.order], begins))))

    def _deal(self, epoch: int) -> list[Ints]:
        keys = [hash_words(self.seed, EXAMPLES, epoch, group) for group in range(len(self._alike))]
        pairs = zip(self._alike, keys, strict=True)
        return [alike[permute(np.arange(len(alike)), len(alike), key)] for alike, key in pairs]


def _kinds(labels: Sequence[Any]) -> Ints:
    """Which class each example is of; scores in ``BINS`` of equal size; tags and spans are all of one."""
    if isinstance(labels[0], float):
        order = np.argsort(np.array(labels), kind="stable")
        bins = np.empty(len(labels), dtype=np.int64)
        bins[order] = np.arange(len(labels)) * BINS // len(labels)
        return bins
    return np.array([label if isinstance(label, int) else 0 for label in labels], dtype=np.int64)


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


def padded(encoded: Sequence[Encoded], pad_id: int, *, next_word: bool = False) -> PaddedBatch:
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
    return PaddedBatch(
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
