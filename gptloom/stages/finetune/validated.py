"""A model being fine-tuned for a task, as it is now, on the validation examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gptloom.data.order import drawn
from gptloom.data.task_batches import in_length_order
from gptloom.evaluation.task_metrics import evaluate_task
from gptloom.generation.classifier import ROW_TOKENS, Classifier, score_batches
from gptloom.stages.tuning.plan import Validated

if TYPE_CHECKING:
    from gptloom.stages.finetune.plan import TaskPlan


def validated(plan: TaskPlan) -> Validated:
    """On the validation examples; no figures where a score is no number."""
    classifier = Classifier(plan.body.model, plan.body.tokenizer, plan.body.task)
    found: dict[int, torch.Tensor] = {}
    total = items = 0.0
    places = _measured(plan)
    encoded = [plan.valid[place] for place in places]
    for scored in score_batches(plan.body.model, encoded, plan.body.tokenizer.pad_id or 0):
        if counted := plan.objective.count(scored.batch)["task"]:
            total, items = total + float(plan.objective.task_loss(scored.scores, scored.batch)), items + counted
        found |= {index: own.cpu() for index, own in scored.of_examples()}
    if not all(bool(scores.isfinite().all()) for scores in found.values()):
        return Validated(math.nan, {}, None)
    examples = [plan.data.valid[place] for place in places]
    answers = classifier.answers(examples, encoded, [found[index] for index in range(len(encoded))])
    metrics = evaluate_task(plan.body.task, examples, answers).metrics
    return Validated(total / max(items, 1.0), metrics, metrics[plan.metric])


def _measured(plan: TaskPlan) -> Sequence[int]:
    """Places of the validation examples that are scored: all, or those drawn for so many batches."""
    limit = plan.options.limit_batches
    if limit is None:
        return range(len(plan.valid))

    def batches(places: Sequence[int]) -> int:
        return sum(1 for _ in in_length_order([plan.valid[place] for place in places], ROW_TOKENS))

    return drawn(len(plan.valid), batches, limit)
