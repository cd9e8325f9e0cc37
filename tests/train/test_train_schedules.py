from __future__ import annotations

import pytest

from gptloom.train.schedules import Schedule

KINDS = ("cosine", "trapezoid", "linear", "constant")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begin", [0, 30])
def test_warm_up_begins_above_zero_and_reaches_the_top(kind, begin: int) -> None:
    schedule = Schedule(
        100 + begin, warmup=10, kind=kind, final=0.2, decay=40 if kind == "trapezoid" else 0, begin=begin
    )
    assert [schedule(begin + step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert schedule(begin + 10) == 1.0
    assert all(0 < schedule(begin + step) <= 1 for step in range(100))


def test_cosine_is_half_way_down_in_the_middle() -> None:
    schedule = Schedule(110, warmup=10, final=0.1)
    assert schedule(60) == pytest.approx(0.55)
    assert schedule(110) == pytest.approx(0.1)
    assert schedule(500) == pytest.approx(0.1)
    assert all(schedule(step) > schedule(step + 1) for step in range(10, 110))


def test_linear_falls_by_the_same_amount_each_step() -> None:
    schedule = Schedule(12, warmup=2, kind="linear", final=0.0)
    assert [schedule(step) for step in range(2, 13)] == pytest.approx([1 - step / 10 for step in range(11)])


def test_a_trapezoid_stays_up_until_its_decay() -> None:
    schedule = Schedule(100, warmup=10, kind="trapezoid", final=0.0, decay=20)
    assert {schedule(step) for step in range(10, 81)} == {1.0}
    assert schedule.stable_end == 80
    assert schedule(90) == pytest.approx(0.5)
    assert schedule(99) == pytest.approx(1 / 20)
    longer = Schedule(500, warmup=10, kind="trapezoid", final=0.0, decay=100)
    assert all(schedule(step) == longer(step) for step in range(schedule.stable_end + 1))


def test_constant_and_no_warm_up() -> None:
    assert {Schedule(5, kind="constant")(step) for step in range(9)} == {1.0}
    assert Schedule(10)(0) == 1.0
    assert Schedule(10, kind="linear").stable_end is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="warm-up 60 and decay 50 do not fit in 100 steps"):
        Schedule(130, warmup=60, decay=50, kind="trapezoid", begin=30)
    assert Schedule(3, warmup=3, kind="cosine")(2) == 1.0


def test_a_decay_may_end_before_the_run_or_after_it() -> None:
    schedule = Schedule(100, warmup=10, final=0.1, end=60)
    assert schedule(35) == pytest.approx(0.55)
    assert {round(schedule(step), 12) for step in range(60, 100)} == {0.1}
    cut = Schedule(20, warmup=10, final=0.1, end=60)
    assert [cut(step) for step in range(20)] == [schedule(step) for step in range(20)]
    with pytest.raises(ValueError, match="the decay ends at step 8, within the warm-up of 10 steps"):
        Schedule(100, warmup=10, end=8)


@pytest.mark.parametrize("kind", KINDS)
def test_along_a_batch_ramp_the_factor_follows_what_was_trained_on(kind) -> None:
    def rows(step: int) -> float:
        return step * (step + 1) / 2  # 1, 2, 3 ... rows a step

    schedule = Schedule(40, warmup=8, kind=kind, final=0.2, decay=16 if kind == "trapezoid" else 0, clock=rows)
    assert [schedule(step) for step in range(8)] == pytest.approx([rows(step + 1) / rows(8) for step in range(8)])
    start = 24 if kind == "trapezoid" else 8
    if kind in ("linear", "trapezoid"):
        done = (rows(30) - rows(start)) / (rows(40) - rows(start))
        assert schedule(30) == pytest.approx(0.2 + 0.8 * (1 - done))
    alike = Schedule(40, warmup=8, kind=kind, final=0.2, decay=16 if kind == "trapezoid" else 0, clock=lambda n: 7 * n)
    plain = Schedule(40, warmup=8, kind=kind, final=0.2, decay=16 if kind == "trapezoid" else 0)
    assert [alike(step) for step in range(40)] == pytest.approx([plain(step) for step in range(40)])
