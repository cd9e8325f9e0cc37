"""A tuning by steps, from a plan to what the best step leaves. Read it from ``train`` on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.problems import flag
from gptloom.config.resolve import write_config
from gptloom.config.run_folder import CONFIG, EVENTS
from gptloom.interop.foreign import ForeignModel
from gptloom.model.dtypes import dtype_name
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.observe.machine import machine_info
from gptloom.observe.numbers import human_bytes, human_time
from gptloom.observe.progress import ProgressReader
from gptloom.observe.readers import make_readers
from gptloom.observe.terminal import say
from gptloom.stages.claim import Claim
from gptloom.stages.training import shown_to
from gptloom.stages.tuning.body import parameters_of
from gptloom.stages.tuning.evaluating import Evaluate
from gptloom.stages.tuning.final import about, finish
from gptloom.stages.tuning.learning import choose_pace, count_steps, loop_settings, optimizer_settings
from gptloom.stages.tuning.part import part_sentence, trained_parameters
from gptloom.stages.tuning.plan import Plan
from gptloom.stages.tuning.preflight import check_room, fit_memory, memory_of, room_of
from gptloom.train.checkpoint import restore
from gptloom.train.compiling import can_compile, compile_blocks
from gptloom.train.guards import Guard
from gptloom.train.hooks import Patience, Save
from gptloom.train.loop import fit, forward_backward
from gptloom.train.memory import keep_freed_memory
from gptloom.train.optimizers import Optimizer
from gptloom.train.parallel import Parallel
from gptloom.train.reproducible import record
from gptloom.train.rollback import WayBack
from gptloom.train.run import Hook, LoopSettings, Run, RunState
from gptloom.train.saver import Saver
from gptloom.train.timing import Timing
from gptloom.train.world import World

AnyPlan = TypeVar("AnyPlan", bound=Plan)


def train(
    plan: Plan,
    claim: Claim,
    callbacks: Sequence[Hook] = (),
    checkpoint: tuple[Path, dict[str, Any]] | None = None,
) -> None:
    """Trains, and writes the best step to ``final/``; of a ``checkpoint`` (folder, document) all values are put in first."""
    optimizer, parallel = _ready(plan)
    model = plan.body.model
    check_room(plan, claim.folder)
    if checkpoint is None:
        plan = _settle(plan, optimizer, parallel)
        write_config(claim.folder / CONFIG, plan.resolved, plan.command)
    assert plan.options.max_steps is not None
    state = RunState() if checkpoint is None else RunState(**checkpoint[1]["run"])
    run = Run(claim.folder, loop_settings(plan.options, plan.options.max_steps, state.begin), state, parallel)
    run.lock, run.form, run.optimizer, run.model = claim.lock, plan.form, optimizer, model
    run.save_on_signal = list(plan.options.save_on_signal)
    # A model that has learned the task meets hard examples with a loss far above its mean: nothing is wrong with them.
    run.guard = Guard(spike=float("inf"))
    run.summary = _summary(plan, run)
    if checkpoint is not None:
        restore(run, *checkpoint)
    if checkpoint is None:
        plan.begin(run)
    claim.sure()
    _fit(run, plan, model, optimizer, callbacks)


def foresee(plan: AnyPlan, folder: Path) -> AnyPlan:
    """The plan as it would be trained into ``folder``, with what it will take here said; nothing is written."""
    optimizer, parallel = _ready(plan)
    check_room(plan, folder)
    return _settle(plan, optimizer, parallel)


def _ready(plan: Plan) -> tuple[Optimizer, Parallel]:
    """The model where it is trained, and what trains it."""
    model = plan.body.model.to(plan.device)
    say(part_sentence(plan.body))
    if plan.device.type == "cpu":
        keep_freed_memory()
    if plan.options.compile and isinstance(model, Transformer) and can_compile(plan.device):
        compile_blocks(model.blocks, varying=True)
    parallel = Parallel(World(), "one", plan.device)
    optimizer = Optimizer(
        model,
        optimizer_settings(plan.options),
        torch.float32 if isinstance(model, ForeignModel) else plan.dtype,
        parallel,
        lr_factor=plan.rate_of,
    )
    return optimizer, parallel


def _settle(plan: AnyPlan, optimizer: Optimizer, parallel: Parallel) -> AnyPlan:
    """Times a step, and settles length and pace; says what was chosen and what it will take."""
    plan = fit_memory(plan)
    seconds = _measure(plan, optimizer, parallel)
    steps = count_steps(plan.options, plan.batches, seconds)
    plan = replace(plan, resolved=choose_pace(plan.resolved, steps, plan.batches, seconds))
    for name, setting in plan.resolved.settings().items():
        if setting.rule is not None:
            say(f"  {flag(name)} {setting.value}: {setting.rule}")
    needed = memory_of(plan)
    say(
        f"{steps.steps:,} steps ({steps.rule}) · {plan.sizes} · about {human_time(steps.steps * seconds)} · "
        + (f"{human_bytes(needed)} memory · " if needed else "")
        + f"{human_bytes(room_of(plan))} disk"
    )
    return plan


def _measure(plan: Plan, optimizer: Optimizer, parallel: Parallel) -> float:
    """Seconds of forward and backward over a batch of the usual length; nothing is learned from it.

    UserError where nothing could ever be learned.
    """
    steps = plan.batches.steps_per_epoch
    sizes = {step: plan.batches.batch(step).tokens for step in range(min(steps, 20))}
    usual = sorted(sizes, key=lambda step: sizes[step])[len(sizes) // 2]
    settings = LoopSettings(steps=1, micro_batch=plan.options.micro_batch, seed=plan.options.seed)
    probe = Run(Path(), settings, RunState(), parallel)
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        forward_backward(probe, plan.objective, plan.batches.batch(usual), plan.body.model, optimizer)
        taken.append(time.perf_counter() - began)
        if not float(optimizer.gradient_norm()):
            what = "no gradient reaches what is to be trained: the output projections of an untrained model are zero"
            raise UserError(Problem(what, str(plan.options.base), "a trained base, or --method full"))
        optimizer.zero_grad()
    return taken[-1] * 1.1  # and the optimizer's part


def _summary(plan: Plan, run: Run) -> dict[str, Any]:
    model = plan.body.model
    return {
        "method": "patterns" if plan.options.train else plan.options.method,
        "parameters": parameters_of(model),
        "trained_parameters": trained_parameters(model),
        "tokens_per_step": plan.batches.tokens_per_step,
        "metric": plan.metric,
        "precision": dtype_name(plan.dtype),
        "processes": 1,
        "machine": machine_info(run.path),
        "repeat": record(plan.options.seed, {"tokenizer": plan.body.tokenizer.hash, **plan.made_of}),
        **plan.summary(),
    }


def _fit(run: Run, plan: Plan, model: Any, optimizer: Optimizer, callbacks: Sequence[Hook]) -> None:
    """The loop, with its hooks in the order in which they work."""
    options = plan.options
    assert options.eval_every is not None and options.save_every is not None
    saver = Saver(partial(about, plan), wait_for_disk=options.wait_for_disk)
    readers: list[Any] = [] if options.quiet else [ProgressReader()]
    readers += make_readers([name for name in options.log if name != "none"], run.path)
    hooks: list[Hook] = [Timing(), Evaluate(plan, options.eval_every)]
    if options.patience is not None:
        hooks.append(Patience(options.patience))
    hooks += [Save(saver, options.save_every, options.keep), finish(plan)]
    hooks += [shown_to(reader) for reader in readers]
    run.way_back = WayBack(plan.batches, restore, read_events(run.path / EVENTS))
    try:
        fit(run, plan.objective, run.way_back.batch, model, optimizer, [*hooks, *callbacks])
    finally:
        for reader in readers:
            reader.close()
