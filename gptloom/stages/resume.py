"""Going on with a run: exactly where it stopped, or, with a larger budget, beyond where it was to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import gptloom
from gptloom.config.errors import Problem, UserError
from gptloom.config.options import BudgetOptions
from gptloom.config.pretrain import PretrainOptions, ResumeOptions
from gptloom.config.recipes import load_recipe
from gptloom.config.resolve import Resolved, read_config, resolve, write_config
from gptloom.data.batches import TokenBatches
from gptloom.data.built import TrainingShards, check_tokenizer
from gptloom.model.reference import finished_checkpoints, is_run
from gptloom.model.store import load_model, read_lineage
from gptloom.observe.events import read_events
from gptloom.observe.terminal import say
from gptloom.stages.derive import Steps, count_steps
from gptloom.stages.pretrain import CONFIG, loop_settings, pretrain, schedule_of, start, use_machine
from gptloom.stages.text import DATA, TOKENIZER, reopen_shards
from gptloom.stages.trained import TrainedRun
from gptloom.stages.training import Task, data_identity
from gptloom.tokenizer.load import load_tokenizer
from gptloom.train.checkpoint import MODEL, read_checkpoint, restore
from gptloom.train.run import EVENTS, Hook, Run, RunState, read_state


def resume(resolved: Resolved[ResumeOptions], callbacks: Sequence[Hook] = ()) -> TrainedRun:
    """Continues the run of ``resolved.options.run``; budgets given here extend a finished one.

    Raises UserError when the folder is no run, holds no sound checkpoint, or there is nothing left to do.
    """
    folder = Path(resolved.options.run)
    if not folder.is_dir() or not is_run(folder):
        raise UserError(Problem("not a run folder", str(folder), "gptloom runs"))
    stored = Resolved.from_dict(PretrainOptions, read_config(folder / CONFIG), str(folder / CONFIG))
    options = stored.options.model_copy(update={"quiet": resolved.options.quiet})
    stored = Resolved(options, stored.sources, stored.rules)
    before = read_state(folder)
    kept = finished_checkpoints(folder)
    if not kept:
        say("the run was broken off before its first checkpoint: it starts again")
        return _start_again(stored, resolved, folder, callbacks)
    steps = _wanted_steps(resolved.options, options, folder, before)
    if before.state == "finished" and before.step >= steps.steps:
        mend = f"gptloom resume {folder} --max-steps {2 * before.step}"
        raise UserError(Problem(f"the run is finished: {before.reason}, {before.step} steps", str(folder), mend))
    at, begin = _where_to_go_on(options, before, steps, kept)
    document = read_checkpoint(kept[at])
    if steps.steps != before.steps:
        stored = _extended(stored, steps)
        options = stored.options
        write_config(folder / CONFIG, stored, "pretrain", load_recipe(options.recipe).band if options.recipe else ())
    machine = use_machine(options.model_copy(update={"precision": _precision_of(document)}))
    shards = reopen_shards(options, folder / DATA)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    for tokens, _ in shards.train:
        check_tokenizer(tokens, tokenizer)
    model, config = load_model(kept[at] / MODEL, dtype=torch.float32)
    _compare_with(document["facts"], shards, folder)
    assert options.batch_tokens is not None
    batches = TokenBatches(shards.train, config.context, options.batch_tokens // config.context, options.seed)
    lineage = read_lineage(kept[at] / MODEL).get("lineage", {})
    parents = [{**p, "path": str((kept[at] / MODEL / p["path"]).resolve())} for p in lineage.get("parents", [])]
    task = Task(stored, config, tokenizer, shards, batches, machine.dtype, parents, lineage.get("data_hash"))
    settings = loop_settings(stored, config, steps.steps, machine, begin)
    run = Run(folder, settings, RunState(**{**document["run"], "begin": begin}))
    start(run, task, machine, model, callbacks, restore=lambda run: restore(run, kept[at], document))
    return TrainedRun(folder)


def _extended(stored: Resolved[PretrainOptions], steps: Steps) -> Resolved[PretrainOptions]:
    """The options with the new length, as derived: the budgets that it came from were given to resume."""
    options = stored.options.model_copy(update={"max_steps": steps.steps})
    rule = f"extended by gptloom resume: {steps.rule}"
    return Resolved(options, {**stored.sources, "max_steps": "derived"}, {**stored.rules, "max_steps": rule})


def _start_again(
    stored: Resolved[PretrainOptions], now: Resolved[ResumeOptions], folder: Path, callbacks: Sequence[Hook]
) -> TrainedRun:
    """The same training from the first step, by what was given at the time and the budgets given now."""
    given = {name: setting.value for name, setting in stored.settings().items() if stored.given(name)}
    budgets = {name: getattr(now.options, name) for name in BudgetOptions.model_fields if now.given(name)}
    again = resolve(PretrainOptions, {**given, **budgets, "out": str(folder), "overwrite": True})
    result = pretrain(again, callbacks)
    assert isinstance(result, TrainedRun)
    return result


def _wanted_steps(given: ResumeOptions, options: PretrainOptions, folder: Path, before: RunState) -> Steps:
    """The steps in all: as planned, or by the budgets given now, which count from the start of the run."""
    budgets = (given.max_steps, given.max_epochs, given.max_minutes, given.max_train_tokens)
    if all(budget is None for budget in budgets):
        return Steps(before.steps, "as planned")
    train = [event for event in read_events(folder / EVENTS) if event["type"] == "train"]
    context = options.context
    assert options.batch_tokens is not None and context is not None
    shards = reopen_shards(options, folder / DATA)
    batches = TokenBatches(shards.train, context, options.batch_tokens // context, options.seed)
    seconds = batches.tokens_per_step / train[-1]["tokens_per_second"] if train else 1.0
    return count_steps(
        batches.tokens_per_step,
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
    if options.schedule == "trapezoid":
        planned = schedule_of(options, before.steps, before.begin)
        early = [step for step in kept if step <= before.steps - planned.decay]
        if early:
            at = max(early)
            say(f"going on from step {at}, before the learning rate came down, to step {steps.steps}")
            return at, before.begin
    say(f"a new warm-up and decay over the steps {last} to {steps.steps}")
    return last, last


def _precision_of(document: dict[str, Any]) -> str:
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[document["facts"]["precision"]]


def _compare_with(facts: dict[str, Any], shards: TrainingShards, folder: Path) -> None:
    """UserError when the data is not what the checkpoint was trained on; a word about what only costs the last bit."""
    if facts["data"] != data_identity(shards):
        what = "the token shards have changed since the checkpoint was made"
        mend = f"put the old ones back, or train on the new ones: gptloom pretrain {folder} --data ..."
        raise UserError(Problem(what, str(folder / DATA), mend))
    now = {"threads": torch.get_num_threads(), "torch": torch.__version__, "gptloom": gptloom.__version__}
    for name, value in now.items():
        if facts[name] != value:
            say(
                f"{name} changed since the checkpoint ({facts[name]}, now {value}): the run goes on, but not bit for bit"
            )
