"""What loop, optimizer and schedule must know, out of the options of a training."""

from __future__ import annotations

from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.data.step_sizes import StepSizes
from gptloom.model.counting import training_flops_per_token
from gptloom.train.optimizers import OptimizerSettings
from gptloom.train.run import LoopSettings
from gptloom.train.schedules import Schedule


def loop_settings(
    options: PretrainOptions, config: ModelConfig, steps: int, peak_flops: float, begin: int = 0
) -> LoopSettings:
    """What the loop must know; ``begin``: the step at which the schedule begins."""
    assert options.log_every is not None and not isinstance(options.micro_batch, str)
    return LoopSettings(
        steps=steps,
        schedule=schedule_of(options, steps, begin),
        micro_batch=options.micro_batch,
        clip=options.clip,
        seed=options.seed,
        log_every=options.log_every,
        flops_per_token=training_flops_per_token(config, options.row_tokens(config.context), options.scored_share),
        peak_flops=peak_flops,
    )


def schedule_of(options: PretrainOptions, steps: int, begin: int = 0) -> Schedule:
    """The schedule over the steps from ``begin`` to ``steps``; along a batch ramp it moves by the text trained on."""
    assert options.schedule is not None and options.final_lr is not None
    warmup = min(warmup_steps(options, begin), (steps - begin) // 2)
    decay = (
        min(round(options.decay * (steps - begin)), steps - begin - warmup) if options.schedule == "trapezoid" else 0
    )
    clock = step_sizes(options).before if options.batch_ramp else float
    return Schedule(steps, warmup, options.schedule, options.final_lr, decay, begin, decay_end(options), clock)


def step_sizes(options: PretrainOptions) -> StepSizes:
    """The rows of each step."""
    assert options.batch_tokens is not None and options.context is not None
    length = options.row_tokens(options.context)
    if not options.batch_ramp:
        return StepSizes(options.batch_tokens // length)
    first, over = options.batch_ramp
    return StepSizes(options.batch_tokens // length, first // length, -(-over // length))


def warmup_steps(options: PretrainOptions, begin: int = 0) -> int:
    """The steps from ``begin`` on in which the learning rate rises."""
    if options.warmup_tokens is None:
        assert options.warmup is not None
        return options.warmup
    return _steps_for(options, options.warmup_tokens, begin)


def decay_end(options: PretrainOptions) -> int | None:
    """The step at which the learning rate has come down, where that is not the end of the run."""
    return None if options.decay_tokens is None else _steps_for(options, options.decay_tokens)


def _steps_for(options: PretrainOptions, tokens: int, begin: int = 0) -> int:
    """The fewest steps from ``begin`` on that train on ``tokens``."""
    assert options.context is not None
    sizes = step_sizes(options)
    return sizes.steps_for(sizes.before(begin) + tokens / options.row_tokens(options.context)) - begin


def optimizer_settings(options: PretrainOptions) -> OptimizerSettings:
    """The optimizer's part of the options."""
    assert options.optimizer is not None and options.lr is not None
    return OptimizerSettings(
        kind=options.optimizer,
        lr=options.lr,
        embedding_lr=options.embedding_lr,
        beta1=options.beta1,
        beta2=options.beta2,
        eps=options.epsilon,
        weight_decay=options.weight_decay,
    )
