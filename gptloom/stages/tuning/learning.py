"""How a tuning learns: rates by method and size, how many steps, and how often it speaks."""

from __future__ import annotations

from math import sqrt
from typing import Any

from gptloom.config.resolve import Resolved
from gptloom.observe.numbers import human_count
from gptloom.stages.derive import Steps
from gptloom.stages.tuning.batches import ExampleBatches
from gptloom.train.optimizers import OptimizerSettings
from gptloom.train.run import LoopSettings
from gptloom.train.schedules import Schedule

GPT1_LR, GPT1_SIZE = 6.25e-5, 116.5e6  # Radford et al. 2018, section 4.1
HIGHEST_LR = {"full": 1e-3, "last": 2e-3, "lora": 5e-3}
METHOD_LR = {"full": 1.0, "last": 2.0, "lora": 5.0}  # over that of full fine-tuning: less moves, further
BUDGETS = ("max_steps", "max_epochs", "max_minutes", "max_train_tokens")


def choose_rate(resolved: Resolved[Any], size: int) -> Resolved[Any]:
    """The learning rate of a model of ``size`` parameters, where none was given: smaller models take larger steps."""
    options = resolved.options
    if options.lr is not None:
        return resolved
    method = "full" if options.train else options.method
    lr = min(HIGHEST_LR[method], METHOD_LR[method] * GPT1_LR * sqrt(GPT1_SIZE / size))
    rule = f"{METHOD_LR[method]:g} times GPT-1's {GPT1_LR:g} for its 117M, by the root of {human_count(size)}"
    return resolved.derive("lr", float(f"{lr:.2g}"), rule)


def choose_epochs(resolved: Resolved[Any], epochs: float, why: str = "usual for this method") -> Resolved[Any]:
    """A number of passes, where no budget was given."""
    if any(getattr(resolved.options, name) is not None for name in BUDGETS):
        return resolved
    return resolved.derive("max_epochs", epochs, why)


def count_steps(options: Any, batches: ExampleBatches, seconds_per_step: float) -> Steps:
    """The first budget that is reached."""
    budgets = []
    if options.max_steps is not None:
        budgets.append(Steps(options.max_steps, "--max-steps"))
    if options.max_epochs is not None:
        steps = round(options.max_epochs * batches.steps_per_epoch)
        budgets.append(Steps(steps, f"{options.max_epochs:g} passes over {batches.n_examples:,} examples"))
    if options.max_train_tokens is not None:
        steps = options.max_train_tokens // batches.tokens_per_step
        budgets.append(Steps(steps, f"{human_count(options.max_train_tokens)} tokens"))
    if options.max_minutes is not None:
        rule = f"{options.max_minutes:g} minutes at {seconds_per_step:.3g} s a step, measured here"
        budgets.append(Steps(int(options.max_minutes * 60 / seconds_per_step), rule))
    first = min(budgets)
    return Steps(max(1, first.steps), first.rule)


def choose_pace(
    resolved: Resolved[Any], steps: Steps, batches: ExampleBatches, seconds_per_step: float
) -> Resolved[Any]:
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
        resolved = resolved.derive("log_every", every, "every two seconds, or fifty lines")
    return resolved


def loop_settings(options: Any, steps: int, begin: int = 0) -> LoopSettings:
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


def optimizer_settings(options: Any) -> OptimizerSettings:
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
