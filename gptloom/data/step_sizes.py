"""How many rows each step trains on: always the same number, or a batch that grows at the beginning of a run."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class Stretch(NamedTuple):
    """Steps of one size."""

    step: int  # the first of them
    before: int  # rows of all steps before it
    rows: int  # of each step


@dataclass(frozen=True)
class StepSizes:
    """``full`` rows a step; with ``first`` a batch ramp: from ``first`` up to them, linearly over the first ``over`` rows.

    The line is that of GPT-3 (Brown et al. 2020, appendix B: linear in the tokens trained on). A step has as many rows as
    the line has reached before it, in whole multiples of ``first``: whatever number of processes can share the first
    batch can share the others. A pure function of the step, so that any step can be rebuilt.
    """

    full: int
    first: int | None = None
    over: int = 0

    def __post_init__(self) -> None:
        if self.full < 1 or (self.first is not None and not 1 <= self.first <= self.full):
            raise ValueError(f"a batch cannot grow from {self.first} to {self.full} rows")

    def rows(self, step: int) -> int:
        """Rows of a step (the first is 0)."""
        return self._stretch(step).rows

    def before(self, step: int) -> int:
        """Rows of all steps before ``step`` together."""
        stretch = self._stretch(step)
        return stretch.before + (step - stretch.step) * stretch.rows

    @property
    def full_from(self) -> int:
        """The first step of ``full`` rows."""
        return self._stretches[-1].step

    def steps_within(self, rows: float) -> int:
        """The most steps that have no more than ``rows`` together."""
        stretch = self._stretches[bisect_right(self._stretches, rows, key=lambda found: found.before) - 1]
        return stretch.step + int((rows - stretch.before) // stretch.rows)

    def steps_for(self, rows: float) -> int:
        """The fewest steps that have at least ``rows`` together."""
        steps = self.steps_within(rows)
        return steps + (self.before(steps) < rows)

    def _stretch(self, step: int) -> Stretch:
        return self._stretches[bisect_right(self._stretches, step, key=lambda found: found.step) - 1]

    @cached_property
    def _stretches(self) -> list[Stretch]:
        """All sizes, the smallest first."""
        step = before = 0
        found: list[Stretch] = []
        first = self.full if self.first is None else self.first
        for rows in range(first, self.full, first):
            # Where the line reaches the next size, which is the last one at the latest at its end.
            end = self.over * min(rows, self.full - first) / (self.full - first)
            steps = max(0, -int((before - end) // rows))
            if steps:
                found.append(Stretch(step, before, rows))
                step, before = step + steps, before + steps * rows
        return [*found, Stretch(step, before, self.full)]
