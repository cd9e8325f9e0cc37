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
from gptloom.config.resolve import Resolved, resolve, write_config
from gptloom.data.built import check_enough
from gptloom.model.counting import count_parameters, training_flops_per_token
from gptloom.model.reference import resolve_reference
from gptloom.model.store import check_vocabulary, content_hash, read_config
from gptloom.observe.terminal import human_count, human_time, say
from gptloom.stages.architecture import choose_model, refuse_with_base
from gptloom.stages.choices import choose_optimization, choose_pace, settle_micro_batch
from gptloom.stages.claim import Claim
from gptloom.stages.derive import Steps, count_steps, efficiency
from gptloom.stages.joining import asks_for_processes, join_training, launched
from gptloom.stages.levers import find_levers
from gptloom.stages.machine import Machine, process_memory, use_machine
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
from gptloom.stages.settings import loop_settings, optimizer_settings
from gptloom.stages.task import CONFIG, Task, band_of, open_task, stored_options
from gptloom.stages.text import DATA, TOKENIZER, check_reading, choose_tokenizer, open_shards_of, read_text
from gptloom.stages.trained import TrainedRun
from gptloom.stages.training import start
from gptloom.train.objective import NextToken
from gptloom.train.out_of_memory import largest_micro_batch, levers_named
from gptloom.train.run import EVENTS, Hook, LoopSettings, Run, RunState
from gptloom.train.world import World


@dataclass(frozen=True)
class Base:
    """The model that a training goes on from."""

    folder: Path
    config: ModelConfig
    hash: str


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
    if options.dry_run:
        return _dry_run(resolved)
    if asks_for_processes(options):
        out = options.out or default_folder(options)
        return launched("pretrain", resolved, options, out, callbacks)
    with join_training(options, resolved) as world:
        folder = Path(world.share(options.out or default_folder(options)))
        if world.restarts and (folder / EVENTS).exists():
            from gptloom.stages.resume import go_on  # which itself begins with a pretraining's parts

            return go_on(world, resolve(ResumeOptions, {"run": str(folder)}), callbacks, lambda question: True)
        with Claim(folder, options.overwrite) as claim:
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
    machine = use_machine(resolved.options, world)
    found = world.first_does(lambda: _prepare(resolved, machine, claim))
    task = open_task(claim.folder, machine, found)
    task, measured, compile_rule = measure_steps(task, machine)
    steps = world.first_does(lambda: _settle(task, machine, measured, compile_rule, claim.folder, confirm))
    task = replace(task, resolved=stored_options(claim.folder))
    settings = loop_settings(task.resolved.options, task.config, steps, machine.peak)
    run = Run(claim.folder, settings, RunState(), task.parallel)
    run.lock = claim.lock
    claim.sure()
    start(run, task, task.new_model(), callbacks)
    return TrainedRun(claim.folder)


def _prepare(resolved: Resolved[PretrainOptions], machine: Machine, claim: Claim) -> dict[str, Any]:
    """Text, tokenizer, shards, model and optimization, in the run folder; what the options don't hold is returned."""
    folder = claim.folder
    base = open_base(resolved)
    check_reading(resolved)
    text = read_text(resolved.options)
    say(text.rule)
    refuse_own_input(resolved.options, folder)
    claim.take()
    # Both are written again with all that is derived: a run that is broken off before can still be resumed.
    write_config(folder / CONFIG, resolved, "pretrain")
    Run(folder, LoopSettings(steps=0), RunState(reason="preparing")).write_state()
    tokenizer, resolved = choose_tokenizer(resolved, text, base.folder if base else None, folder / TOKENIZER)
    tokenizer.save(folder / TOKENIZER)
    shards = open_shards_of(text, tokenizer, folder / DATA, None)
    n_tokens = sum(int(tokens.n_tokens * weight) for tokens, weight in shards.train)
    config, resolved = choose_config(resolved, base, tokenizer.vocab_size, n_tokens, machine.peak)
    check_vocabulary(tokenizer, config, str(folder / TOKENIZER))
    check_enough(shards, config.context, validates=resolved.options.split != "none")
    expected = _expected_tokens(resolved.options, config, n_tokens, machine)
    resolved = choose_optimization(resolved, config, expected, machine)
    write_config(folder / CONFIG, resolved, "pretrain", band_of(resolved.options))
    return {
        "config": config.model_dump(mode="json"),
        "base": str(base.folder.resolve()) if base else None,
        "parents": [] if base is None else [{"path": str(base.folder.resolve()), "hash": base.hash}],
        "data_hash": text.corpus.hash if text.corpus is not None else None,
    }


def open_base(resolved: Resolved[PretrainOptions]) -> Base | None:
    """The base model's folder and shape; options that it decides already are refused."""
    if resolved.options.base is None:
        return None
    refuse_with_base(resolved)
    found = resolve_reference(resolved.options.base)
    if found.path is None:
        mend = f"gptloom pretrain --model {found.preset} --data ..."
        raise UserError(Problem(f"{resolved.options.base} is a preset, not a trained model", mend=mend))
    return Base(found.path, read_config(found.path), content_hash(found.path))


def refuse_own_input(options: PretrainOptions, folder: Path) -> None:
    """UserError when ``--overwrite`` would delete what this training is to read."""
    named = [*options.data, *options.valid, *filter(None, (options.base, options.tokenizer))]
    inside = [text for text in named if Path(text.partition("@")[0]).resolve().is_relative_to(folder.resolve())]
    if options.overwrite and inside:
        what = "--overwrite would delete what this training reads"
        raise UserError(*(Problem(what, text, "another --out") for text in inside))


def default_folder(options: PretrainOptions) -> str:
    """runs/pretrain-NAME-DATE, NAME being that of the first text."""
    name = Path(options.data[0].partition("@")[0]).name.split(".")[0].strip("*") or "text"
    return f"runs/pretrain-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def choose_config(
    resolved: Resolved[PretrainOptions], base: Base | None, vocab_size: int, n_tokens: int, peak: float
) -> tuple[ModelConfig, Resolved[PretrainOptions]]:
    """The base's shape, or one for this text and machine."""
    if base is None:
        return choose_model(resolved, vocab_size, n_tokens, peak)
    config = base.config
    if resolved.options.dropout is not None:
        config = config.model_copy(update={"dropout": resolved.options.dropout})
    return config, resolved.derive("context", config.context, "the base model's")


def _expected_tokens(options: PretrainOptions, config: ModelConfig, n_tokens: int, machine: Machine) -> float:
    """About how many tokens the run will see, before anything is measured."""
    guess = 1 / (machine.peak * efficiency(config) / training_flops_per_token(config))
    return _count_steps(options, 1, n_tokens, guess).steps


def _count_steps(
    options: PretrainOptions, tokens_per_step: int, tokens_per_epoch: int, seconds_per_step: float
) -> Steps:
    return count_steps(
        tokens_per_step,
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
    seconds = expected * training_flops_per_token(config) / (machine.peak * efficiency(config))
    if options.max_steps is not None:
        seconds = min(seconds, options.max_steps * seconds * task.batches.tokens_per_step / expected)
    compile, why = want_compile(options.compile, machine.device, seconds)
    found: list[Measured] = []

    def try_rows(rows: int) -> None:
        found.append(
            measure(
                task.new_model,
                optimizer_settings(options),
                NextToken(task.parallel.cross_entropy),
                task.batches.batch(0),
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


def _settle(
    task: Task, machine: Machine, measured: Measured, compile_rule: str, folder: Path, confirm: Callable[[str], bool]
) -> int:
    """Length, pace and cost of the run, by its measured step; writes the options as they now are, returns the steps."""
    resolved, config, options = task.resolved, task.config, task.resolved.options
    assert isinstance(options.micro_batch, int)
    if measured.note:
        say(measured.note)
    if task.base is None:
        check_first_loss(measured.first_loss, config.vocab_size)
    if options.compile is None:
        resolved = resolved.derive("compile", measured.compiled, compile_rule)
    elif options.compile and not measured.compiled:
        without = options.model_copy(update={"compile": False})
        resolved = Resolved(without, resolved.sources, {**resolved.rules, "compile": compile_rule})
    batches, seconds = task.batches, measured.seconds_per_step
    steps = _count_steps(options, batches.tokens_per_step, batches.tokens_per_epoch, seconds)
    resolved = choose_pace(resolved, steps, seconds, task.shards, config, task.tokenizer)
    cost = Cost(
        count_parameters(config).total,
        steps.steps * batches.tokens_per_step,
        batches.epochs(steps.steps),
        process_memory(options, config, machine),
        checkpoint_bytes(config) * (options.keep + 2),  # beside the last ones: the best, the one before the decay
        steps.steps * seconds,
    )
    check_disk(folder, cost.disk)
    explain(resolved, config, steps, cost)
    if cost.seconds > DAY and not confirm("Start it?"):
        raise UserError(Problem("not started", mend="a smaller --model, or --max-minutes"))
    write_config(folder / CONFIG, resolved, "pretrain", band_of(resolved.options))
    return steps.steps


def explain(resolved: Resolved[PretrainOptions], config: ModelConfig, steps: Steps, cost: Cost) -> None:
    """Prints what was chosen and why."""
    for name, setting in resolved.settings().items():
        if setting.source == "derived" and name != "sample":
            say(f"  --{name.replace('_', '-')} {setting.value}: {setting.rule}")
    say(f"{steps.steps:,} steps ({steps.rule}); {cost.sentence()}")
    if cost.seconds > DAY:
        hour = count_parameters(config).total * 3600 / cost.seconds
        say(
            f"this will take {human_time(cost.seconds)}; a model of about {human_count(hour)} parameters would take an hour"
        )


def _dry_run(resolved: Resolved[PretrainOptions]) -> DryRun:
    """Everything up to the first step but the shards: the tokenizer is trained in memory, tokens are estimated."""
    world = World(size=resolved.options.processes or 1, local_size=resolved.options.processes or 1)
    machine = use_machine(resolved.options, World())
    machine = replace(machine, world=world)
    base = open_base(resolved)
    check_reading(resolved)
    text = read_text(resolved.options)
    say(text.rule)
    folder = Path(resolved.options.out or default_folder(resolved.options))
    tokenizer, resolved = choose_tokenizer(resolved, text, base.folder if base else None, folder / TOKENIZER)
    n_tokens = text.estimated_tokens(tokenizer.vocab_size)
    config, resolved = choose_config(resolved, base, tokenizer.vocab_size, n_tokens, machine.peak)
    expected = _expected_tokens(resolved.options, config, n_tokens, machine)
    resolved = choose_optimization(resolved, config, expected, machine)
    options = resolved.options
    assert options.batch_tokens is not None
    speed = machine.peak * efficiency(config) / training_flops_per_token(config)
    steps = _count_steps(options, options.batch_tokens, n_tokens, options.batch_tokens / speed)
    tokens = steps.steps * options.batch_tokens
    cost = Cost(
        count_parameters(config).total,
        tokens,
        tokens / n_tokens,
        process_memory(options, config, machine),
        checkpoint_bytes(config) * (options.keep + 2),
        tokens / speed,
    )
    check_disk(folder, cost.disk)
    explain(resolved, config, steps, cost)
    return DryRun(resolved, config, cost)


def as_document(result: TrainedRun | DryRun) -> dict[str, Any]:
    """The JSON document of the command."""
    if isinstance(result, DryRun):
        options = {name: setting.value for name, setting in result.resolved.settings().items()}
        return {"dry_run": True, "options": options, "cost": vars(result.cost)}
    state = result.state
    return {"run": str(result.path), **vars(state)}
