"""Fine-tuning by features: choices of different number, the precision they are taken in, and a run asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import gptloom
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import resolve
from gptloom.observe.terminal import quietly
from gptloom.stages.finetune import features
from gptloom.stages.finetune.data import read_task_data
from gptloom.stages.finetune.features import Features
from gptloom.stages.finetune.plan import TaskPlan, plan_run

Tune = Callable[..., Any]
TABLE = Callable[..., Path]


def plan_of(body: Path, kind: str, table: TABLE, **given: Any) -> TaskPlan:
    rows = {"data": [str(table(kind, 24, most=5) if kind == "choice" else table(kind))]}
    asked = resolve(FinetuneOptions, {"base": str(body), "task": kind, "method": "feature", **rows, **given})
    with quietly(True):
        return plan_run(asked, read_task_data(asked.options))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_choices_that_are_not_there_have_no_say(table: TABLE, bodies: dict[str, Path], smoothing: float) -> None:
    """Whatever stands in their places, the head is the same, and it is where the gradient of the loss vanishes."""
    plan = plan_of(bodies["encoder"], "choice", table, label_smoothing=smoothing)
    assert plan.body.head.bias
    torch.manual_seed(0)
    counts = torch.arange(40) % 4 + 1
    values, labels = torch.randn(40, 4, 32) + 5, torch.randint(0, 4, (40,)) % counts
    fitted = []
    for junk in (0.0, 1e3):
        values[torch.arange(4) >= counts[:, None]] = junk
        own = Features(values.clone(), labels, counts)
        features._fitted(plan, own, _of_validation(plan))
        head: Any = plan.body.model.task_head
        fitted.append(head.score.weight.clone())
        weight, _ = features._linear(plan, own, 0.3)
    assert torch.equal(*fitted)
    weight.requires_grad_()
    loss = weight.square().sum() / 0.6
    for value, label, count in zip(values, labels, counts, strict=True):
        scores = (value[:count] @ weight.T).T
        loss = loss + F.cross_entropy(scores, label[None], label_smoothing=smoothing, reduction="sum")
    loss.backward()
    assert weight.grad is not None and weight.grad.abs().max() < 0.02


def _of_validation(plan: TaskPlan) -> Features:
    n = len(plan.valid)
    return Features(torch.zeros(n, 5, 32), torch.zeros(n, dtype=torch.int64), torch.full((n,), 2))


def test_an_encoder_learns_from_choices_of_different_number(tune: Tune, table: TABLE) -> None:
    rows = {"data": [str(table("choice", 24, most=5))], "valid": [str(table("choice", 12, 1, most=5))]}
    run = tune("encoder", "choice", method="feature", **rows)
    own = [event for event in run.events if event["type"] == "evaluate"]
    assert run.figures["valid"]["metrics"] == pytest.approx(own[-1]["metrics"])


def test_small_bodies_say_their_features_as_they_will_be_asked(table: TABLE, bodies: dict[str, Path]) -> None:
    plan = plan_of(bodies["decoder"], "classify", table)
    assert features.computed_in(replace(plan, dtype=torch.bfloat16)) == torch.float32
    asked = plan_of(bodies["decoder"], "classify", table, precision="bf16")
    assert features.computed_in(asked) == torch.bfloat16


def test_a_run_asked_to_stop_keeps_its_features(tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sides = tune(method="feature", out=str(tmp_path / "whole")), []
    collect = features._collect

    def collecting(plan: TaskPlan, run: Any, examples: Any, side: str) -> Any:
        sides.append(side)
        found = collect(plan, run, examples, side)
        if len(sides) == 1:
            (run.path / "stop").touch()
        return found

    monkeypatch.setattr(features, "_collect", collecting)
    run = tune(method="feature")
    assert (run.state.state, run.state.reason) == ("paused", "stop was asked for")
    assert not (run.path / "final").exists()
    again = gptloom.resume(str(run.path), quiet=True, threads=torch.get_num_threads())
    assert again.state.state == "finished" and sides == ["train", "valid", "valid"]
    assert again.figures["valid"]["metrics"] == whole.figures["valid"]["metrics"]
