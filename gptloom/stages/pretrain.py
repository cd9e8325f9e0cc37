"""Pretraining: from a text file to a GPT, next word by next word. Read it from top to bottom."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions, ResumeOptions
from gptloom.config.problems import flag
from gptloom.config.resolve import Resolved, resolve, write_config
from gptloom.data.built import TrainingShards
from gptloom.data.ordered import OrderedBatches
from gptloom.data.step_sizes import StepSizes
from gptloom.model.counting import count_parameters, training_flops_per_token
from gptloom.model.store import check_vocabulary
from gptloom.observe.terminal import human_count, human_time, say
from gptloom.stages.architecture import Base, choose_config, open_base, settle_objective
from gptloom.stages.choices import choose_optimization, choose_pace, settle_micro_batch
from gptloom.stages.claim import Claim
from gptloom.stages.conflicts import check_options, recipe_named
from gptloom.stages.derive import Steps, count_steps, efficiency
from gptloom.stages.foresee import foresee_shards
from gptloom.stages.goal import check_text, check_tokenizer_for, first_losses, settle_pairs, training_batches
from gptloom.stages.joining import asked_world, asks_for_processes, join_training, launched
from gptloom.stages.levers import find_levers
from gptloom.stages.machine import Machine, foresee_machine, process_memory, use_machine
from gptloom.stages.on_disk import CONFIG
from gptloom.stages.preflight import (
    DAY,
    Cost,
    Measured,
    check_disk,
    check_first_loss,
    checkpoint_bytes,
    measure,
    want_compile,
)
from gptloom.stages.settings import loop_settings, optimizer_settings, step_sizes
from gptloom.stages.task import Task, band_of, open_task, stored_options
from gptloom.stages.text import DATA, TOKENIZER, choose_tokenizer, open_shards_of, read_text
from gptloom.stages.trained import TrainedRun
from gptloom.stages.training import start
from gptloom.tokenizer import Tokenizer
from gptloom.train.agreement import check_shared_folder
from gptloom.train.out_of_memory import largest_micro_batch, levers_named
from gptloom.train.run import EVENTS, STATE, Hook, LoopSettings, Run, RunState, read_state
from gptloom.train.world import World

PREPARING = "preparing"  # the reason in a run's state until its training begins


@dataclass(frozen=True)
class Plan:
    """What a training will be, by its options, its text and the machine; in a dry run, the shards are foreseen."""

    resolved: Resolved[PretrainOptions]
    config: ModelConfig
    tokenizer: Tokenizer
    shards: TrainingShards
    base: Base | None
    data_hash: str | None

    @property
    def batches(self) -> OrderedBatches:
        return training_batches(self.resolved.options, self.config.context, self.shards, self.tokenizer, 0)

    @property
    def beside_the_folder(self) -> dict[str, Any]:
        """What the run folder does not hold, as JSON."""
        base = None if self.base is None else str(self.base.folder.resolve())
        return {
            "config": self.config.model_dump(mode="json"),
            "base": base,
            "parents": [] if self.base is None else [{"path": base, "hash": self.base.hash}],
            "data_hash": self.data_hash,
        }


@dataclass(frozen=True)
class DryRun:
    """What ``--dry-run`` found: the options as they would be, and the cost. Token counts and times are estimates."""

    resolved: Resolved[PretrainOptions]
    config: ModelConfig
    cost: Cost


def pretrain(
    resolved: Resolved[PretrainOptions],
    callbacks: Sequence[Hook] = (),
    confirm: Callable[[str], bool] = lambda question: True,
) -> TrainedRun | DryRun:
    """Trains a GPT on text: a new one, or a base model further.

    Raises UserError before anything is written when the options, the text or the machine do not allow it, and
    GuardStop when the training diverges. ``callbacks`` are hooks, called after the run's own. ``confirm`` is asked
    before a run that would take more than a day. Under ``torchrun`` every process calls this; with ``processes`` or
    ``nodes`` they are started here.
    """
    options = resolved.options
    out = options.out or default_folder(options)
    with recipe_named(resolved):
        if asks_for_processes(options) and not options.dry_run:
            check_options(resolved, asked_world(options))
            return launched("pretrain", resolved, options, out, callbacks)
        with join_training(options, resolved) as world:
            folder = Path(world.share(out))
            if options.dry_run:
                return dry_run(world, resolved, folder)
            if world.restarts and (folder / EVENTS).exists():
                from gptloom.stages.resume import go_on  # which itself begins with a pretraining's parts

                return go_on(world, resolve(ResumeOptions, {"run": str(folder)}), callbacks, lambda question: True)
            if world.restarts and (folder / STATE).exists() and read_state(folder).reason == PREPARING:
                resolved = replace(resolved, options=options.model_copy(update={"overwrite": True}))
            with Claim(folder, resolved.options.overwrite) as claim:
                return train_in(world, resolved, claim, callbacks, confirm)


def train_in(
    world: World,
    resolved: Resolved[PretrainOptions],
    claim: Claim,
    callbacks: Sequence[Hook],
    confirm: Callable[[str], bool],
) -> TrainedRun:
    """The training of every process of ``world``.

    The first one reads the text and writes tokenizer, shards and options into the run folder; then all open it.
    """
    world.first_does(lambda: check_options(resolved, world))
    machine = use_machine(resolved.options, world)
    found = world.first_does(lambda: _prepare(resolved, machine, claim.folder, claim).beside_the_folder)
    check_shared_folder(world, claim.folder)
    task = open_task(claim.folder, machine, found)
    task, measured, compile_rule = measure_steps(task, machine)
    steps = world.first_does(lambda: _decide(task, machine, measured, compile_rule, claim.folder, confirm))
    task = replace(task, resolved=stored_options(claim.folder))
    settings = loop_settings(task.resolved.options, task.config, steps, machine.peak)
    run = Run(claim.folder, settings, RunState(), task.parallel)
    run.lock = claim.lock
    claim.sure()
    start(run, task, task.new_model(), callbacks)
    return TrainedRun(claim.folder)


def dry_run(world: World, resolved: Resolved[PretrainOptions], folder: Path) -> DryRun:
    """Everything up to the first step, with nothing written and no other process started.

    The tokenizer is trained in memory; how many tokens it will make, and how long a step will take, is estimated.
    """
    options = resolved.options
    asked = world if world.size > 1 else asked_world(options)
    found: list[DryRun] = []

    def foresee() -> None:
        check_options(resolved, asked)
        machine = foresee_machine(options, asked)
        plan = _prepare(resolved, machine, folder)
        seconds = plan.batches.tokens_per_step * _seconds_per_token(options, plan.config, machine)
        settled, _, cost = _settle(plan, machine, seconds, folder)
        found.append(DryRun(settled, plan.config, cost))

    world.all_do(foresee)
    return found[0]


def _prepare(resolved: Resolved[PretrainOptions], machine: Machine, folder: Path, claim: Claim | None = None) -> Plan:
    """Text, tokenizer, shards, model and optimization. All that is made is kept in the folder of ``claim``, if any."""
    base = open_base(resolved)
    resolved = settle_objective(resolved, base)
    text = read_text(resolved.options)
    say(text.rule)
    resolved = settle_pairs(resolved, base.config if base else None, text)
    if claim is not None:
        claim.take()
        # Both are written again with all that is derived: a run that is broken off before can still be resumed.
        write_config(folder / CONFIG, resolved, "pretrain")
        Run(folder, LoopSettings(steps=0), RunState(reason=PREPARING)).write_state()
    # A dry run may look at the folder of a run that would be replaced: nothing of that is kept.
    kept = folder / TOKENIZER if claim is not None else folder / "none yet"
    tokenizer, resolved = choose_tokenizer(resolved, text, base.folder if base else None, kept)
    check_tokenizer_for(resolved.options, tokenizer)
    if claim is None:
        shards = foresee_shards(text, tokenizer)
    else:
        tokenizer.save(folder / TOKENIZER)
        shards = open_shards_of(text, tokenizer, folder / DATA, None)
    n_tokens = sum(int(tokens.n_tokens * weight) for tokens, weight in shards.train)
    config, resolved = choose_config(resolved, base, tokenizer.vocab_size, n_tokens, machine.peak)
    check_vocabulary(tokenizer, config, str(folder / TOKENIZER))
    check_text(resolved.options, config.context, shards)
    expected = _expected_tokens(resolved.options, config, n_tokens, machine)
    resolved = choose_optimization(resolved, config, expected, machine)
    if claim is not None:
        write_config(folder / CONFIG, resolved, "pretrain", band_of(resolved.options))
    return Plan(resolved, config, tokenizer, shards, base, text.corpus.hash if text.corpus is not None else None)


def default_folder(options: PretrainOptions) -> str:
    """runs/pretrain-NAME-DATE, NAME being that of the first text."""
    name = Path(options.data[0].partition("@")[0]).name.split(".")[0].strip("*") or "text"
    return f"runs/pretrain-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _seconds_per_token(options: PretrainOptions, config: ModelConfig, machine: Machine) -> float:
    """A guess, before anything is measured."""
    flops = training_flops_per_token(config, options.row_tokens(config.context), options.scored_share)
    return flops / (machine.peak * efficiency(config))


def _expected_tokens(options: PretrainOptions, config: ModelConfig, n_tokens: int, machine: Machine) -> float:
    """About how many tokens the run will see."""
    seconds = _seconds_per_token(options, config, machine)
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
    expected = _expected_tokens(options, config, task.batches.tokens_per_epoch, machine)
    seconds = expected * _seconds_per_token(options, config, machine)
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


def _decide(
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
    resolved, steps, cost = _settle(replace(task, resolved=resolved), machine, measured.seconds_per_step, folder)
    if cost.seconds > DAY and not confirm("Start it?"):
        raise UserError(Problem("not started", mend="a smaller --model, or --max-minutes"))
    write_config(folder / CONFIG, resolved, "pretrain", band_of(resolved.options))
    return steps


def _settle(
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
    explain(resolved, config, steps, cost, machine.world)
    return resolved, steps.steps, cost


def explain(resolved: Resolved[PretrainOptions], config: ModelConfig, steps: Steps, cost: Cost, world: World) -> None:
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


def as_document(result: TrainedRun | DryRun) -> dict[str, Any]:
    """The JSON document of the command."""
    if isinstance(result, DryRun):
        options = {name: setting.value for name, setting in result.resolved.settings().items()}
        return {"dry_run": True, "options": options, "cost": vars(result.cost)}
    state = result.state
    return {"run": str(result.path), **vars(state)}
