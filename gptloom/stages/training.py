"""The part of a pretraining that a new run and a resumed one share: hooks, the loop, and the finished model folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gptloom
from gptloom.config.generate import SamplingOptions
from gptloom.config.run_folder import EVENTS, FINAL
from gptloom.data.batch import Batch
from gptloom.evaluation.perplexity import id_bytes
from gptloom.generation.fill_mask import fill_masks
from gptloom.generation.language_model import LanguageModel
from gptloom.generation.plain import write_plainly
from gptloom.model.counting import count_parameters
from gptloom.model.dtypes import dtype_name
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.observe.machine import machine_info
from gptloom.observe.progress import ProgressReader
from gptloom.observe.readers import make_readers
from gptloom.observe.terminal import say
from gptloom.stages.band import Band
from gptloom.stages.goal import knowing_nothing
from gptloom.stages.levers import find_levers
from gptloom.stages.machine import Machine
from gptloom.stages.on_disk import relative_path
from gptloom.stages.settings import optimizer_settings
from gptloom.stages.task import Task, data_identity
from gptloom.tokenizer import Tokenizer
from gptloom.train.checkpoint import restore
from gptloom.train.compiling import can_compile, compile_blocks
from gptloom.train.form import About
from gptloom.train.hooks import Evaluate, Patience, Save, due
from gptloom.train.loop import fit
from gptloom.train.objective import Objective
from gptloom.train.optimizers import Optimizer
from gptloom.train.out_of_memory import Levers, halvings, rows_of_a_pass
from gptloom.train.reproducible import record
from gptloom.train.rollback import WayBack
from gptloom.train.run import Hook, Run
from gptloom.train.saver import Saver
from gptloom.train.timing import Timing
from gptloom.train.validation import Validation, validate

Reader = Callable[[dict[str, Any]], None]


def start(
    run: Run,
    task: Task,
    model: Transformer,
    callbacks: Sequence[Hook],
    checkpoint: tuple[Path, dict[str, Any]] | None = None,
) -> None:
    """Trains ``model`` from where ``run`` stands; of a ``checkpoint`` (folder, document) all values are put in first."""
    options, parallel = task.resolved.options, task.parallel
    if options.compile and can_compile(parallel.device):
        compile_blocks(model.blocks)
    elif options.compile:
        say("there is no C++ compiler here: the run goes on without torch.compile, and not bit for bit")
    run.save_on_signal = list(options.save_on_signal)
    run.summary = {
        "model": options.model or "base",
        "parameters": count_parameters(task.config).total,
        "tokens_per_step": task.batches.tokens_per_step,
        "context": task.config.context,
        "precision": dtype_name(task.dtype),
        "processes": parallel.world.size,
        "parallel": parallel.sentence(),
        "machine": machine_info(run.path),
        "repeat": record(options.seed, {"tokenizer": task.tokenizer.hash, "data": task.data_hash}),
    }
    run.optimizer = Optimizer(model, optimizer_settings(options), task.dtype, parallel)
    if checkpoint is not None:
        restore(run, *checkpoint)
    train(run, task, model, run.optimizer, callbacks)


def train(run: Run, task: Task, model: Transformer, optimizer: Optimizer, callbacks: Sequence[Hook] = ()) -> None:
    """Trains to the end of ``run``, then writes ``final/``. Hooks come in the order listed here, callbacks last."""
    options = task.resolved.options
    readers: list[Any] = []
    if run.world.first:
        readers += [ProgressReader()] if not options.quiet else []
        readers += make_readers([name for name in options.log if name != "none"], run.path)
    # The order in which they work: what is measured first, what depends on it after, what only looks on last.
    hooks: list[Hook] = [Timing()]
    assert options.eval_every is not None and options.save_every is not None
    if task.shards.valid is not None:
        hooks.append(Evaluate(_validator(task), options.eval_every))
    if options.sample and options.sample_tokens:
        hooks.append(Sample(task.tokenizer, options.sample, options.sample_tokens, options.eval_every, options.seed))
    if options.patience is not None:
        hooks.append(Patience(options.patience))
    saver = Saver(partial(describe, task), aside=options.async_save, wait_for_disk=options.wait_for_disk)
    hooks.append(Save(saver, options.save_every, options.keep))
    hooks.append(_finish(saver))
    if task.band:
        hooks.append(Band(task.band, str(options.recipe)))
    hooks += [shown_to(reader) for reader in readers]
    way_back = prepare_guard(run, task)
    try:
        fit(run, task.objective, way_back.batch, model, optimizer, [*hooks, *callbacks])
    finally:
        for reader in readers:
            reader.close()


def prepare_guard(run: Run, task: Task) -> WayBack:
    """What ``run`` needs to act in trouble, with all that was decided in it before; the batches come by the way back."""
    options, parallel = task.resolved.options, task.parallel
    events = read_events(run.path / EVENTS)
    run.settings = replace(run.settings, halve=not task.resolved.given("micro_batch"))
    run.halvings = halvings(events)
    machine = Machine(parallel.world, parallel.device, task.dtype, run.settings.peak_flops or 0.0)

    def levers() -> Levers:
        now = options.model_copy(update={"micro_batch": rows_of_a_pass(run)})
        return find_levers(now, task.config, machine)

    run.levers = levers
    run.guard.chance = knowing_nothing(options, task.config)
    run.describe = lambda batch: describe_worst(run, task.objective, task.tokenizer, batch)
    run.way_back = WayBack(task.batches, restore, events)
    return run.way_back


def _finish(saver: Saver) -> Hook:
    """Writes ``final/`` while the run still counts as running: broken off here, it is resumed and written again."""

    def finish(event: dict[str, Any], run: Run) -> None:
        if event["type"] == "closing" and run.complete:
            saver.write_final(run, run.path / FINAL)

    return finish


def checkpoint_facts(task: Task) -> dict[str, Any]:
    """What a run that goes on from a checkpoint compares itself with."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gptloom": gptloom.__version__,
        "compile": bool(task.resolved.options.compile),
        "precision": dtype_name(task.dtype),
        "processes": task.parallel.world.size,
        "parallel": task.parallel.sentence(),
        "tokenizer": task.tokenizer.hash,
        "data": data_identity(task.shards),
    }


def describe(task: Task, run: Run, folder: Path) -> About:
    """What a model folder of this run says of itself at the present step: lineage, and what a resumed run compares."""
    state = run.state
    lineage = {
        "stage": "pretrain",
        "parents": [{**parent, "path": relative_path(parent["path"], folder)} for parent in task.parents],
        "run": run.path.name,
        "step": state.step,
        "tokens": state.tokens,
        "data_hash": task.data_hash,
        "options": {name: setting.value for name, setting in task.resolved.settings().items()},
        "metrics": {"valid_loss": state.valid_loss, "bits_per_byte": state.bits_per_byte},
    }
    return About(task.config, task.tokenizer, lineage, checkpoint_facts(task))


def _validator(task: Task) -> Callable[[Run], Validation]:
    options = task.resolved.options
    assert isinstance(options.micro_batch, int)
    rows = options.micro_batch
    # Bits per byte are of a text that is predicted as a whole, from the bytes that its ids stand for.
    sizes = id_bytes(task.tokenizer, task.config.vocab_size) if options.objective != "masked" else None

    def held_out(run: Run) -> Validation:
        return validate(
            task.objective,
            run.model,
            task.held_out(rows),
            id_bytes=sizes,
            limit=options.limit_batches,
            device=run.device,
            parallel=run.parallel,
        )

    return held_out


@torch.no_grad()
def describe_worst(run: Run, objective: Objective, tokenizer: Tokenizer, batch: Batch) -> str:
    """The three rows of a batch that the model finds hardest, with their losses and the beginnings of their texts."""
    assert isinstance(run.model, Transformer)
    run.model.eval()
    losses = []
    for row in batch.split(1):
        counts, sums = objective.count(row), objective.loss(run.model, row.to(run.device))
        losses.append(sum(float(sums[term]) / counts[term] for term in sums if counts[term]))
    hardest = sorted(range(len(losses)), key=lambda row: losses[row] if math.isfinite(losses[row]) else math.inf)
    texts = {row: tokenizer.decode(batch.ids[row].tolist()) for row in hardest[::-1][:3]}
    return "\n".join(f"row {row}, loss {losses[row]:.3f}: {text[:150]!r}" for row, text in texts.items())


def filled(model: Transformer, tokenizer: Tokenizer, text: str) -> str:
    """The likeliest words for each mask of a text, and how likely they are, a line each."""
    (found,) = fill_masks(model, tokenizer, [text], top=3)
    masks = ("  ".join(f"{word.text} ({word.probability:.0%})" for word in words) for words in found.masks)
    return "".join(f"\n[MASK] → {words}" for words in masks)


class Sample:
    """Continues the prompts at every evaluation, or fills their masks; from a seed of the run and nothing else."""

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[str], tokens: int, every: int, seed: int) -> None:
        self.tokenizer, self.prompts, self.tokens, self.every, self.seed = tokenizer, prompts, tokens, every, seed

    def __call__(self, event: dict[str, Any], run: Run) -> None:
        if not due(event, run, self.every):
            return
        assert isinstance(run.model, Transformer)
        run.model.eval()
        options = SamplingOptions(max_tokens=self.tokens, temperature=0.8, seed=self.seed)
        for prompt in self.prompts:
            if run.model.config.mask == "bidirectional":
                text = filled(run.model, self.tokenizer, prompt)
            elif run.parallel.sharded:  # all processes write together
                text = write_plainly(run.model, self.tokenizer, prompt, options, run.device)
            else:
                text = str(next(LanguageModel(run.model, self.tokenizer).complete([prompt], options))[0])
            run.emit("sample", prompt=prompt, text=text)


def shown_to(reader: Reader) -> Hook:
    def show(event: dict[str, Any], run: Run) -> None:
        if "time" in event:  # was written; the loop also shows hooks steps that are not
            reader(event)

    return show
