from __future__ import annotations

import pytest

from gptloom.data.step_sizes import StepSizes

GPT3 = StepSizes(full=256, first=16, over=2_000_000)  # 0.5M tokens from 32k, over 4B: windows of 2048


def test_without_a_ramp_every_step_is_alike() -> None:
    sizes = StepSizes(7)
    assert [sizes.rows(step) for step in (0, 1, 10**9)] == [7, 7, 7]
    assert sizes.before(10**9) == 7 * 10**9
    assert sizes.full_from == 0
    assert [sizes.steps_within(n) for n in (0, 6, 7, 13, 14)] == [0, 0, 1, 1, 2]
    assert [sizes.steps_for(n) for n in (0, 6, 7, 8, 14, 14.5)] == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("sizes", [GPT3, StepSizes(10, 3, 50), StepSizes(10, 10, 50), StepSizes(9, 2, 0)])
def test_rows_before_a_step_are_the_sum_of_those_steps(sizes: StepSizes) -> None:
    total = 0
    for step in range(200):
        assert sizes.before(step) == total
        assert sizes.steps_for(total) == sizes.steps_within(total) == step
        assert sizes.steps_for(total + 1) == step + 1
        total += sizes.rows(step)


def test_the_ramp_is_a_line_in_the_rows_trained_on() -> None:
    for step in range(0, GPT3.full_from + 10, 97):
        done = GPT3.before(step)
        line = min(256.0, 16 + (256 - 16) * done / 2_000_000)
        assert GPT3.rows(step) % 16 == 0
        assert 0 <= line - GPT3.rows(step) < 16
    assert GPT3.rows(0) == 16
    assert GPT3.rows(GPT3.full_from) == 256
    assert GPT3.rows(GPT3.full_from - 1) == 240
    assert 2_000_000 <= GPT3.before(GPT3.full_from) < 2_000_000 + 256


def test_a_full_batch_that_is_no_multiple_of_the_first_is_reached_at_the_end_of_the_line() -> None:
    sizes = StepSizes(10, 4, 60)
    seen = [(sizes.before(step), sizes.rows(step)) for step in range(sizes.full_from + 1)]
    assert {rows for _, rows in seen} == {4, 8, 10}
    assert all((rows == 4) == (before < 40) and (rows == 10) == (before >= 60) for before, rows in seen)


def test_a_ramp_shorter_than_a_step_leaves_sizes_out() -> None:
    sizes = StepSizes(12, 2, 3)
    assert [sizes.rows(step) for step in range(3)] == [2, 8, 12]


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(ValueError, match="from 8 to 4"):
        StepSizes(4, 8, 10)
