"""What a fine-tuning leaves: the folder of the best step, its adapters as PEFT has them, and its figures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import gptloom
from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.evaluation.task_metrics import evaluate_task
from gptloom.generation.classifier import score_batches
from gptloom.interop.bodies import open_body
from gptloom.interop.classifiers import open_classifier
from gptloom.interop.foreign import ForeignModel
from gptloom.model.lora import merge_lora
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.observe.glossary import written
from gptloom.observe.pictures import can_draw
from gptloom.observe.task_pictures import draw_confusion
from gptloom.observe.terminal import say
from gptloom.stages.finetune.body import Body, parameters_of
from gptloom.stages.finetune.forms import AdapterFolder, ForeignBody
from gptloom.stages.finetune.part import trained_parameters
from gptloom.stages.finetune.plan import Plan
from gptloom.stages.finetune.result import METRICS
from gptloom.stages.training import FINAL
from gptloom.train.checkpoint import FOLDER, name_of, restore_weights
from gptloom.train.disk import Room, unless_full
from gptloom.train.form import About
from gptloom.train.memory import peak_memory
from gptloom.train.run import EVENTS, Hook, Run

ADAPTER = "adapter"
Event = dict[str, Any]


def describe(plan: Plan, run: Run, folder: Path) -> About:
    """What a model folder of this run says of itself at the present step."""
    state = run.state
    parent = plan.body.path
    parents = [] if parent is None else [{"path": relative_path(parent, folder), "hash": plan.body.base_hash}]
    lineage = {
        "stage": "finetune",
        "parents": parents,
        "run": run.path.name,
        "step": state.step,
        "tokens": state.tokens,
        "data_hash": plan.data.hash,
        "options": {name: setting.value for name, setting in plan.resolved.settings().items()},
        "metrics": {"valid_loss": state.valid_loss, plan.metric: state.best_value},
    }
    facts = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gptloom": gptloom.__version__,
        "precision": str(plan.dtype).removeprefix("torch."),
        "data": plan.data.hash,
        "base": plan.body.base_hash,
    }
    config: Any = plan.body.model.config
    return About(config, plan.body.tokenizer, lineage, facts, plan.body.task)


def relative_path(path: Path, folder: Path) -> str:
    """``path`` from ``folder``; as it is where no way leads there (another drive of Windows)."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return str(path)


def finish(plan: Plan) -> Hook:
    """Writes ``final/`` and the figures while the run still counts as running: broken off here, it is resumed."""

    def finish(event: Event, run: Run) -> None:
        if event["type"] != "closing" or not run.complete:
            return
        if run.state.best_step is None and run.state.stale_evaluations:
            what = "every evaluation met scores that are no numbers: there is no model to keep"
            mend = f"a smaller --lr than {plan.options.lr:g}, or --clip 1; --overwrite begins anew"
            raise UserError(Problem(what, str(run.path), mend))
        best = run.state.best_step or run.state.step
        if best != run.state.step:
            restore_weights(run, run.path / FOLDER / name_of(best))
        about = describe(plan, run, run.path / FINAL)
        about = replace(about, lineage={**about.lineage, "step": best, "metrics": _figures_at(best, plan, run)})
        with torch.no_grad():
            for name, parameter in run.model.named_parameters():
                parameter.data = run.optimizer.masters.tensors[name].detach().to("cpu", torch.float32)
            run.model.cpu()
        chosen = (
            "" if run.state.best_value is None else f" ({written(plan.metric, run.state.best_value)} {plan.metric})"
        )
        say(f"kept: step {best} of {run.state.step}{chosen}, in {run.path / FINAL}")
        finished, cost = replace(plan, body=plain_scores(plan.body)), cost_of(plan, run)
        leave(finished, run, about, cost)

    return finish


def _figures_at(step: int, plan: Plan, run: Run) -> dict[str, float | None]:
    """What validation gave at the best step; the last evaluation may have been of a later one."""
    found = [event for event in read_events(run.path / EVENTS) if event["type"] == "evaluate" and event["step"] == step]
    return {"valid_loss": found[-1]["valid_loss"] if found else None, plan.metric: run.state.best_value}


def plain_scores(body: Body) -> Body:
    """The head gives the scores themselves from now on: mean and deviation go into its weights."""
    task = body.task
    if not task.is_score:
        return body
    head: Any = body.model.task_head
    with torch.no_grad():
        head.score.weight.mul_(task.score_std)
        head.score.bias.mul_(task.score_std).add_(task.score_mean)
    return replace(body, task=task.model_copy(update={"score_mean": 0.0, "score_std": 1.0}))


def leave(plan: Plan, run: Run, about: About, cost: Mapping[str, Any]) -> None:
    """The model, fp32 and on the CPU, as a folder for everyone, adapters also as PEFT has them, and the figures.

    A full disk is waited for, as it is for checkpoints.
    """
    model, form = plan.body.model, plan.form
    about = replace(about, task=plan.body.task)
    learned: dict[str, torch.Tensor] = {}
    if plan.lora is not None:
        learned = {name: p.detach() for name, p in model.named_parameters() if form.keeps(name)}
        _merge(plan)

    def write() -> None:
        if isinstance(form, AdapterFolder):
            form.write(run.path / ADAPTER, learned, about)
        _write_model(model, run.path / FINAL, about)
        _write_metrics(plan, run.path, cost)

    room = Room(run, f"the model folder {FINAL}", 4 * parameters_of(model), plan.options.wait_for_disk)
    room.wait()
    while not unless_full(write):
        room.wait(tried=True)
    room.found()


def _write_model(model: Transformer | ForeignModel, folder: Path, about: About) -> None:
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if isinstance(model, ForeignModel):
        ForeignBody(model, open_body).write(folder, state, about)
    else:
        save_model(folder, state, about.config, tokenizer=about.tokenizer, lineage=about.lineage, task=about.task)


@torch.no_grad()
def _merge(plan: Plan) -> None:
    """Folds the adapters into the matrices and says what that changed in the scores."""
    some = plan.valid[:32]
    pad = plan.body.tokenizer.pad_id or 0
    before = [scored.scores for scored in score_batches(plan.body.model, some, pad)]
    merge_lora(plan.body.model)
    after = [scored.scores for scored in score_batches(plan.body.model, some, pad)]
    difference = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    say(f"adapters merged in fp32: scores differ by at most {difference:.1g}")


def cost_of(plan: Plan, run: Run) -> dict[str, Any]:
    """What the training took; adapters must not be merged yet."""
    peak = peak_memory(plan.device)
    return {
        "seconds": run.state.seconds,
        "peak_memory": None if peak is None else max(0, peak - plan.held),
        "trained_parameters": trained_parameters(plan.body.model),
    }


def _write_metrics(plan: Plan, folder: Path, cost: Mapping[str, Any]) -> None:
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
