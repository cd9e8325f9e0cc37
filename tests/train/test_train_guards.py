from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch

from gptloom.config.errors import GuardStop
from gptloom.observe.events import read_events
from gptloom.train.guards import FINE, Guard, Verdict
from gptloom.train.objective import NextToken


def settled(**given) -> Guard:
    """A guard that has seen a hundred losses near 3."""
    guard = Guard(**given)
    for step in range(100):
        assert guard.judge(step, 3.0 + 0.1 * math.sin(step), 1.0) == FINE
    return guard


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_from_the_first_step(bad: float) -> None:
    assert Guard().judge(0, bad, 1.0) == Verdict("refused", f"the loss is {bad}")
    assert Guard().judge(0, 3.0, bad) == Verdict("refused", f"the gradient norm is {bad}")


def test_mean_and_deviation_are_those_of_the_losses() -> None:
    guard = settled()
    losses = torch.tensor([3.0 + 0.1 * math.sin(step) for step in range(100)], dtype=torch.float64)
    assert guard.mean == pytest.approx(float(losses.mean()))
    assert math.sqrt(guard.variance) == pytest.approx(float(losses.std(correction=0)))


def test_a_spike_is_refused_by_its_deviations() -> None:
    guard = settled()
    deviation = math.sqrt(guard.variance)
    assert guard.judge(100, guard.mean + 6.9 * deviation, 1.0) == FINE
    guard = settled()
    kind, reason = guard.judge(100, guard.mean + 7.5 * deviation, 1.0)
    assert kind == "refused" and "7.5 standard deviations above its mean 3.0" in reason
    assert guard.judge(101, guard.mean - 50 * deviation, 1.0) == FINE  # a fall is no harm


def test_what_is_refused_does_not_move_the_mean() -> None:
    guard = settled()
    before = (guard.mean, guard.variance, guard.seen)
    guard.judge(100, 50.0, 1.0)
    assert (guard.mean, guard.variance, guard.seen) == before


def test_nothing_is_a_spike_while_it_settles() -> None:
    guard = Guard()
    for step in range(50):
        guard.judge(step, 3.0, 1.0)
    assert guard.judge(50, 9.0, 1.0) == FINE


def test_refusals_in_a_row_are_repeated_trouble() -> None:
    guard = settled(patience=3)
    kinds = [guard.judge(step, loss, 1.0).kind for step, loss in enumerate([math.nan, math.nan, 3.0] + [math.nan] * 4)]
    assert kinds == ["refused", "refused", "fine", "refused", "refused", "repeated", "repeated"]
    assert guard.first_refused == 3
    guard.judge(7, 3.0, 1.0)
    assert guard.first_refused is None and guard.refused_in_a_row == 0


def first_divergence(losses: Iterable[float], **given) -> tuple[int, str] | None:
    """The step at which a guard calls the training diverged, and why."""
    guard = Guard(**given)
    verdicts = ((step, guard.judge(step, loss, 1.0)) for step, loss in enumerate(losses))
    return next(((step, verdict.reason) for step, verdict in verdicts if verdict.kind == "diverged"), None)


def test_a_loss_that_stays_far_above_its_best_has_diverged() -> None:
    # Falls from 6 to 3 in 300 steps, then rises too slowly to be a spike and stays at 5.
    losses = [max(3.0, 6 - step / 100) + 0.1 * math.sin(step) for step in range(500)]
    losses += [min(5.0, 3 + step / 200) + 0.1 * math.sin(step) for step in range(800)]
    step, reason = first_divergence(losses) or (0, "")
    # The mean lags the loss by 100 steps: it is 1 above its best about 200 + 100 steps after the turn, and for 100 more.
    assert 880 < step < 920 and "far above its best, 3.1" in reason and "for 100 steps" in reason


@pytest.mark.parametrize(
    "rise", [[0.9] * 600, [2.0] * 60 + [0.0] * 600], ids=["by less than a nat", "for less than a hundred steps"]
)
def test_a_loss_that_rises_a_little_or_for_a_while_has_not_diverged(rise: list[float]) -> None:
    settled = [3 + 0.5 * math.sin(step) for step in range(300)]
    assert first_divergence([*settled, *(3 + up + 0.5 * math.sin(step) for step, up in enumerate(rise))]) is None


def test_a_training_hurt_from_its_first_steps_is_measured_by_chance() -> None:
    losses = [4.2, *(900.0 + 50 * math.sin(step) for step in range(300))]
    assert first_divergence(losses) is None  # nothing good to compare with
    step, reason = first_divergence(losses, chance=4.2) or (0, "")
    assert 100 <= step < 110 and "far above that of knowing nothing, 4.200" in reason
    untrained = [4.2 + 0.4 * math.sin(step) for step in range(300)]
    assert first_divergence(untrained, chance=4.2) is None


def test_its_memory_goes_through_json() -> None:
    guard = settled()
    guard.judge(100, math.nan, math.inf)
    copy = Guard()
    copy.judge(7, math.nan, 1.0)  # overwritten, whatever it was
    copy.load(json.loads(json.dumps(guard.state(), allow_nan=False)))
    assert repr(copy) == repr(guard)
    assert copy.judge(101, 50.0, 1.0) == guard.judge(101, 50.0, 1.0)


def test_the_memory_of_an_older_version_is_read() -> None:
    guard = settled()
    old = {name: value for name, value in guard.state().items() if name in ("mean", "variance", "seen", "recent")}
    copy = Guard()
    copy.load(old | {"refused_in_a_row": 4})
    assert (copy.mean, copy.seen, copy.refused_in_a_row, copy.best) == (guard.mean, guard.seen, 4, None)


def broken_at(make_batch, steps: range):
    """Batches whose weights make the loss infinite at some steps."""

    def batches(step: int):
        batch = make_batch(step)
        return replace(batch, weights=batch.weights * math.inf) if step in steps else batch

    class Objective(NextToken):
        def count(self, batch):
            return {"next_token": 50.0}

    return {"batches": batches, "objective": Objective()}


def test_a_bad_batch_moves_nothing_and_is_written_down(train, make_batch) -> None:
    given = broken_at(make_batch, range(1, 2))
    before: dict[int, dict] = {}

    def remember(event, run) -> None:
        if event["type"] == "train":
            tensors = {**run.optimizer.masters.tensors, **run.optimizer.state_tensors()}
            before[event["step"]] = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    done = train(hooks=[remember], **given)
    assert all(torch.equal(before[1][name], tensor) for name, tensor in before[2].items())
    assert not torch.equal(before[3]["embedding.weight"], before[2]["embedding.weight"])
    events = read_events(done.run.path / "events.jsonl")
    guards = [event for event in events if event["type"] == "guard"]
    assert [event["step"] for event in guards] == [2]
    assert guards[0]["action"] == "update skipped" and "the loss is nan" in guards[0]["reason"]
    assert [event["loss"] is None for event in events if event["type"] == "train"] == [False, True, False]
    assert done.run.state.state == "finished"


def test_the_batch_is_told_as_text_where_the_run_can(train, make_batch) -> None:
    def tell(event, run) -> None:
        run.describe = lambda batch: f"{len(batch.ids)} rows"

    done = train(hooks=[tell], **broken_at(make_batch, range(1, 2)))
    assert [event["text"] for event in done.seen if event["type"] == "guard"] == ["8 rows"]


def test_a_run_that_keeps_failing_stops_with_a_diagnosis(tmp_path, train, make_batch) -> None:
    with pytest.raises(GuardStop) as stopped:
        train(steps=50, **broken_at(make_batch, range(2, 50)))
    text = str(stopped.value)
    assert "10 updates in a row were refused" in text and "cannot leave windows out" in text.splitlines()[0]
    assert "step 12: loss nan" in text and "--lr" in text
    folder = next(tmp_path.glob("run-*"))
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    assert state["state"] == "failed" and state["step"] == 12
    assert "10 updates in a row" in state["reason"] and "\n" not in state["reason"]
    events = read_events(folder / "events.jsonl")
    assert [event["type"] for event in events[-2:]] == ["guard", "end"]
    assert events[-1]["state"] == "failed"
