"""A model being fine-tuned for a task, as it is now, on the validation examples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gptloom.evaluation.task_metrics import evaluate_task
from gptloom.generation.classifier import Classifier, score_batches
from gptloom.stages.tuning.plan import Validated

if TYPE_CHECKING:
    from gptloom.stages.finetune.plan import TaskPlan


def validated(plan: TaskPlan) -> Validated:
    """On the validation examples; no figures where a score is no number."""
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
        return Validated(math.nan, {}, None)
    places = sorted(found)
    examples = [plan.data.valid[place] for place in places]
    answers = classifier.answers(examples, [plan.valid[place] for place in places], [found[place] for place in places])
    metrics = evaluate_task(plan.body.task, examples, answers).metrics
    return Validated(total / max(items, 1.0), metrics, metrics[plan.metric])
