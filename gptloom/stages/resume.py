"""Going on with a run: exactly where it stopped, or, with a larger budget, beyond where it was to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.options import DurabilityOptions, ParallelOptions, option_fields
from gptloom.config.pretrain import PretrainOptions, ResumeOptions
from gptloom.config.resolve import Resolved, resolve, write_config
from gptloom.config.run_folder import CHECKPOINTS, CONFIG, DATA, EVENTS, MODEL, TOKENIZER
from gptloom.data.built import check_tokenizer
from gptloom.model.dtypes import PRECISIONS
from gptloom.model.reference import finished_checkpoints
from gptloom.model.store import read_config as read_model_config
from gptloom.model.store import read_lineage
from gptloom.observe.events import read_events
from gptloom.observe.runs import check_run
from gptloom.observe.terminal import say
from gptloom.stages.claim import Claim
from gptloom.stages.derive import Steps, count_steps
from gptloom.stages.goal import training_batches
from gptloom.stages.joining import asks_for_processes, join_training, launched
from gptloom.stages.machine import check_room, use_machine
from gptloom.stages.pretrain import train_in
from gptloom.stages.settings import loop_settings, schedule_of, step_sizes
from gptloom.stages.task import Task, band_of, data_identity, open_task, stored_options
from gptloom.stages.text import reopen_shards
from gptloom.stages.trained import TrainedRun
from gptloom.stages.training import checkpoint_facts, start
from gptloom.tokenizer.load import load_tokenizer
from gptloom.train.agreement import check_shared_folder
from gptloom.train.assemble import empty_model
from gptloom.train.checkpoint import newest_sound, read_checkpoint
from gptloom.train.lock import RunLock
from gptloom.train.rollback import not_taken_back
from gptloom.train.run import Hook, Run, RunState, read_state, take_lock
from gptloom.train.world import World


def resume(
    resolved: Resolved[ResumeOptions],
    callbacks: Sequence[Hook] = (),
    confirm: Callable[[str], bool] | None = None,
) -> TrainedRun:
    """Continues the run of ``resolved.options.run``; budgets given here extend a finished one.

    It may go on with other processes than before. ``confirm`` is asked before an older checkpoint is taken because the
    newest is damaged (default: what ``--yes`` says). Raises UserError when the folder is no run, holds no sound
    checkpoint, or there is nothing left to do.
    """
    folder = Path(resolved.options.run)
    check_run(folder)
    options = _as_asked(stored_options(folder), resolved).options
    if asks_for_processes(options):
        return launched("resume", resolved, options, str(folder), callbacks)
    with join_training(options, resolved) as world:
        return go_on(world, resolved, callbacks, confirm or (lambda question: resolved.options.yes))


def started_others(resolved: Resolved[ResumeOptions]) -> bool:
    """Whether ``resume`` with these options works in processes of its own, which say how it ended."""
    folder = Path(resolved.options.run)
    return asks_for_processes(_as_asked(stored_options(folder), resolved).options)


def go_on(
    world: World, resolved: Resolved[ResumeOptions], callbacks: Sequence[Hook], confirm: Callable[[str], bool]
) -> TrainedRun:
    """``resume`` in every process of ``world``."""
    folder = Path(resolved.options.run)
    lock = RunLock(folder)
    world.first_does(lambda: take_lock(lock))  # before anything is looked at that another process may be changing
    try:
        return _go_on(world, resolved, callbacks, confirm, lock)
    finally:
        lock.release()


def _go_on(
    world: World,
    resolved: Resolved[ResumeOptions],
    callbacks: Sequence[Hook],
    confirm: Callable[[str], bool],
    lock: RunLock,
) -> TrainedRun:
    folder = Path(resolved.options.run)
    check_shared_folder(world, folder)
    if not world.first_does(lambda: bool(list((folder / CHECKPOINTS).glob("step-*")))):
        say("the run was broken off before its first checkpoint: it starts again")
        again = _from_the_start(stored_options(folder), resolved, folder)
        lock.release()  # the claim on the emptied folder takes its own
        with Claim(folder, overwrite=True) as claim:
            return train_in(world, again, claim, callbacks, confirm=lambda question: True)
    if world.restarts and world.first_does(lambda: read_state(folder).state == "finished"):
        return TrainedRun(folder)  # lost a machine just when all was done
    newest, _, _, harm = newest_sound(folder, world)
    world.first_does(lambda: _accept(harm, newest, folder, confirm))
    plan = world.first_does(lambda: _plan(resolved, folder, newest))
    checkpoint = finished_checkpoints(folder)[plan["at"]]
    document = read_checkpoint(checkpoint, world)
    stored = stored_options(folder)
    if plan["extended"] is not None:
        stored = _extended(stored, Steps(plan["steps"], plan["extended"]))
    asked = _as_asked(stored, resolved)
    options = asked.options.model_copy(update={"precision": PRECISIONS[document["facts"]["precision"]]})
    machine = use_machine(options, world)
    task = replace(open_task(folder, machine, plan["found"]), resolved=asked)
    world.first_does(lambda: _compare_with(document["facts"], task, folder))
    world.first_does(lambda: check_room(options, task.config, machine, folder, checkpoints=1))
    if plan["extended"] is not None:  # only now: a resume that is refused changes nothing
        world.first_does(lambda: write_config(folder / CONFIG, stored, "pretrain", band_of(stored.options)))
    settings = loop_settings(asked.options, task.config, plan["steps"], machine.peak, plan["begin"])
    run = Run(folder, settings, RunState(**{**document["run"], "begin": plan["begin"]}), task.parallel)
    run.lock = lock
    model = empty_model(task.config, task.parallel, task.dtype)
    start(run, task, model, callbacks, (checkpoint, document))
    return TrainedRun(folder)


def _accept(harm: Sequence[Problem], newest: int, folder: Path, confirm: Callable[[str], bool]) -> None:
    """UserError when newer checkpoints than ``newest`` are damaged and the user does not want to go on without them."""
    if not harm:
        return
    if confirm(f"Newer checkpoints are damaged ({harm[0].where}: {harm[0].what}). Go on from step {newest}?"):
        say(f"going on from step {newest}: {harm[0].where}: {harm[0].what}")
        return
    what = f"the newest sound checkpoint is that of step {newest}"
    raise UserError(*harm, Problem(what, str(folder), f"gptloom resume {folder} --yes, which goes on from there"))


def _plan(resolved: Resolved[ResumeOptions], folder: Path, newest: int) -> dict[str, Any]:
    """Where to go on, not beyond ``newest``, and how far, as JSON; ``extended``: by which rule, if it is."""
    stored = stored_options(folder)
    before = read_state(folder)
    kept = {step: path for step, path in finished_checkpoints(folder).items() if step <= newest}
    kept = not_taken_back(kept, read_events(folder / EVENTS))
    steps = _wanted_steps(resolved.options, stored.options, folder, before)
    if before.state == "finished" and before.step >= steps.steps:
        mend = f"gptloom resume {folder} --max-steps {2 * before.step}"
        raise UserError(Problem(f"the run is finished: {before.reason}, {before.step} steps", str(folder), mend))
    at, begin = _where_to_go_on(stored.options, before, steps, kept)
    model = kept[at] / MODEL
    lineage = read_lineage(model).get("lineage", {})
    found = {
        "config": read_model_config(model).model_dump(mode="json"),
        "base": None,
        "parents": [{**p, "path": str((model / p["path"]).resolve())} for p in lineage.get("parents", [])],
        "data_hash": lineage.get("data_hash"),
    }
    extended = steps.rule if steps.steps != before.steps else None
    return {"at": at, "begin": begin, "steps": steps.steps, "extended": extended, "found": found}


def _as_asked(stored: Resolved[PretrainOptions], now: Resolved[ResumeOptions]) -> Resolved[PretrainOptions]:
    """The stored options with what was given now about this machine, its processes and what is shown."""
    names = (*ParallelOptions.model_fields, *DurabilityOptions.model_fields, "threads")
    given = {name: getattr(now.options, name) for name in names if now.given(name)}
    if "nodes" in given or "processes" in given:
        given = {"nodes": [], **given}
    options = stored.options.model_copy(update={**given, "quiet": now.options.quiet})
    return Resolved(options, stored.sources, stored.rules)


def _extended(stored: Resolved[PretrainOptions], steps: Steps) -> Resolved[PretrainOptions]:
    """The options with the new length, as derived: the budgets that it came from were given to resume."""
    options = stored.options.model_copy(update={"max_steps": steps.steps})
    rule = f"extended by gptloom resume: {steps.rule}"
    return Resolved(options, {**stored.sources, "max_steps": "derived"}, {**stored.rules, "max_steps": rule})


def _from_the_start(
    stored: Resolved[PretrainOptions], now: Resolved[ResumeOptions], folder: Path
) -> Resolved[PretrainOptions]:
    """The same training from the first step, by what was given at the time and what is given now."""
    given = {name: setting.value for name, setting in stored.settings().items() if stored.given(name)}
    mine = {name: now.options.option(name) for name in option_fields(ResumeOptions) if now.given(name)}
    del mine["run"]
    mine.pop("json", None)
    return resolve(PretrainOptions, {**given, **mine, "out": str(folder), "overwrite": True})


def _wanted_steps(given: ResumeOptions, options: PretrainOptions, folder: Path, before: RunState) -> Steps:
    """The steps in all: as planned, or by the budgets given now, which count from the start of the run."""
    budgets = (given.max_steps, given.max_epochs, given.max_minutes, given.max_train_tokens)
    if all(budget is None for budget in budgets):
        return Steps(before.steps, "as planned")
    train = [event for event in read_events(folder / EVENTS) if event["type"] == "train"]
    assert options.context is not None
    length, sizes = options.row_tokens(options.context), step_sizes(options)
    shards = reopen_shards(options, folder / DATA)
    batches = training_batches(options, options.context, shards, load_tokenizer(folder / TOKENIZER), options.seed)
    seconds = batches.tokens_per_step / train[-1]["tokens_per_second"] if train else 1.0
    return count_steps(
        sizes,
        length,
        batches.tokens_per_epoch,
        seconds,
        max_steps=given.max_steps,
        max_epochs=given.max_epochs,
        max_minutes=given.max_minutes,
        max_train_tokens=given.max_train_tokens,
    )


def _where_to_go_on(options: PretrainOptions, before: RunState, steps: Steps, kept: dict[int, Path]) -> tuple[int, int]:
    """The checkpoint to start from, and the step at which the schedule begins."""
    last = max(kept)
    if steps.steps == before.steps:
        return last, before.begin
    if steps.steps < last:
        raise UserError(Problem(f"the run has done {last} steps already", mend=f"a budget of more than {last} steps"))
    if options.decay_tokens is not None:
        say(f"going on from step {last}: the learning rate follows --decay-tokens, however long the run")
        return last, before.begin
    if options.schedule == "trapezoid":
        planned = schedule_of(options, before.steps, before.begin)
        early = [step for step in kept if step <= before.steps - planned.decay]
        if early:
            at = max(early)
            say(f"going on from step {at}, before the learning rate came down, to step {steps.steps}")
            return at, before.begin
    say(f"a new warm-up and decay over the steps {last} to {steps.steps}")
    return last, last


def _compare_with(facts: dict[str, Any], task: Task, folder: Path) -> None:
    """UserError when the data is not what the checkpoint was trained on; a word about what only costs the last bit."""
    for tokens, _ in task.shards.train:
        check_tokenizer(tokens, task.tokenizer)
    if facts["data"] != data_identity(task.shards):
        what = "the token shards have changed since the checkpoint was made"
        mend = f"put the old ones back, or train on the new ones: gptloom pretrain {folder} --data ..."
        raise UserError(Problem(what, str(folder / DATA), mend))
    now = checkpoint_facts(task)
    for name in ("threads", "torch", "gptloom", "processes", "parallel"):
        if name in facts and facts[name] != now[name]:
            say(
                f"{name} changed since the checkpoint ({facts[name]}, now {now[name]}): "
                "the run goes on, but not bit for bit"
            )
