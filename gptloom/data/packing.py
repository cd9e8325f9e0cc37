"""Sequences of different length in one batch: beside one another with padding, or one behind the other without any.

In either layout the same predictions count, each with the same weight, and no sequence sees another.

B sequences, N tokens of all of them, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from gptloom.data.batch import Batch


class Labelled(NamedTuple):
    """A sequence: its ids, what should follow each of them, and how much each of these predictions counts."""

    ids: NDArray[np.integer]
    targets: NDArray[np.integer]
    weights: NDArray[np.float32]


class PaddedBatch(Batch):
    """A batch of rows of different length, padded on the right; each part of it is as wide as its own longest row."""

    def split(self, rows: int) -> list[Self]:
        return [part.trimmed() for part in super().split(rows)]

    @property
    def tokens(self) -> int:
        """Number of tokens, without padding."""
        return self.ids.numel() if self.padding_mask is None else int(self.padding_mask.sum())


class PackedBatch(Batch):
    """One row [1, N] of several documents, one behind the other; a micro-batch takes whole ones."""

    @property
    def rows(self) -> int:
        """Documents."""
        return len(self._lengths())

    def split(self, rows: int) -> list[Self]:
        """Micro-batches of at most ``rows`` documents, in order, each a row of its own, as views."""
        if rows < 1:
            raise ValueError(f"a micro-batch needs at least one document, not {rows}")
        ends = np.cumsum([0, *self._lengths()])
        bounds = [*ends[:-1:rows].tolist(), int(ends[-1])]
        cuts = {
            name: [tensor[:, begin:end] for begin, end in pairwise(bounds)] for name, tensor in self._tensors().items()
        }
        return [type(self)(**dict(zip(cuts, part, strict=True))) for part in zip(*cuts.values(), strict=True)]

    def _lengths(self) -> list[int]:
        assert self.document_ids is not None
        return torch.unique_consecutive(self.document_ids[0], return_counts=True)[1].tolist()


def pad(sequences: Sequence[Labelled], pad_id: int) -> PaddedBatch:
    """A row for each sequence [B, T]; without a padding mask where all are of one length."""
    lengths = np.array([len(one.ids) for one in sequences])
    real = np.arange(lengths.max()) < lengths[:, None]
    ids, targets = np.full(real.shape, pad_id, dtype=np.int64), np.zeros(real.shape, dtype=np.int64)
    weights = np.zeros(real.shape, dtype=np.float32)
    ids[real], targets[real], weights[real] = _joined(sequences)
    return PaddedBatch(
        torch.from_numpy(ids),
        torch.from_numpy(targets),
        torch.from_numpy(weights),
        padding_mask=None if real.all() else torch.from_numpy(real),
    )


def pack(sequences: Sequence[Labelled]) -> PackedBatch:
    """All sequences in one row [1, N], with the number of its document and its position within it for each token."""
    lengths = np.array([len(one.ids) for one in sequences])
    begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
    columns = (*_joined(sequences), np.arange(lengths.sum()) - begins, np.repeat(np.arange(len(lengths)), lengths))
    ids, targets, weights, positions, document_ids = (torch.from_numpy(column)[None] for column in columns)
    return PackedBatch(ids, targets, weights, positions, document_ids)


def _joined(sequences: Sequence[Labelled]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The ids, targets and weights of all sequences, [N] each."""
    ids, targets, weights = (np.concatenate(parts) for parts in zip(*sequences, strict=True))
    return ids.astype(np.int64), targets.astype(np.int64), weights
