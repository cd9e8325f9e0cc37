"""Token shards cut into windows and served as batches: training batches by step, validation batches in one sweep.

B rows, T = context tokens. A window is T + 1 consecutive ids: T inputs and, one place on, T targets. Documents are
packed one after the other with end-of-text between them and attention may look across (Brown et al. 2020, appendix B).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gptloom.data.batch import Batch
from gptloom.data.order import hash_words
from gptloom.data.ordered import OrderedBatches, WindowPlace, weighted
from gptloom.data.shards import TokenShards
from gptloom.data.step_sizes import StepSizes

Ints = NDArray[np.int64]


class TokenBatches(OrderedBatches):
    """The global batch of every step, as a pure function of (seed, step, excluded).

    Windows lie end to end, so every target is trained on once per epoch, apart from fewer than 2 T tokens at the two
    ends: each epoch shifts all windows by its own 0..T-1 tokens, so that the same text is not always cut in the same
    places. Raises ``ValueError`` when a source is shorter than one window (``built.check_enough`` says it to users).
    """

    def __init__(
        self,
        shards: TokenShards | Sequence[tuple[TokenShards, float]],
        context: int,
        windows_per_step: int | StepSizes,
        seed: int,
    ) -> None:
        """``shards``: one sequence, or several with weights (2.0: read twice per pass; 0.5: half of it per pass)."""
        sources = weighted(shards)
        for tokens, _ in sources:
            if tokens.n_tokens < context + 1:
                raise ValueError(f"{tokens.n_tokens} tokens are less than one window of {context} + 1")
        # One window less than would fit at shift 0, so that shifts up to T-1 fit as well.
        self._n_windows = [max(1, tokens.n_tokens // context - 1) for tokens, _ in sources]
        super().__init__(sources, self._n_windows, context, windows_per_step, seed)

    def batch(self, step: int, excluded: Sequence[int] = ()) -> Batch:
        """The global batch of a step (the first is 0), without the ``excluded`` positions of the order."""
        _, sources, _, starts = self._places(step, excluded)
        rows = np.empty((len(starts), self.context + 1), dtype=np.int64)
        for index, (tokens, _) in enumerate(self.sources):
            mine = sources == index
            if mine.any():
                rows[mine] = tokens.gather(starts[mine], self.context + 1)
        ids = torch.from_numpy(rows)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(len(rows), self.context))

    def describe(self, step: int, excluded: Sequence[int] = ()) -> list[WindowPlace]:
        """Where each row of ``batch(step, excluded)`` comes from."""
        columns = [column.tolist() for column in self._places(step, excluded)]
        return [
            WindowPlace(position, source, epoch, start, start + self.context + 1)
            for position, source, epoch, start in zip(*columns, strict=True)
        ]

    def _places(self, step: int, excluded: Sequence[int]) -> tuple[Ints, Ints, Ints, Ints]:
        """(position, source, epoch, first id) of each row, [rows of the step] each."""
        positions, sources, epochs, windows = self._windows(step, excluded)
        return positions, sources, epochs, windows * self.context + self._shifts(sources, epochs)

    def _shifts(self, sources: Ints, epochs: Ints) -> Ints:
        """How far the windows of each (source, epoch) are shifted: 0..T-1, and never beyond the end of the tokens."""
        n_tokens = np.array([tokens.n_tokens for tokens, _ in self.sources], dtype=np.int64)
        room = n_tokens - 1 - np.array(self._n_windows, dtype=np.int64) * self.context
        choices = np.minimum(self.context, room + 1)[sources]
        return (hash_words(self.seed, sources, epochs, 1) % choices.astype(np.uint64)).astype(np.int64)


class Tokens(Protocol):
    """A long sequence of token ids, as ``TokenShards`` are."""

    n_tokens: int

    def read(self, start: int, length: int) -> Ints:
        """Ids ``start`` to ``start + length`` [length]."""


def eval_batches(tokens: Tokens, context: int, rows: int, stride: int | None = None) -> Iterator[Batch]:
    """Every id of ``tokens`` but the first as a target exactly once, in windows of ``context``.

    Windows lie end to end, or begin every ``stride`` ids; then only the targets that no window before had count, so that
    all but the first ``context`` are predicted from at least ``context - stride`` ids. All batches have one shape,
    [min(rows, windows), context]; what is left over at the end is filled with id 0 at weight 0, after the real tokens,
    where a causal model cannot see it.
    """
    stride = context if stride is None else stride
    if not 0 < stride <= context:
        raise ValueError(f"a stride of {stride} leaves targets out, or never ends: 1 to {context}")
    targets = tokens.n_tokens - 1
    if targets < 1:
        raise ValueError(f"{tokens.n_tokens} tokens hold nothing to predict")
    n_windows = 1 + max(0, -(-(targets - context) // stride))
    rows = min(rows, n_windows)
    for first in range(0, n_windows, rows):
        inputs, predicted = (np.zeros((rows, context), dtype=np.int64) for _ in range(2))
        weights = torch.zeros(rows, context)
        for row, window in enumerate(range(first, min(first + rows, n_windows))):
            start = window * stride
            length = min(context, targets - start)
            ids = tokens.read(start, length + 1)
            inputs[row, :length], predicted[row, :length] = ids[:-1], ids[1:]
            weights[row, 0 if window == 0 else context - stride : length] = 1.0
        yield Batch(torch.from_numpy(inputs), torch.from_numpy(predicted), weights)
