"""What all training batches have in common: examples of weighted sources in an order that is a function of the seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptloom.data.batch import Batch
from gptloom.data.order import MixedOrder, skip_excluded
from gptloom.data.shards import TokenShards
from gptloom.data.step_sizes import StepSizes

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class WindowPlace:
    """Where one row of a batch comes from."""

    position: int  # in the data order, counted from the start of the run; what ``excluded`` takes
    source: int  # index among the weighted sources
    epoch: int  # how many times that source had been read before
    start: int  # first id, in the source's tokens
    end: int  # one past the last id that the row needs, targets included


class OrderedBatches(ABC):
    """The global batch of every step, as a pure function of (seed, step, excluded). A window is what fills a row."""

    def __init__(
        self,
        sources: Sequence[tuple[TokenShards, float]],
        n_windows: Sequence[int],
        context: int,
        windows_per_step: int | StepSizes,
        seed: int,
    ) -> None:
        """``sources``: tokens with weights (2.0: read twice per pass; 0.5: half of it); ``n_windows`` of each."""
        self.sources = list(sources)
        self.context = context
        self.sizes = StepSizes(windows_per_step) if isinstance(windows_per_step, int) else windows_per_step
        self.seed = seed
        weights = [weight for _, weight in self.sources]
        self._order = MixedOrder(list(zip(n_windows, weights, strict=True)), seed)

    @property
    def windows_per_epoch(self) -> int:
        """Windows in one pass over the weighted sources."""
        return self._order.windows_per_pass

    @property
    def tokens_per_epoch(self) -> int:
        """Places in one pass over the weighted sources, padding included."""
        return self.windows_per_epoch * self.context

    @property
    def windows_per_step(self) -> int:
        """Rows of one batch; of a batch ramp, at its end."""
        return self.sizes.full

    @property
    def tokens_per_step(self) -> int:
        """Places in one batch, padding included; of a batch ramp, at its end."""
        return self.windows_per_step * self.context

    def epochs(self, step: int) -> float:
        """Passes over the data when ``step`` steps are done."""
        return self.sizes.before(step) / self.windows_per_epoch

    @abstractmethod
    def batch(self, step: int, excluded: Sequence[int] = ()) -> Batch:
        """The global batch of a step (the first is 0), without the ``excluded`` positions of the order."""

    @abstractmethod
    def describe(self, step: int, excluded: Sequence[int] = ()) -> Sequence[WindowPlace]:
        """Where each row of ``batch(step, excluded)`` comes from."""

    def _windows(self, step: int, excluded: Sequence[int]) -> tuple[Ints, Ints, Ints, Ints]:
        """(position, source, epoch of it, window of it) of each row, [rows of the step] each."""
        first, end = self.sizes.before(step), self.sizes.before(step + 1)
        positions = skip_excluded(np.arange(first, end, dtype=np.int64), excluded)
        return positions, *self._order.windows(positions)


def weighted(shards: TokenShards | Sequence[tuple[TokenShards, float]]) -> list[tuple[TokenShards, float]]:
    """One sequence of tokens as a list of one, with weight 1; a list of several as it is."""
    return [(shards, 1.0)] if isinstance(shards, TokenShards) else list(shards)
