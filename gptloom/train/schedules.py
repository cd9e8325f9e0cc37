"""Learning-rate schedules: pure functions of the step. None of them reads the clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cosine", "trapezoid", "linear", "constant"]


@dataclass(frozen=True)
class Schedule:
    """A factor on every learning rate: ``warmup`` steps up from 1/warmup, then by ``kind`` down to ``final`` at ``end``.

    Counted from step ``begin``: a run that is extended warms up and comes down again over the steps added.

    cosine: half a cosine over all remaining steps. linear: a straight line. trapezoid (warm-up, stable, decay): 1 until
    the last ``decay`` steps, then a straight line. constant: 1. ``end`` is ``steps``, or an earlier or later one: from it
    on the factor is ``final``.

    ``clock``: what is done when so many steps are, by which the factor moves from where one part begins to where it ends:
    the steps themselves, or the rows of text they trained on, where steps are not all alike.
    """

    steps: int
    warmup: int = 0
    kind: Kind = "cosine"
    final: float = 0.1
    decay: int = 0  # trapezoid only
    begin: int = 0
    end: int | None = None  # cosine and linear only
    clock: Callable[[int], float] = float

    def __post_init__(self) -> None:
        if self.warmup + self.decay > self.steps - self.begin:
            raise ValueError(
                f"warm-up {self.warmup} and decay {self.decay} do not fit in {self.steps - self.begin} steps"
            )
        if self.end is not None and self.begin + self.warmup >= self.end:
            raise ValueError(f"the decay ends at step {self.end}, within the warm-up of {self.warmup} steps")

    @property
    def stable_end(self) -> int | None:
        """The step after which a trapezoid comes down: up to it, a longer run would have been the same."""
        return self.steps - self.decay if self.kind == "trapezoid" else None

    def __call__(self, step: int) -> float:
        """The factor for the update that makes step ``step + 1`` (the first update is step 0)."""
        if step - self.begin < self.warmup:
            return self._share(self.begin, step + 1, self.begin + self.warmup)
        if self.kind == "constant":
            return 1.0
        start = self.begin + self.warmup if self.stable_end is None else self.stable_end
        if step < start:
            return 1.0
        done = self._share(start, step, self.steps if self.end is None else self.end)
        shape = 0.5 * (1 + math.cos(math.pi * done)) if self.kind == "cosine" else 1 - done
        return self.final + (1 - self.final) * shape

    def _share(self, start: int, step: int, end: int) -> float:
        """How much of the way from ``start`` to ``end`` lies behind at ``step``, at most all of it."""
        begun = self.clock(start)
        return min(1.0, (self.clock(step) - begun) / (self.clock(max(end, start + 1)) - begun))
