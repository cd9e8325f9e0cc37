"""Intervals and paired tests: against closed forms and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gptloom.evaluation.significance import bootstrap, mcnemar, mean_and_error, wilson


def test_wilson_by_its_formula() -> None:
    right, n, z = 81, 263, 1.959963984540054
    centre = (right + z * z / 2) / (n + z * z)
    half = z * math.sqrt(right * (n - right) / n + z * z / 4) / (n + z * z)
    assert wilson(right, n) == pytest.approx((centre - half, centre + half))
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1


def test_a_bootstrap_of_a_mean_has_the_width_of_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=400)
    [found] = bootstrap(lambda counts: [float(values @ counts / counts.sum())], 400, samples=2000)
    assert found is not None
    error = values.std() / 20
    assert found == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.12 * error * 4)


def test_a_bootstrap_repeats_with_its_seed_and_leaves_out_what_is_undefined() -> None:
    def statistic(counts: np.ndarray) -> list[float]:
        return [counts[0], math.nan, counts[1] if counts[0] else math.nan]

    first, never, sometimes = bootstrap(statistic, 5, seed=3, samples=200)
    assert never is None and sometimes is not None and first is not None and first[0] == 0
    assert bootstrap(statistic, 5, seed=3, samples=200) == [first, never, sometimes]
    assert bootstrap(lambda counts: [float(counts.sum())], 5, samples=5) == [(5.0, 5.0)]


def test_mcnemar_is_the_exact_binomial() -> None:
    first = np.array([True] * 9 + [False] + [True] * 5 + [False] * 5)
    second = np.array([False] * 9 + [True] + [True] * 5 + [False] * 5)
    found = mcnemar(first, second)
    assert found[:2] == (9, 1) and found.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(first, first).p == 1
    with pytest.raises(ValueError, match="same examples"):
        mcnemar(first, second[1:])


def test_the_error_of_a_mean() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert mean_and_error([4.0]) == (4.0, None)
