"""Pretraining: from a text file to a GPT, next word by next word. Read it from top to bottom."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import load_recipe
from gptloom.config.resolve import Resolved, write_config
from gptloom.data.batches import TokenBatches
from gptloom.data.built import check_enough
from gptloom.model.counting import count_parameters, training_flops_per_token
from gptloom.model.reference import resolve_reference
from gptloom.model.store import check_vocabulary, content_hash, load_model, read_config
from gptloom.model.transformer import Transformer
from gptloom.observe.machine import machine_info
from gptloom.observe.terminal import human_count, human_time, say
from gptloom.stages.architecture import choose_model, refuse_with_base
from gptloom.stages.choices import choose_optimization, choose_pace
from gptloom.stages.derive import Steps, count_steps, efficiency
from gptloom.stages.preflight import (
    DAY,
    Cost,
    Measured,
    check_disk,
    check_first_loss,
    checkpoint_bytes,
    measure,
    training_memory,
    want_compile,
)
from gptloom.stages.text import DATA, TOKENIZER, Text, check_reading, choose_tokenizer, open_shards_of, read_text
from gptloom.stages.trained import TrainedRun
from gptloom.stages.training import Task, train
from gptloom.train.compiling import can_compile, compile_blocks
from gptloom.train.lock import RunLock
from gptloom.train.machine_speed import matrix_peak
from gptloom.train.memory import keep_freed_memory
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.precision import choose_device, choose_dtype
from gptloom.train.run import EVENTS, Hook, LoopSettings, Run, RunState, prepare_folder
from gptloom.train.schedules import Schedule

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Machine:
    """Where the training computes."""

    device: torch.device
    dtype: torch.dtype
    peak: float  # FLOP/s of a matrix product, measured


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
    before a run that would take more than a day.
    """
    machine = use_machine(resolved.options)
    base = open_base(resolved)
    check_reading(resolved)
    text = read_text(resolved.options)
    say(text.rule)
    folder = Path(resolved.options.out or default_folder(resolved.options))
    if resolved.options.dry_run:
        return _dry_run(resolved, text, base, machine, folder)
    refuse_own_input(resolved.options, folder)
    replaced = prepare_folder(folder, overwrite=resolved.options.overwrite)
    lock = RunLock(folder)
    lock.acquire()
    try:
        return _pretrain(resolved, text, base, machine, folder, callbacks, confirm, lock, replaced)
    except BaseException as error:
        lock.release()
        unbegun = not (folder / EVENTS).exists()
        if unbegun and (isinstance(error, UserError) or replaced is not None):  # leave nothing half-made
            shutil.rmtree(folder, ignore_errors=True)
            if replaced is not None:
                replaced.rename(folder)
        raise


def _pretrain(
    resolved: Resolved[PretrainOptions],
    text: Text,
    base: Base | None,
    machine: Machine,
    folder: Path,
    callbacks: Sequence[Hook],
    confirm: Callable[[str], bool],
    lock: RunLock,
    replaced: Path | None,
) -> TrainedRun:
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
    resolved = choose_optimization(resolved, config, expected, machine.dtype, machine.device)
    options = resolved.options
    assert options.batch_tokens is not None and options.micro_batch is not None
    batches = TokenBatches(shards.train, config.context, options.batch_tokens // config.context, options.seed)
    measured, resolved = measure_steps(resolved, config, base, batches, machine)
    steps = choose_steps(resolved, batches, measured.seconds_per_step)
    resolved = choose_pace(resolved, steps, measured.seconds_per_step, shards, config, tokenizer)
    cost = Cost(
        count_parameters(config).total,
        steps.steps * batches.tokens_per_step,
        batches.epochs(steps.steps),
        training_memory(config, options.micro_batch * config.context, machine.dtype),
        checkpoint_bytes(config) * (options.keep + 2),  # beside the last ones: the best, the one before the decay
        steps.steps * measured.seconds_per_step,
    )
    check_disk(folder, cost.disk)
    explain(resolved, config, steps, cost)
    if cost.seconds > DAY and not confirm("Start it?"):
        raise UserError(Problem("not started", mend="a smaller --model, or --max-minutes"))
    band = load_recipe(options.recipe).band if options.recipe else ()
    task = Task(
        resolved,
        config,
        tokenizer,
        shards,
        batches,
        machine.dtype,
        [] if base is None else [{"path": str(base.folder.resolve()), "hash": base.hash}],
        text.corpus.hash if text.corpus is not None else None,
        band,
    )
    write_config(folder / CONFIG, resolved, "pretrain", band)
    run = Run(folder, loop_settings(resolved, config, steps.steps, machine), RunState())
    run.lock = lock
    if replaced is not None:
        shutil.rmtree(replaced)
    start(run, task, machine, new_model(config, base, options.seed), callbacks)
    return TrainedRun(folder)


def start(
    run: Run,
    task: Task,
    machine: Machine,
    model: Transformer,
    callbacks: Sequence[Hook],
    restore: Callable[[Run], None] | None = None,
) -> None:
    """Trains ``model``, fresh or loaded with a checkpoint's masters, from where ``run`` stands.

    ``restore`` puts back the state of optimizer and guard, once they exist.
    """
    options = task.resolved.options
    model.to(machine.device)
    if options.compile and can_compile(machine.device):
        compile_blocks(model.blocks)
    elif options.compile:
        say("there is no C++ compiler here: the run goes on without torch.compile, and not bit for bit")
    run.device = machine.device
    run.summary = {
        "model": options.model or "base",
        "parameters": count_parameters(task.config).total,
        "tokens_per_step": task.batches.tokens_per_step,
        "context": task.config.context,
        "precision": str(machine.dtype).removeprefix("torch."),
        "machine": machine_info(run.path),
    }
    run.optimizer = Optimizer(model, optimizer_settings(options), machine.dtype)
    if restore is not None:
        restore(run)
    train(run, task, model, run.optimizer, callbacks)


def use_machine(options: PretrainOptions) -> Machine:
    """Sets the threads, chooses device and dtype, and measures how fast they multiply."""
    device = choose_device(options.device)
    if options.threads is not None:  # torch's own default is the physical cores
        torch.set_num_threads(options.threads)
    if device.type == "cpu":
        keep_freed_memory()
    dtype, _ = choose_dtype(options.precision, device)
    return Machine(device, dtype, matrix_peak(dtype, device))


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
    steps = count_steps(
        1,
        n_tokens,
        guess,
        max_steps=None,
        max_epochs=options.max_epochs,
        max_minutes=options.max_minutes,
        max_train_tokens=options.max_train_tokens,
    )
    return steps.steps


def measure_steps(
    resolved: Resolved[PretrainOptions],
    config: ModelConfig,
    base: Base | None,
    batches: TokenBatches,
    machine: Machine,
) -> tuple[Measured, Resolved[PretrainOptions]]:
    """Times the step of this training, and settles whether it is compiled."""
    options = resolved.options
    assert options.micro_batch is not None
    expected = _expected_tokens(options, config, batches.tokens_per_epoch, machine)
    seconds = expected * training_flops_per_token(config) / (machine.peak * efficiency(config))
    if options.max_steps is not None:
        seconds = min(seconds, options.max_steps * seconds * batches.tokens_per_step / expected)
    compile, why = want_compile(options.compile, machine.device, seconds)
    measured = measure(
        lambda: new_model(config, base, options.seed),
        optimizer_settings(options),
        NextToken(),
        batches.batch(0),
        micro_batch=options.micro_batch,
        dtype=machine.dtype,
        device=machine.device,
        compile=compile,
    )
    if measured.note:
        say(measured.note)
    if base is None:
        check_first_loss(measured.first_loss, config.vocab_size)
    if options.compile is None:
        resolved = resolved.derive("compile", measured.compiled, measured.note or why)
    elif options.compile and not measured.compiled:
        without = options.model_copy(update={"compile": False})
        resolved = Resolved(without, resolved.sources, {**resolved.rules, "compile": measured.note or ""})
    return measured, resolved


def choose_steps(resolved: Resolved[PretrainOptions], batches: TokenBatches, seconds_per_step: float) -> Steps:
    """The length of the run by the first budget that is reached."""
    options = resolved.options
    return count_steps(
        batches.tokens_per_step,
        batches.tokens_per_epoch,
        seconds_per_step,
        max_steps=options.max_steps,
        max_epochs=options.max_epochs,
        max_minutes=options.max_minutes,
        max_train_tokens=options.max_train_tokens,
    )


def loop_settings(
    resolved: Resolved[PretrainOptions],
    config: ModelConfig,
    steps: int,
    machine: Machine,
    begin: int = 0,
) -> LoopSettings:
    """What the loop must know; ``begin``: the step at which the schedule begins."""
    options = resolved.options
    assert options.log_every is not None
    return LoopSettings(
        steps=steps,
        schedule=schedule_of(options, steps, begin),
        micro_batch=options.micro_batch,
        clip=options.clip,
        seed=options.seed,
        log_every=options.log_every,
        flops_per_token=float(training_flops_per_token(config)),
        peak_flops=machine.peak,
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


def new_model(config: ModelConfig, base: Base | None, seed: int) -> Transformer:
    """A fresh model from the seed, or the base's weights."""
    if base is None:
        return Transformer.initialised(config, seed)
    model, _ = load_model(base.folder, dtype=torch.float32)
    if config.dropout == base.config.dropout:
        return model
    changed = Transformer(config)
    changed.load_state_dict(model.state_dict(), assign=True)
    return changed


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


def _dry_run(
    resolved: Resolved[PretrainOptions], text: Text, base: Base | None, machine: Machine, folder: Path
) -> DryRun:
    """Everything up to the first step but the shards: the tokenizer is trained in memory, tokens are estimated."""
    tokenizer, resolved = choose_tokenizer(resolved, text, base.folder if base else None, folder / TOKENIZER)
    n_tokens = text.estimated_tokens(tokenizer.vocab_size)
    config, resolved = choose_config(resolved, base, tokenizer.vocab_size, n_tokens, machine.peak)
    expected = _expected_tokens(resolved.options, config, n_tokens, machine)
    resolved = choose_optimization(resolved, config, expected, machine.dtype, machine.device)
    options = resolved.options
    assert options.batch_tokens is not None and options.micro_batch is not None
    speed = machine.peak * efficiency(config) / training_flops_per_token(config)
    steps = count_steps(
        options.batch_tokens,
        n_tokens,
        options.batch_tokens / speed,
        max_steps=options.max_steps,
        max_epochs=options.max_epochs,
        max_minutes=options.max_minutes,
        max_train_tokens=options.max_train_tokens,
    )
    tokens = steps.steps * options.batch_tokens
    cost = Cost(
        count_parameters(config).total,
        tokens,
        tokens / n_tokens,
        training_memory(config, options.micro_batch * config.context, machine.dtype),
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
