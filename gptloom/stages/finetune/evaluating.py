"""The figures on the validation examples while a fine-tuning runs, and which step was the best."""

from __future__ import annotations

import time
from typing import Any

import torch

from gptloom.evaluation.task_metrics import TaskReport, evaluate_task, higher_is_better
from gptloom.generation.classifier import Classifier, score_batches
from gptloom.stages.finetune.plan import Plan
from gptloom.train.hooks import due
from gptloom.train.run import Run

Event = dict[str, Any]


class EvaluateTask:
    """The metrics on the validation examples every ``every`` steps and at the end; keeps the best step."""

    def __init__(self, plan: Plan, every: int) -> None:
        self.plan, self.every = plan, every

    def __call__(self, event: Event, run: Run) -> None:
        if not due(event, run, self.every):
            return
        started = time.perf_counter()
        loss, report = validated(self.plan)
        value, state = report.metrics[self.plan.metric], run.state
        state.valid_loss = loss
        sign = 1.0 if higher_is_better(self.plan.metric) else -1.0
        if state.best_value is None or sign * value > sign * state.best_value:
            state.best_step, state.best_value, state.stale_evaluations = state.step, value, 0
        else:
            state.stale_evaluations += 1
        run.emit(
            "evaluate",
            valid_loss=loss,
            metric=self.plan.metric,
            metrics=report.metrics,
            best_step=state.best_step,
            seconds=time.perf_counter() - started,
        )


def validated(plan: Plan) -> tuple[float, TaskReport]:
    """Loss per item, and the report, on the validation examples."""
    classifier = Classifier(plan.body.model, plan.body.tokenizer, plan.body.task)
    found: dict[int, torch.Tensor] = {}
    total = items = 0.0
    limit = plan.options.limit_batches
    for number, scored in enumerate(score_batches(plan.body.model, plan.valid, plan.body.tokenizer.pad_id or 0)):
        if number == limit:
            break
        if counted := plan.objective.count(scored.batch)["task"]:
            total, items = total + float(plan.objective.task_loss(scored.scores, scored.batch)), items + counted
        found |= {index: own.cpu() for index, own in scored.of_examples()}
    places = sorted(found)
    examples = [plan.data.valid[place] for place in places]
    answers = classifier.answers(examples, [plan.valid[place] for place in places], [found[place] for place in places])
    return total / max(items, 1.0), evaluate_task(plan.body.task, examples, answers)
