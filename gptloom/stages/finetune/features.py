"""Feature-based: the body runs once over every example, what it says is kept on disk, and a linear head is fitted to it.

Legend: D width, C scores; items are examples, of tags the words; G choices of each, 1 of all other tasks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from gptloom.config.finetune import FinetuneOptions
from gptloom.config.run_folder import FINAL
from gptloom.data.batch import Batch
from gptloom.data.task_batches import in_length_order, padded
from gptloom.data.task_inputs import IGNORED, Encoded
from gptloom.evaluation.task_metrics import TaskReport, evaluate_task
from gptloom.generation.classifier import ROW_TOKENS, Classifier
from gptloom.interop.foreign import ForeignModel
from gptloom.interop.open import BF16_PARAMETERS
from gptloom.model.counting import count_parameters
from gptloom.model.task_head import TaskModel, pool, task_hidden
from gptloom.model.weight_writer import write_tensors
from gptloom.observe.glossary import higher_is_better
from gptloom.observe.numbers import human_count, human_time
from gptloom.observe.progress import ProgressReader
from gptloom.observe.terminal import say, terminal
from gptloom.stages.claim import Claim
from gptloom.stages.finetune.final import leave
from gptloom.stages.finetune.plan import TaskPlan
from gptloom.stages.training import shown_to
from gptloom.stages.tuning.final import about, cost_of
from gptloom.stages.tuning.part import part_sentence
from gptloom.train.run import Hook, LoopSettings, Run, RunState
from gptloom.train.task_objective import TaskLoss

FOLDER = "features"
STRENGTHS = (0.003, 0.03, 0.3, 3.0)  # of the prior: scikit-learn's C, chosen on the validation examples


def uses_features(options: FinetuneOptions) -> bool:
    """Whether the body runs only once. The places of an answer have no features of their own: a span's head is trained."""
    return options.method == "feature" and not options.train and options.task != "span"


@dataclass(frozen=True)
class Features:
    """What the frozen body says of examples: [items, G, D], and the label of each item (of tags: of each word).

    ``counts`` [items]: how many choices an item has; what stands behind them in ``values`` means nothing.
    """

    values: Tensor
    labels: Tensor
    counts: Tensor

    @property
    def real(self) -> Tensor:
        """[items, G]: whether there is such a choice."""
        return torch.arange(self.values.shape[1]) < self.counts[:, None]


def fit_features(plan: TaskPlan, claim: Claim, callbacks: Sequence[Hook] = ()) -> None:
    """Fits the head, and writes ``final/`` as every fine-tuning does; asked to stop, it keeps the features it has."""
    plan = replace(plan, dtype=computed_in(plan))
    say(part_sentence(plan.body))
    run = Run(claim.folder, LoopSettings(steps=1), RunState())
    run.lock = claim.lock
    run.save_on_signal = list(plan.options.save_on_signal)
    readers: list[Any] = [] if plan.options.quiet else [ProgressReader()]
    run.hooks = [*map(shown_to, readers), *callbacks]
    claim.sure()
    with run.working():
        model = f"{plan.options.base} for {plan.options.task}"
        run.emit("start", steps=1, model=model, method="feature", metric=plan.metric)
        began = time.perf_counter()
        train = _features(plan, run, "train", plan.train)
        if train is None:
            return
        seconds = time.perf_counter() - began
        say(f"features of {len(plan.data.train):,} examples in {human_time(seconds)}, kept in {claim.folder / FOLDER}")
        valid = _features(plan, run, "valid", plan.valid)
        if valid is None:
            return
        report, rule = _fitted(plan, train, valid)
        say(rule)
        state = run.state
        state.step = state.best_step = 1
        state.best_value = report.metrics[plan.metric]
        state.seconds = time.perf_counter() - began
        run.emit("evaluate", valid_loss=None, metric=plan.metric, metrics=report.metrics, best_step=1, seconds=0.0)
        plan.body.model.float().cpu()
        run.stopping = "finished: the head is fitted"
        leave(plan, run, about(plan, run, claim.folder / FINAL), cost_of(plan, run))
        state.seconds = time.perf_counter() - began


# ---- the body's part -------------------------------------------------------------------------------------------------


def computed_in(plan: TaskPlan) -> torch.dtype:
    """The precision that ``open_classifier`` will choose for the result: a head is fitted to what it will be shown."""
    model = plan.body.model
    if plan.options.precision != "auto" or isinstance(model, ForeignModel):
        return plan.dtype
    return torch.float32 if count_parameters(model.config).total < BF16_PARAMETERS else plan.dtype


def _features(plan: TaskPlan, run: Run, side: str, examples: list[Encoded]) -> Features | None:
    """Of all examples, None where the run is to stop; those of one that was broken off are read, if of the same."""
    path = run.path / FOLDER / f"{side}.safetensors"
    key = json.dumps(
        {"base": plan.body.base_hash, "data": plan.data.hash, "task": plan.body.task.model_dump(mode="json")}
    )
    kept = _kept(path, key)
    if kept is None:
        kept = _collect(plan, run, examples, side)
        if kept is None:
            return None
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f".{side}.part")
        write_tensors(part, kept, kept.__getitem__, {"key": key})
        part.replace(path)
    labels = [label for one in examples for label in _labels(one)]
    dtype = torch.float32 if labels and isinstance(labels[0], float) else torch.int64
    values = kept["values"].float()
    counts = [min(len(one.rows), values.shape[1]) for one in examples for _ in _labels(one)]
    return Features(values, torch.tensor(labels, dtype=dtype), torch.tensor(counts))


def _labels(one: Encoded) -> Sequence[Any]:
    return [one.label] if one.words is None else one.label[: len(one.words)]


def _kept(path: Path, key: str) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("key") != key:
            return None
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


@torch.no_grad()
def _collect(plan: TaskPlan, run: Run, examples: list[Encoded], side: str) -> dict[str, Tensor] | None:
    """[items, G, D] in the order of the examples, zeros behind fewer than G choices; None where the run is to stop."""
    model, head = plan.body.model.eval(), plan.body.head
    model.to(plan.device, None if isinstance(model, ForeignModel) else plan.dtype)
    group = max(len(one.rows) for one in examples) if head.kind == "choice" else 1
    found: dict[int, Tensor] = {}
    for indices, own in in_length_order(examples, 2 * ROW_TOKENS):
        if run.check_stop():
            return None
        batch = padded(own, plan.body.tokenizer.pad_id or 0).to(plan.device)
        body = cast(TaskModel, model)
        hidden = task_hidden(body, batch.ids, batch.padding_mask, batch.segment_ids)
        if head.kind == "tokens":
            values = [states[list(one.words or ())][:, None] for one, states in zip(own, hidden, strict=True)]
        else:
            pooled = pool(body, hidden, batch.padding_mask, head.pooling).unflatten(0, (-1, batch.group))
            if head.orders == 2:
                pooled = pooled.sum(1, keepdim=True)
            values = [nn.functional.pad(rows, (0, 0, 0, group - len(rows)))[None] for rows in pooled]
        found |= {index: value.float().cpu() for index, value in zip(indices, values, strict=True)}
        terminal.show_live(f"features of the {side} examples: {len(found):,} of {len(examples):,}")
    return {"values": torch.cat([found[index] for index in range(len(examples))])}


# ---- the head's part -------------------------------------------------------------------------------------------------


def _fitted(plan: TaskPlan, train: Features, valid: Features) -> tuple[TaskReport, str]:
    """Fits the head of the model for each strength of the prior and keeps the best; the report on validation, and a rule."""
    classes, kind = bool(plan.data.labels), plan.body.head.kind
    logistic = plan.options.classifier == "logistic" or (
        plan.options.classifier is None and classes and kind != "choice"
    )
    fit = _logistic if logistic else _linear
    real = train.values[train.real]  # [rows, D]
    mean, std = real.mean(0), real.std(0, correction=0).clamp_min(1e-6)
    if not plan.body.head.bias:  # no bias, so nothing that a mean could be put into
        mean = torch.zeros_like(mean)
    scaled = replace(train, values=(train.values - mean) / std)
    sign = 1.0 if higher_is_better(plan.metric) else -1.0
    tried: list[tuple[float, float, Tensor, Tensor]] = []
    for strength in STRENGTHS:
        weight, bias = fit(plan, scaled, strength)
        weight = weight / std
        bias = bias - weight @ mean
        _put(plan, weight, bias)
        tried.append((sign * _report(plan, valid).metrics[plan.metric], strength, weight, bias))
    best = max(tried, key=lambda one: one[0])
    _put(plan, best[2], best[3])
    name = "logistic regression" if logistic else "a linear head on the task's loss"
    dimensions = human_count(train.values.shape[-1])
    return _report(plan, valid), f"{name} on {dimensions} features, C = {best[1]:g} by {plan.metric} on validation"


def _put(plan: TaskPlan, weight: Tensor, bias: Tensor) -> None:
    head = cast(TaskModel, plan.body.model).task_head
    assert head is not None
    with torch.no_grad():
        head.score.weight.data = weight.float().to(plan.device)
        if head.score.bias is not None:
            head.score.bias.data = bias.float().to(plan.device)


@torch.no_grad()
def _report(plan: TaskPlan, features: Features) -> TaskReport:
    """Of the validation examples, from their features."""
    head = cast(TaskModel, plan.body.model).task_head
    assert head is not None
    weight, bias = head.score.weight.cpu(), head.score.bias
    scores = nn.functional.linear(features.values, weight, None if bias is None else bias.cpu())  # [items, G, C]
    examples, each = plan.data.valid, []
    place = 0
    for one in plan.valid:
        n = 1 if one.words is None else len(one.words)
        own = scores[place : place + n, 0] if one.words is not None else scores[place]
        each.append(
            own[: len(one.rows), 0] if plan.body.head.kind == "choice" else own if one.words is not None else own[0]
        )
        place += n
    classifier = Classifier(plan.body.model, plan.body.tokenizer, plan.body.task)
    return evaluate_task(plan.body.task, examples, classifier.answers(examples, plan.valid, each))


def _logistic(plan: TaskPlan, features: Features, strength: float) -> tuple[Tensor, Tensor]:
    """scikit-learn's, as scores of every class: [C, D] and [C]."""
    from sklearn.linear_model import LogisticRegression

    labelled = features.labels != IGNORED
    values, labels = features.values[labelled, 0].numpy(), features.labels[labelled].numpy()
    weights = plan.objective.class_weights
    by_class = None if weights is None else {index: float(weights[index]) for index in np.unique(labels).tolist()}
    model = LogisticRegression(C=strength, max_iter=1000, fit_intercept=plan.body.head.bias, class_weight=by_class)
    model.fit(values, labels)
    found, classes = torch.from_numpy(model.coef_), torch.from_numpy(model.classes_)
    intercept = torch.from_numpy(np.broadcast_to(model.intercept_, len(found)).copy())
    if len(found) == 1:  # of two classes only the odds are fitted: half of them for one, half against the other
        found, intercept = torch.cat([-found, found]) / 2, torch.cat([-intercept, intercept]) / 2
    weight = torch.zeros(len(plan.data.labels), values.shape[1])
    bias = torch.full((len(plan.data.labels),), -1e4)  # a class without an example is never answered
    weight[classes], bias[classes] = found.float(), intercept.float()
    return weight, bias


def _linear(plan: TaskPlan, features: Features, strength: float) -> tuple[Tensor, Tensor]:
    """The task's own loss, and a normal prior of variance ``strength`` on the weights, by L-BFGS: [C, D] and [C]."""
    head = plan.body.head
    weight = torch.zeros(head.n_labels, features.values.shape[-1], requires_grad=True)
    bias = torch.zeros(head.n_labels, requires_grad=head.bias)
    objective = TaskLoss(head, class_weights=plan.objective.class_weights, label_smoothing=plan.options.label_smoothing)
    parts = [_part(features, count, head.kind) for count in features.counts.unique().tolist()]
    optimizer = torch.optim.LBFGS([weight, *([bias] if head.bias else [])], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = weight.square().sum() / (2 * strength)
        for own, batch in parts:
            scores = nn.functional.linear(own, weight, bias)  # [items, count, C]
            scores = scores[..., 0] if head.kind == "choice" else scores if head.kind == "tokens" else scores[:, 0]
            total = total + objective.task_loss(scores, batch)
        total.backward()
        return total

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def _part(features: Features, count: int, kind: str) -> tuple[Tensor, Batch]:
    """The values of all items that have ``count`` choices, [items, count, D], and the batch that their loss asks for."""
    own = features.counts == count
    values, labels = features.values[own, :count], features.labels[own]
    rows = torch.zeros(len(labels) * count, 1, dtype=torch.int64)
    return values, Batch(rows, rows, rows.float(), labels=labels[:, None] if kind == "tokens" else labels, group=count)
