"""What loop, optimizer and schedule must know, out of the options of a training."""

from __future__ import annotations

from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
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
        flops_per_token=float(training_flops_per_token(config)),
        peak_flops=peak_flops,
    )


def schedule_of(options: PretrainOptions, steps: int, begin: int = 0) -> Schedule:
    """The schedule over the steps from ``begin`` to ``steps``."""
    assert options.schedule is not None and options.warmup is not None and options.final_lr is not None
    warmup = min(options.warmup, (steps - begin) // 2)
    decay = (
        min(round(options.decay * (steps - begin)), steps - begin - warmup) if options.schedule == "trapezoid" else 0
    )
    return Schedule(steps, warmup, options.schedule, options.final_lr, decay, begin)


def optimizer_settings(options: PretrainOptions) -> OptimizerSettings:
    """The optimizer's part of the options."""
    assert options.optimizer is not None and options.lr is not None
    return OptimizerSettings(
        kind=options.optimizer,
        lr=options.lr,
        embedding_lr=options.embedding_lr,
        beta1=options.beta1,
        beta2=options.beta2,
        weight_decay=options.weight_decay,
    )
