"""What a pretraining will take, measured or guessed: its length, its pace and its cost, settled and explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.problems import flag
from gptloom.config.resolve import Resolved, write_config
from gptloom.config.run_folder import CONFIG
from gptloom.data.step_sizes import StepSizes
from gptloom.model.counting import count_parameters, training_flops_per_token
from gptloom.observe.numbers import human_bytes, human_count, human_time
from gptloom.observe.terminal import say
from gptloom.stages.choices import choose_pace, settle_micro_batch
from gptloom.stages.derive import Steps, count_steps, efficiency
from gptloom.stages.goal import first_losses
from gptloom.stages.levers import find_levers
from gptloom.stages.machine import Machine, process_memory
from gptloom.stages.preflight import Measured, check_disk, check_first_loss, checkpoint_bytes, measure, want_compile
from gptloom.stages.settings import optimizer_settings, step_sizes
from gptloom.stages.task import Task, band_of
from gptloom.train.out_of_memory import largest_micro_batch, levers_named
from gptloom.train.world import World

if TYPE_CHECKING:
    from gptloom.stages.pretrain import Plan

DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class Cost:
    """What a run will take on this machine."""

    parameters: int
    tokens: int
    passes: float
    memory: int  # bytes
    disk: int  # bytes
    seconds: float

    def sentence(self) -> str:
        return (
            f"{human_count(self.parameters)} parameters · {human_count(self.tokens)} tokens ({self.passes:.1f} passes) · "
            f"{human_bytes(self.memory)} memory · {human_bytes(self.disk)} disk · about {human_time(self.seconds)}"
        )


def seconds_per_token(options: PretrainOptions, config: ModelConfig, machine: Machine) -> float:
    """A guess, before anything is measured."""
    flops = training_flops_per_token(config, options.row_tokens(config.context), options.scored_share)
    return flops / (machine.peak * efficiency(config))


def expected_tokens(options: PretrainOptions, config: ModelConfig, n_tokens: int, machine: Machine) -> float:
    """About how many tokens the run will see."""
    seconds = seconds_per_token(options, config, machine)
    return _count_steps(options, StepSizes(1), 1, n_tokens, seconds).steps


def _count_steps(
    options: PretrainOptions, sizes: StepSizes, row_tokens: int, tokens_per_epoch: int, seconds_per_step: float
) -> Steps:
    return count_steps(
        sizes,
        row_tokens,
        tokens_per_epoch,
        seconds_per_step,
        max_steps=options.max_steps,
        max_epochs=options.max_epochs,
        max_minutes=options.max_minutes,
        max_train_tokens=options.max_train_tokens,
    )


def measure_steps(task: Task, machine: Machine) -> tuple[Task, Measured, str]:
    """Times the step of this training, and settles whether it is compiled and why.

    A process alone halves the rows of a forward pass, where they were not given, until its memory holds them.
    """
    options, config = task.resolved.options, task.config
    assert isinstance(options.micro_batch, int)
    expected = expected_tokens(options, config, task.batches.tokens_per_epoch, machine)
    seconds = expected * seconds_per_token(options, config, machine)
    if options.max_steps is not None:
        seconds = min(seconds, options.max_steps * seconds * task.batches.tokens_per_step / expected)
    compile, why = want_compile(options.compile, machine.device, seconds)
    found: list[Measured] = []

    def try_rows(rows: int) -> None:
        found.append(
            measure(
                task.new_model,
                optimizer_settings(options),
                task.objective,
                task.batches.batch(step_sizes(options).full_from),
                micro_batch=rows,
                parallel=task.parallel,
                compile=compile,
                dtype=machine.dtype,
            )
        )

    rows = options.micro_batch
    with levers_named(lambda: find_levers(task.resolved.options, config, machine)):
        if task.resolved.given("micro_batch") or machine.world.size > 1:
            try_rows(rows)
        else:
            rows = largest_micro_batch(try_rows, rows)
    if rows < options.micro_batch:
        resolved = settle_micro_batch(task.resolved, rows, f"the memory does not hold {2 * rows} at a time")
        task = replace(task, resolved=resolved)
    return task, found[-1], found[-1].note or why


def decide(
    task: Task, machine: Machine, measured: Measured, compile_rule: str, folder: Path, confirm: Callable[[str], bool]
) -> int:
    """What the measured step decides; writes the options as they now are, returns the steps."""
    resolved, options = task.resolved, task.resolved.options
    if measured.note:
        say(measured.note)
    if task.base is None:
        check_first_loss(measured.first_loss, *first_losses(task.resolved.options, task.config))
    if options.compile is None:
        resolved = resolved.derive("compile", measured.compiled, compile_rule)
    elif options.compile and not measured.compiled:
        without = options.model_copy(update={"compile": False})
        resolved = Resolved(without, resolved.sources, {**resolved.rules, "compile": compile_rule})
    resolved, steps, cost = settle(replace(task, resolved=resolved), machine, measured.seconds_per_step, folder)
    if cost.seconds > DAY and not confirm("Start it?"):
        raise UserError(Problem("not started", mend="a smaller --model, or --max-minutes"))
    write_config(folder / CONFIG, resolved, "pretrain", band_of(resolved.options))
    return steps


def settle(
    plan: Plan | Task, machine: Machine, seconds_per_step: float, folder: Path
) -> tuple[Resolved[PretrainOptions], int, Cost]:
    """Length, pace and cost of the run, explained. UserError when they do not fit the options or the disk.

    ``seconds_per_step``: of one with all its rows.
    """
    options, config, batches = plan.resolved.options, plan.config, plan.batches
    sizes = step_sizes(options)
    steps = _count_steps(options, sizes, batches.context, batches.tokens_per_epoch, seconds_per_step)
    rows = sizes.before(steps.steps)
    seconds = seconds_per_step * rows / sizes.full
    resolved = choose_pace(plan.resolved, steps, seconds / steps.steps, plan.shards, config, plan.tokenizer)
    cost = Cost(
        count_parameters(config).total,
        rows * batches.context,
        batches.epochs(steps.steps),
        process_memory(options, config, machine),
        checkpoint_bytes(config) * (options.keep + 2),  # beside the last ones: the best, the one before the decay
        seconds,
    )
    check_disk(folder, cost.disk)
    _explain(resolved, config, steps, cost, machine.world)
    return resolved, steps.steps, cost


def _explain(resolved: Resolved[PretrainOptions], config: ModelConfig, steps: Steps, cost: Cost, world: World) -> None:
    """Prints what was chosen and why."""
    for name, setting in resolved.settings().items():
        if setting.source == "derived" and name != "sample":
            say(f"  {flag(name)} {setting.value}: {setting.rule}")
    each = f" (memory: of each of {world.size} processes)" if world.size > 1 else ""
    say(f"{steps.steps:,} steps ({steps.rule}); {cost.sentence()}{each}")
    if cost.seconds > DAY:
        hour = count_parameters(config).total * 3600 / cost.seconds
        say(
            f"this will take {human_time(cost.seconds)}; a model of about {human_count(hour)} parameters would take an hour"
        )
