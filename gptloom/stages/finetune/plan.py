"""What a fine-tuning is made of: body, rows, loss and batches, with every option settled that needs no measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved
from gptloom.data.task_batches import TaskBatches
from gptloom.data.task_inputs import Encoded, cut_sentence
from gptloom.evaluation.task_metrics import default_metric, metric_names
from gptloom.interop.bodies import open_body
from gptloom.interop.foreign import ForeignModel
from gptloom.model.layouts import layout_for
from gptloom.model.lora import LoraConfig
from gptloom.model.transformer import Transformer
from gptloom.observe.terminal import say
from gptloom.stages.finetune.body import Body, adopt
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.finetune.forms import AdapterFolder, ForeignBody, LearnedOnly
from gptloom.stages.finetune.learning import (
    choose_learning,
    class_weights,
)
from gptloom.stages.finetune.part import choose_part
from gptloom.train.form import Form, WholeModel
from gptloom.train.memory import forget_peak
from gptloom.train.precision import choose_device, choose_dtype
from gptloom.train.task_objective import TaskLoss


@dataclass(frozen=True)
class Plan:
    """Everything a fine-tuning is made of, once all its options have a value but those that a measurement decides."""

    resolved: Resolved[FinetuneOptions]
    data: TaskData
    body: Body
    lora: LoraConfig | None
    objective: TaskLoss
    batches: TaskBatches
    train: list[Encoded]
    valid: list[Encoded]
    metric: str
    device: torch.device
    dtype: torch.dtype  # computed in; another library's body keeps fp32 weights and casts by itself
    held: int  # bytes that the program held before, which are not this training's

    @property
    def options(self) -> FinetuneOptions:
        return self.resolved.options

    @property
    def form(self) -> Form:
        """What is trained little of is stored alone, whatever trains more as a model folder."""
        model = self.body.model
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if self.lora is not None and isinstance(model, Transformer) and self.body.path is not None:
            return AdapterFolder(trained, model.config, self.lora, self.body.path)
        if self.lora is not None or self.options.method == "feature":
            return LearnedOnly(trained)
        if isinstance(model, ForeignModel):
            return ForeignBody(model, open_body)
        return WholeModel()


def plan_run(resolved: Resolved[FinetuneOptions], data: TaskData) -> Plan:
    """Opens the body and settles what follows from it; nothing is written. UserError for all that cannot be."""
    options = resolved.options
    device = choose_device(options.device)
    held = forget_peak(device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dtype, _ = choose_dtype(options.precision, device)
    body = adopt(options, data, dtype)
    if dtype == torch.float16 and isinstance(body.model, ForeignModel):
        what = f"--precision fp16: {options.base} is another library's model, whose gradients are not scaled"
        raise UserError(Problem(what, mend="--precision bf16 or fp32"))
    train, valid = encoded(body, data.train), encoded(body, data.valid)
    for kind, rows in (("training", train), ("validation", valid), ("test", body.inputs.encode(data.test))):
        if cut := [(row.where, row.cut) for row in rows if row.cut]:
            say(cut_sentence(body.task, f"{kind} ", cut, len(rows)))
    resolved = choose_learning(resolved, body)
    options = resolved.options
    weights = class_weights(options.class_weights, data, options.task)
    objective = TaskLoss(
        body.head,
        class_weights=weights,
        label_smoothing=options.label_smoothing,
        lm_weight=options.lm_weight or 0.0,
    )
    metric = _metric(options, body, data)
    body = replace(body, task=body.task.model_copy(update={"metric": metric}))
    if isinstance(body.model, Transformer):
        for sentence in layout_for(body.model.config).task_unfit(body.model.config):
            say(f"for gptloom alone: {sentence}")
    lora = choose_part(body, options)
    batches = TaskBatches(
        _learned(body, train),
        options.batch_size,
        options.seed,
        body.tokenizer.pad_id or 0,
        causal=body.next_words,
        next_word=bool(options.lm_weight),
    )
    return Plan(resolved, data, body, lora, objective, batches, train, valid, metric, device, dtype, held)


def encoded(body: Body, examples: Sequence[Any]) -> list[Encoded]:
    """Examples as the model reads them, scores on the scale it learns."""
    task = body.task
    made = body.inputs.encode(examples)
    if task.is_score:
        return [replace(one, label=(one.label - task.score_mean) / task.score_std) for one in made]
    return made


def _learned(body: Body, made: list[Encoded]) -> list[Encoded]:
    """The training examples, without spans whose answer was cut away."""
    if body.task.task != "span":
        return made
    kept = [one for one in made if one.label[0] >= 0]
    if len(kept) < len(made):
        say(f"{len(made) - len(kept):,} of {len(made):,} training rows are left out: their answer was cut away")
    if not kept:
        raise UserError(Problem("no training row still has its answer", "--max-length", "a larger one"))
    return kept


def _metric(options: FinetuneOptions, body: Body, data: TaskData) -> str:
    """By which the best step is chosen."""
    names = metric_names(body.task)
    if options.metric is not None and options.metric not in names:
        raise UserError(Problem(f"--metric {options.metric}: not one of this task's", mend=", ".join(names)))
    if options.metric == "roc_auc" and len({example.label for example in data.valid}) < len(body.task.labels):
        what = "--metric roc_auc: the validation rows do not hold every class"
        raise UserError(Problem(what, mend="other --valid rows, or --metric accuracy"))
    return options.metric or default_metric(body.task)
