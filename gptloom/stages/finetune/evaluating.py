"""The figures on the validation examples while a fine-tuning runs, and which step was the best."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from gptloom.evaluation.task_metrics import TaskReport, evaluate_task, higher_is_better
from gptloom.generation.classifier import Classifier, score_batches
from gptloom.stages.finetune.plan import Plan
from gptloom.train.checkpoint import FOLDER, name_of
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
        state = run.state
        state.valid_loss = loss if math.isfinite(loss) else None
        if report is not None and self._is_best(run, value := report.metrics[self.plan.metric]):
            state.best_step, state.best_value, state.best_loss = state.step, value, state.valid_loss
            state.stale_evaluations = 0
        else:
            state.stale_evaluations += 1
        run.emit(
            "evaluate",
            valid_loss=loss,
            metric=self.plan.metric,
            metrics={} if report is None else report.metrics,
            best_step=state.best_step,
            seconds=time.perf_counter() - started,
        )

    def _is_best(self, run: Run, value: float) -> bool:
        """Of equal values the one of lower loss, then the earlier, is the better.

        A best step whose checkpoint is gone does not count: the run went back to before it was pruned for a better one.
        """
        best, step = run.state.best_value, run.state.best_step
        if best is None or step is None or not (run.path / FOLDER / name_of(step)).is_dir():
            return True
        if value == best:
            loss, least = run.state.valid_loss, run.state.best_loss
            return loss is not None and least is not None and loss < least
        return value > best if higher_is_better(self.plan.metric) else value < best


def validated(plan: Plan) -> tuple[float, TaskReport | None]:
    """Loss per item, and the report, on the validation examples; none where a score is no number."""
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
    if not all(bool(scores.isfinite().all()) for scores in found.values()):
        return math.nan, None
    places = sorted(found)
    examples = [plan.data.valid[place] for place in places]
    answers = classifier.answers(examples, [plan.valid[place] for place in places], [found[place] for place in places])
    return total / max(items, 1.0), evaluate_task(plan.body.task, examples, answers)
