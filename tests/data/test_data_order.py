"""The order of windows: a permutation per epoch, a function of (seed, position) alone."""

import numpy as np
import pytest

from gptloom.data.order import MixedOrder, WindowOrder, skip_excluded


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 1000, 7919, 65536, 65537])
def test_every_window_once_per_epoch(n: int) -> None:
    order = WindowOrder(n, seed=7)
    for epoch in (0, 1, 5):
        windows = order.windows(np.arange(epoch * n, (epoch + 1) * n))
        assert np.array_equal(np.sort(windows), np.arange(n))


def test_epochs_and_seeds_differ_and_a_position_is_enough() -> None:
    order = WindowOrder(1000, seed=1)
    first, second = order.windows(np.arange(1000)), order.windows(np.arange(1000, 2000))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, WindowOrder(1000, seed=2).windows(np.arange(1000)))
    assert order.windows(np.array([0, 17, 1999])).tolist() == [first[0], first[17], second[999]]
    assert 0 <= order.windows(np.array([10**15]))[0] < 1000


def test_all_orders_of_three_come_equally_often() -> None:
    windows = WindowOrder(3, seed=0).windows(np.arange(3 * 6000)).reshape(-1, 3)
    _, counts = np.unique(windows, axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees of freedom, p = 0.001


def test_neighbours_do_not_stay_together() -> None:
    windows = WindowOrder(65537, seed=3).windows(np.arange(65537))
    assert (np.abs(np.diff(windows)) == 1).mean() < 1e-3
    assert abs(np.corrcoef(np.arange(65537), windows)[0, 1]) < 0.02


def test_weights_half_and_double() -> None:
    order = MixedOrder([(100, 1.0), (10, 0.5), (6, 2.0)], seed=5)
    assert order.windows_per_pass == 100 + 5 + 12
    passes = [order.windows(np.arange(k * 117, (k + 1) * 117)) for k in range(2)]
    for sources, _, windows in passes:
        assert np.array_equal(np.sort(windows[sources == 0]), np.arange(100))
        assert np.array_equal(np.bincount(windows[sources == 2]), np.full(6, 2))
    halves = [set(windows[sources == 1]) for sources, _, windows in passes]
    assert len(halves[0]) == len(halves[1]) == 5
    assert halves[0] | halves[1] == set(range(10))
    assert passes[1][1][passes[1][0] == 1].tolist() == [0] * 5  # still in the first epoch of that source


def test_sources_are_shuffled_together() -> None:
    sources, _, _ = MixedOrder([(500, 1.0), (500, 1.0)], seed=0).windows(np.arange(1000))
    assert 200 < (sources[:500] == 0).sum() < 300


def test_excluded_positions_are_left_out_and_the_rest_moves_up() -> None:
    excluded = (0, 3, 4, 9)
    assert skip_excluded(np.arange(8), excluded).tolist() == [1, 2, 5, 6, 7, 8, 10, 11]
    assert skip_excluded(np.arange(3), ()).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="sorted"):
        skip_excluded(np.arange(3), (4, 3))


def test_an_empty_order_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        WindowOrder(0, seed=0)
    with pytest.raises(ValueError, match="weights"):
        MixedOrder([(3, 0.0)], seed=0)
