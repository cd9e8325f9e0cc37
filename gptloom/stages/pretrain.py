"""Pretraining: from a text file to a GPT, next word by next word. Read it from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions, ResumeOptions
from gptloom.config.resolve import Resolved, resolve, write_config
from gptloom.config.run_folder import CONFIG, DATA, EVENTS, STATE, TOKENIZER
from gptloom.data.built import TrainingShards
from gptloom.data.ordered import OrderedBatches
from gptloom.model.store import check_vocabulary
from gptloom.observe.terminal import say
from gptloom.stages.architecture import Base, choose_config, open_base, settle_objective
from gptloom.stages.choices import choose_optimization
from gptloom.stages.claim import Claim
from gptloom.stages.conflicts import check_options, recipe_named
from gptloom.stages.cost import Cost, decide, expected_tokens, measure_steps, seconds_per_token, settle
from gptloom.stages.foresee import foresee_shards
from gptloom.stages.goal import check_text, check_tokenizer_for, settle_pairs, training_batches
from gptloom.stages.joining import asked_world, asks_for_processes, join_training, launched
from gptloom.stages.machine import Machine, foresee_machine, use_machine
from gptloom.stages.on_disk import default_folder
from gptloom.stages.settings import loop_settings
from gptloom.stages.task import band_of, open_task, stored_options
from gptloom.stages.text import choose_tokenizer, open_shards_of, read_text
from gptloom.stages.trained import TrainedRun
from gptloom.stages.training import start
from gptloom.tokenizer import Tokenizer
from gptloom.train.agreement import check_shared_folder
from gptloom.train.run import Hook, LoopSettings, Run, RunState, read_state
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
    out = options.out or default_folder("pretrain", options.data[0].partition("@")[0], "text")
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
    steps = world.first_does(lambda: decide(task, machine, measured, compile_rule, claim.folder, confirm))
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
        seconds = plan.batches.tokens_per_step * seconds_per_token(options, plan.config, machine)
        settled, _, cost = settle(plan, machine, seconds, folder)
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
        shards = open_shards_of(text, tokenizer, folder / DATA)
    n_tokens = sum(int(tokens.n_tokens * weight) for tokens, weight in shards.train)
    config, resolved = choose_config(resolved, base, tokenizer.vocab_size, n_tokens, machine.peak)
    check_vocabulary(tokenizer, config, str(folder / TOKENIZER))
    check_text(resolved.options, config.context, shards)
    expected = expected_tokens(resolved.options, config, n_tokens, machine)
    resolved = choose_optimization(resolved, config, expected, machine)
    if claim is not None:
        write_config(folder / CONFIG, resolved, "pretrain", band_of(resolved.options))
    return Plan(resolved, config, tokenizer, shards, base, text.corpus.hash if text.corpus is not None else None)


def as_document(result: TrainedRun | DryRun) -> dict[str, Any]:
    """The JSON document of the command."""
    if isinstance(result, DryRun):
        options = {name: setting.value for name, setting in result.resolved.settings().items()}
        return {"dry_run": True, "options": options, "cost": vars(result.cost)}
    state = result.state
    return {"run": str(result.path), **vars(state)}
