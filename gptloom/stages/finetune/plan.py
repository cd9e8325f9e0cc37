"""What a fine-tuning for a task is made of: body, rows, loss and batches, with every option that needs no measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved
from gptloom.data.task_batches import TaskBatches
from gptloom.data.task_inputs import Encoded, cut_sentence
from gptloom.evaluation.task_metrics import default_metric, metric_names
from gptloom.interop.foreign import ForeignModel
from gptloom.model.layouts import layout_for
from gptloom.model.transformer import Transformer
from gptloom.observe.glossary import higher_is_better
from gptloom.observe.terminal import say
from gptloom.stages.finetune.body import TaskBody, adopt
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.finetune.final import leave
from gptloom.stages.finetune.learning import choose_learning, class_weights
from gptloom.stages.finetune.validated import validated
from gptloom.stages.tuning.part import choose_part
from gptloom.stages.tuning.plan import Plan, Validated
from gptloom.train.form import About
from gptloom.train.memory import forget_peak
from gptloom.train.precision import choose_device, choose_dtype, use_threads
from gptloom.train.run import Run
from gptloom.train.task_objective import TaskLoss


@dataclass(frozen=True)
class TaskPlan(Plan):
    """A fine-tuning for a task."""

    command = "finetune"

    resolved: Resolved[FinetuneOptions]
    body: TaskBody
    objective: TaskLoss
    batches: TaskBatches
    data: TaskData
    train: list[Encoded]
    valid: list[Encoded]

    @property
    def rate_of(self) -> Callable[[str], float] | None:
        """Layer-wise decay (ELMo's and ULMFiT's idea, as ELECTRA has it): a layer learns ``decay`` times the next one."""
        decay, top = self.options.layer_decay, self.body.model.config.n_layer + 1
        return None if decay == 1 else lambda name: decay ** (top - self.body.depth_of(name))

    @property
    def metric(self) -> str:
        return self.body.task.metric

    @property
    def higher_is_better(self) -> bool:
        return higher_is_better(self.metric)

    @property
    def data_hash(self) -> str:
        return self.data.hash

    @property
    def sizes(self) -> str:
        test = f", {len(self.data.test):,} test" if self.data.test else ""
        return f"{len(self.data.train):,} training, {len(self.data.valid):,} validation{test} examples"

    def validated(self) -> Validated:
        return validated(self)

    def summary(self) -> dict[str, Any]:
        return {
            "model": f"{self.options.base} for {self.options.task}",
            "examples": len(self.data.train),
            "context": self.body.task.max_length,
        }

    def described(self, about: About) -> About:
        return replace(about, task=self.body.task)

    def begin(self, run: Run) -> None:
        """Nothing is to be known of a model without a head."""

    def leave(self, run: Run, about: About, cost: Mapping[str, Any]) -> None:
        leave(self, run, about, cost)


def plan_run(resolved: Resolved[FinetuneOptions], data: TaskData) -> TaskPlan:
    """Opens the body and settles what follows from it; nothing is written. UserError for all that cannot be."""
    options = resolved.options
    device = choose_device(options.device)
    held = forget_peak(device)
    use_threads(options.threads)
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
    lora = choose_part(body, options, words=bool(options.lm_weight))
    batches = TaskBatches(
        _learned(body, train),
        options.batch_size,
        options.seed,
        body.tokenizer.pad_id or 0,
        causal=body.next_words,
        next_word=bool(options.lm_weight),
    )
    return TaskPlan(resolved, body, lora, objective, batches, device, dtype, held, data, train, valid)


def encoded(body: TaskBody, examples: Sequence[Any]) -> list[Encoded]:
    """Examples as the model reads them, scores on the scale it learns."""
    task = body.task
    made = body.inputs.encode(examples)
    if task.is_score:
        return [replace(one, label=(one.label - task.score_mean) / task.score_std) for one in made]
    return made


def _learned(body: TaskBody, made: list[Encoded]) -> list[Encoded]:
    """The training examples, without spans whose answer was cut away."""
    if body.task.task != "span":
        return made
    kept = [one for one in made if one.label[0] >= 0]
    if len(kept) < len(made):
        say(f"{len(made) - len(kept):,} of {len(made):,} training rows are left out: their answer was cut away")
    if not kept:
        raise UserError(Problem("no training row still has its answer", "--max-length", "a larger one"))
    return kept


def _metric(options: FinetuneOptions, body: TaskBody, data: TaskData) -> str:
    """By which the best step is chosen."""
    names = metric_names(body.task)
    if options.metric is not None and options.metric not in names:
        raise UserError(Problem(f"--metric {options.metric}: not one of this task's", mend=", ".join(names)))
    if options.metric == "roc_auc" and len({example.label for example in data.valid}) < len(body.task.labels):
        what = "--metric roc_auc: the validation rows do not hold every class"
        raise UserError(Problem(what, mend="other --valid rows, or --metric accuracy"))
    return options.metric or default_metric(body.task)
