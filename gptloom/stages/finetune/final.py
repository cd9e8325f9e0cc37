"""What a fine-tuning for a task leaves: the folder of the best step, and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gptloom.config.files import write_text
from gptloom.config.run_folder import FINAL, METRICS
from gptloom.evaluation.task_metrics import evaluate_task
from gptloom.generation.classifier import score_batches
from gptloom.interop.classifiers import open_classifier
from gptloom.model.lora import merge_lora
from gptloom.observe.pictures import can_draw
from gptloom.observe.task_pictures import draw_confusion
from gptloom.observe.terminal import say
from gptloom.stages.finetune.body import TaskBody
from gptloom.stages.tuning.final import write_folders
from gptloom.train.form import About
from gptloom.train.run import Run

if TYPE_CHECKING:
    from gptloom.stages.finetune.plan import TaskPlan


def plain_scores(body: TaskBody) -> TaskBody:
    """The head gives the scores themselves from now on: mean and deviation go into its weights."""
    task = body.task
    if not task.is_score:
        return body
    head: Any = body.model.task_head
    with torch.no_grad():
        head.score.weight.mul_(task.score_std)
        head.score.bias.mul_(task.score_std).add_(task.score_mean)
    return replace(body, task=task.model_copy(update={"score_mean": 0.0, "score_std": 1.0}))


def leave(plan: TaskPlan, run: Run, told: About, cost: Mapping[str, Any]) -> None:
    """The model, fp32 and on the CPU, as a folder for everyone, adapters also as PEFT has them, and the figures."""
    plan = replace(plan, body=plain_scores(plan.body))
    learned = plan.learned()
    if learned:
        _merge(plan)
    write_folders(plan, run, plan.described(told), learned, lambda: _write_metrics(plan, run.path, cost))


@torch.no_grad()
def _merge(plan: TaskPlan) -> None:
    """Folds the adapters into the matrices and says what that changed in the scores."""
    some = plan.valid[:32]
    pad = plan.body.tokenizer.pad_id or 0
    before = [scored.scores for scored in score_batches(plan.body.model, some, pad)]
    merge_lora(plan.body.model)
    after = [scored.scores for scored in score_batches(plan.body.model, some, pad)]
    difference = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    say(f"adapters merged in fp32: scores differ by at most {difference:.1g}")


def _write_metrics(plan: TaskPlan, folder: Path, cost: Mapping[str, Any]) -> None:
    """``metrics.json``: the figures of the stored folder on validation and test examples, beside a constant answer's."""
    classifier = open_classifier(str(folder / FINAL), device=plan.device.type)
    document: dict[str, Any] = {"version": 1, "metric": plan.metric, "cost": cost}
    for side, examples in (("valid", plan.data.valid), ("test", plan.data.test)):
        if examples:
            report = evaluate_task(plan.body.task, examples, classifier.predict(examples))
            document[side] = report.as_dict()
            if report.confusion is not None and can_draw():
                title = f"{folder.name}, {side}: {report.n:,} rows"
                path = folder / f"confusion-{side}.png"
                draw_confusion(plan.body.task.labels, report.confusion, path, title=title)
    write_text(folder / METRICS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
