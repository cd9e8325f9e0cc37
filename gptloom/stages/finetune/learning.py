"""How a fine-tuning learns: rates, weights of losses and classes, and how many steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved
from gptloom.data.task_batches import TaskBatches
from gptloom.data.task_inputs import IGNORED
from gptloom.observe.terminal import human_count
from gptloom.stages.derive import Steps
from gptloom.stages.finetune.body import Body, parameters_of
from gptloom.stages.finetune.data import TaskData
from gptloom.train.optimizers import OptimizerSettings
from gptloom.train.run import LoopSettings
from gptloom.train.schedules import Schedule

GPT1_LR, GPT1_SIZE = 6.25e-5, 116.5e6  # Radford et al. 2018, section 4.1
HIGHEST_LR = {"full": 1e-3, "last": 2e-3, "lora": 5e-3}
HEAD_LR = 1e-3
LM_WEIGHT = 0.5  # GPT-1, section 4.1
EPOCHS = 3.0
HEAD_EPOCHS = 30.0
METHOD_LR = {"full": 1.0, "last": 2.0, "lora": 5.0}  # over that of full fine-tuning: less moves, further


def choose_learning(resolved: Resolved[FinetuneOptions], body: Body) -> Resolved[FinetuneOptions]:
    """Learning rate, the weight of the next-word loss and a budget, where they were not given."""
    options = resolved.options
    head_only = options.method == "feature" and not options.train
    if options.lr is None:
        size = parameters_of(body.model)
        if head_only:
            resolved = resolved.derive("lr", HEAD_LR, "the head alone")
        else:
            method = "full" if options.train else options.method
            # Smaller models take larger steps; GPT-1's own rate at its own size.
            lr = min(HIGHEST_LR[method], METHOD_LR[method] * GPT1_LR * sqrt(GPT1_SIZE / size))
            rule = f"{METHOD_LR[method]:g} times GPT-1's {GPT1_LR:g} for its 117M, by the root of {human_count(size)}"
            resolved = resolved.derive("lr", float(f"{lr:.2g}"), rule)
    if options.lm_weight is None:
        full = options.method == "full" and not options.train and body.next_words and not options.fresh
        why = "GPT-1's, for full fine-tuning of a decoder" if full else "none beside the task"
        resolved = resolved.derive("lm_weight", LM_WEIGHT if full else 0.0, why)
    elif options.lm_weight and not body.next_words:
        what = f"--lm-weight {options.lm_weight:g}: the body sees the whole text, and has no next word to predict"
        raise UserError(Problem(what, mend="leave it out"))
    budgets = (options.max_steps, options.max_epochs, options.max_minutes, options.max_train_tokens)
    if all(budget is None for budget in budgets):
        resolved = resolved.derive("max_epochs", HEAD_EPOCHS if head_only else EPOCHS, "usual for this method")
    return resolved


def count_steps(options: FinetuneOptions, batches: TaskBatches, seconds_per_step: float) -> Steps:
    """The first budget that is reached."""
    budgets = []
    if options.max_steps is not None:
        budgets.append(Steps(options.max_steps, "--max-steps"))
    if options.max_epochs is not None:
        steps = round(options.max_epochs * batches.steps_per_epoch)
        budgets.append(Steps(steps, f"{options.max_epochs:g} passes over {len(batches.encoded):,} examples"))
    if options.max_train_tokens is not None:
        steps = options.max_train_tokens // batches.tokens_per_step
        budgets.append(Steps(steps, f"{human_count(options.max_train_tokens)} tokens"))
    if options.max_minutes is not None:
        rule = f"{options.max_minutes:g} minutes at {seconds_per_step:.3g} s a step, measured here"
        budgets.append(Steps(int(options.max_minutes * 60 / seconds_per_step), rule))
    first = min(budgets)
    return Steps(max(1, first.steps), first.rule)


def choose_pace(
    resolved: Resolved[FinetuneOptions], steps: Steps, batches: TaskBatches, seconds_per_step: float
) -> Resolved[FinetuneOptions]:
    """How often the run speaks, evaluates and saves."""
    options = resolved.options
    if options.max_steps is None:
        resolved = resolved.derive("max_steps", steps.steps, steps.rule)
    eval_every = options.eval_every or max(1, min(batches.steps_per_epoch, -(-steps.steps // 3)))
    if options.eval_every is None:
        rule = "once an epoch" if eval_every == batches.steps_per_epoch else "three evaluations"
        resolved = resolved.derive("eval_every", eval_every, rule)
    if options.save_every is None:
        resolved = resolved.derive("save_every", eval_every, "a checkpoint at each evaluation")
    if options.log_every is None:
        every = max(1, round(min(steps.steps / 50, 2 / seconds_per_step)))
        resolved = resolved.derive("log_every", every, "about every two seconds")
    return resolved


def loop_settings(options: FinetuneOptions, steps: int, begin: int = 0) -> LoopSettings:
    """What the loop must know; ``begin``: the step at which the schedule begins."""
    assert options.log_every is not None
    warmup = min(round(options.warmup * (steps - begin)), steps - begin - 1)
    schedule = Schedule(steps, warmup, "linear", 0.0, begin=begin)
    return LoopSettings(
        steps=steps,
        schedule=schedule,
        micro_batch=options.micro_batch,
        clip=options.clip,
        seed=options.seed,
        log_every=options.log_every,
    )


def optimizer_settings(options: FinetuneOptions) -> OptimizerSettings:
    """AdamW's part of the options."""
    assert options.lr is not None
    return OptimizerSettings(
        "adamw",
        lr=options.lr,
        beta1=options.beta1,
        beta2=options.beta2,
        eps=options.epsilon,
        weight_decay=options.weight_decay,
    )


def class_weights(given: Sequence[str], data: TaskData, task: str) -> Tensor | None:
    """[C]: ``balanced`` is n / (C n_c), as scikit-learn's; ``label=weight`` names some, others count 1.

    Raises:
        UserError: a task without classes, an unknown label, or what is no number above 0.
    """
    if not given:
        return None
    if not data.labels or task == "choice":
        raise UserError(Problem(f"--class-weights: {task} has no classes here", mend="leave it out"))
    if list(given) == ["balanced"]:
        labels = [label for example in data.train for label in _each(example.label)]
        counts = Counter(label for label in labels if label != IGNORED)
        total, classes = sum(counts.values()), len(data.labels)
        return torch.tensor([total / (classes * max(1, counts[index])) for index in range(classes)])
    if "balanced" in given:
        raise UserError(
            Problem("balanced stands alone: it weighs every class", "--class-weights", "either it or LABEL=WEIGHT")
        )
    weights, problems = dict.fromkeys(data.labels, 1.0), []
    for entry in (part for item in given for part in item.split(",")):
        label, equals, text = entry.rpartition("=")
        try:
            weight = float(text) if equals else 0.0
        except ValueError:
            weight = 0.0
        if label not in weights:
            mend = "balanced, or LABEL=WEIGHT" if not equals else nearest(label, data.labels)
            problems.append(Problem(f"{entry!r}: there is no such label", "--class-weights", mend))
        elif not weight > 0:
            problems.append(Problem(f"{entry!r}: a weight is a number above 0", "--class-weights"))
        weights[label] = weight
    if problems:
        raise UserError(*problems)
    return torch.tensor([weights[label] for label in data.labels])


def _each(label: object) -> Sequence[object]:
    return label if isinstance(label, tuple) else (label,)
