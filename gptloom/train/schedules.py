"""Learning-rate schedules: pure functions of the step. None of them reads the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cosine", "trapezoid", "linear", "constant"]


@dataclass(frozen=True)
class Schedule:
    """A factor on every learning rate: ``warmup`` steps up from 1/warmup, then by ``kind`` down to ``final`` at ``steps``.

    Counted from step ``begin``: a run that is extended warms up and comes down again over the steps added.

    cosine: half a cosine over all remaining steps. linear: a straight line. trapezoid (warm-up, stable, decay): 1 until
    the last ``decay`` steps, then a straight line. constant: 1.
    """

    steps: int
    warmup: int = 0
    kind: Kind = "cosine"
    final: float = 0.1
    decay: int = 0  # trapezoid only
    begin: int = 0

    def __post_init__(self) -> None:
        if self.warmup + self.decay > self.steps - self.begin:
            raise ValueError(
                f"warm-up {self.warmup} and decay {self.decay} do not fit in {self.steps - self.begin} steps"
            )

    @property
    def stable_end(self) -> int | None:
        """The step after which a trapezoid comes down: up to it, a longer run would have been the same."""
        return self.steps - self.decay if self.kind == "trapezoid" else None

    def __call__(self, step: int) -> float:
        """The factor for the update that makes step ``step + 1`` (the first update is step 0)."""
        if step - self.begin < self.warmup:
            return (step - self.begin + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        start = self.begin + self.warmup if self.stable_end is None else self.stable_end
        if step < start:
            return 1.0
        done = min(1.0, (step - start) / max(1, self.steps - start))
        shape = 0.5 * (1 + math.cos(math.pi * done)) if self.kind == "cosine" else 1 - done
        return self.final + (1 - self.final) * shape
