"""What a tuning asks of its batches: a pure function of the step, and how much an epoch holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gptloom.data.batch import Batch


class ExampleBatches(Protocol):
    """Batches of examples."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass."""

    @property
    def n_examples(self) -> int:
        """Examples of one epoch."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one batch: the mean."""

    def epochs(self, step: int) -> float:
        """Passes over the examples when ``step`` steps are done."""

    def batch(self, step: int, excluded: Sequence[int] = ()) -> Batch:
        """The global batch of a step (the first is 0), without the ``excluded`` positions of the order."""

    def longest(self) -> Batch:
        """The batch of the first epoch that takes the most places."""

    def describe(self, step: int, excluded: Sequence[int] = ()) -> Sequence[Any]:
        """Where each example of ``batch(step, excluded)`` comes from."""
