from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from gptloom.config.errors import GuardStop
from gptloom.observe.events import read_events
from gptloom.train.guards import Guard
from gptloom.train.objective import NextToken


def settled(**given) -> Guard:
    """A guard that has seen a hundred losses near 3."""
    guard = Guard(**given)
    for step in range(100):
        assert guard.refuse(step, 3.0 + 0.1 * math.sin(step), 1.0) is None
    return guard


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_from_the_first_step(bad: float) -> None:
    assert "the loss is" in (Guard().refuse(0, bad, 1.0) or "")
    assert "the gradient norm is" in (Guard().refuse(0, 3.0, bad) or "")


def test_mean_and_deviation_are_those_of_the_losses() -> None:
    guard = settled()
    losses = torch.tensor([3.0 + 0.1 * math.sin(step) for step in range(100)], dtype=torch.float64)
    assert guard.mean == pytest.approx(float(losses.mean()))
    assert math.sqrt(guard.variance) == pytest.approx(float(losses.std(correction=0)))


def test_a_spike_is_refused_by_its_deviations() -> None:
    guard = settled()
    deviation = math.sqrt(guard.variance)
    assert guard.refuse(100, guard.mean + 6.9 * deviation, 1.0) is None
    guard = settled()
    reason = guard.refuse(100, guard.mean + 7.5 * deviation, 1.0)
    assert reason is not None and "7.5 standard deviations above its mean 3.0" in reason
    assert guard.refuse(101, guard.mean - 50 * deviation, 1.0) is None  # a fall is no harm


def test_what_is_refused_does_not_move_the_mean() -> None:
    guard = settled()
    before = (guard.mean, guard.variance, guard.seen)
    guard.refuse(100, 50.0, 1.0)
    assert (guard.mean, guard.variance, guard.seen) == before


def test_nothing_is_a_spike_while_it_settles() -> None:
    guard = Guard()
    for step in range(50):
        guard.refuse(step, 3.0, 1.0)
    assert guard.refuse(50, 9.0, 1.0) is None


def test_patience_counts_refusals_in_a_row() -> None:
    guard = settled(patience=3)
    for step in range(2):
        guard.refuse(step, math.nan, 1.0)
    guard.refuse(2, 3.0, 1.0)
    assert guard.refused_in_a_row == 0
    for step in range(3):
        assert not guard.exhausted
        guard.refuse(step, math.nan, 1.0)
    assert guard.exhausted


def test_its_memory_goes_through_json() -> None:
    guard = settled()
    guard.refuse(100, math.nan, math.inf)
    copy = Guard()
    copy.load(json.loads(json.dumps(guard.state(), allow_nan=False)))
    assert repr(copy) == repr(guard)
    assert copy.diagnosis(1e-3) == guard.diagnosis(1e-3)
    assert copy.refuse(101, 50.0, 1.0) == guard.refuse(101, 50.0, 1.0)


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
    assert "10 updates in a row were refused" in str(stopped.value)
    assert "step 11: loss nan" in str(stopped.value) and "--lr" in str(stopped.value)
    folder = next(tmp_path.glob("run-*"))
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    assert state["state"] == "failed" and state["step"] == 12
    assert "10 updates in a row" in state["reason"] and "\n" not in state["reason"]
    events = read_events(folder / "events.jsonl")
    assert [event["type"] for event in events[-2:]] == ["guard", "end"]
    assert events[-1]["state"] == "failed"
