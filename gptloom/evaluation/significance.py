"""How far a measured figure may be from the true one: intervals, paired tests, errors of a mean.

A resample of n examples is written as ``counts`` [n]: how often each was drawn. A statistic of a resample is then a
weighted statistic of the examples, and nothing has to be copied or sorted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
SAMPLES = 1000

Interval = tuple[float, float]
Counts = NDArray[np.float64]  # [n]: how often each example counts
Statistic = Callable[[Counts], Sequence[float]]


class McNemar(NamedTuple):
    """Examples that only the first, or only the second of two models got right, and how probable such a split is."""

    only_first: int
    only_second: int
    p: float


def wilson(right: int, n: int) -> Interval:
    """The 95 % interval of a share, ``right`` of ``n`` (Wilson 1927): right also near 0 and 1 and for small n."""
    from scipy.stats import binomtest

    low, high = binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def bootstrap(statistic: Statistic, n: int, seed: int = 0, samples: int = SAMPLES) -> list[Interval | None]:
    """The 95 % percentile interval of each figure of ``statistic`` over resamples of n examples (Efron 1979).

    For the difference of two models ``statistic`` scores both on the same counts: the bootstrap is then a paired one.
    A resample that leaves a figure undefined (NaN: no example of a class in it) does not count for its interval; a figure
    that all of them leave undefined has none.
    """
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(_draw(rng, n)) for _ in range(samples)], dtype=np.float64)  # [samples, figures]
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    defined = [column[~np.isnan(column)] for column in drawn.T]
    return [_percentiles(column, tails) if len(column) else None for column in defined]


def _percentiles(numbers: NDArray[np.float64], tails: list[float]) -> Interval:
    low, high = np.percentile(numbers, tails)
    return float(low), float(high)


def _draw(rng: np.random.Generator, n: int) -> Counts:
    return np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test of two models on the same examples: which each got right, as booleans [n].

    ``p`` is two-sided: were both equally good, the examples that only one gets right would fall like coins.
    """
    from scipy.stats import binomtest

    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape}: the test compares answers to the same examples")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p = float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, s / sqrt(n) with s over n − 1; of a single value no error is known: None."""
    numbers = np.asarray(values, dtype=np.float64)
    error = float(numbers.std(ddof=1) / np.sqrt(len(numbers))) if len(numbers) > 1 else None
    return float(numbers.mean()), error
