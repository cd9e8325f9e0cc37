"""The list of the quickstart's stages, and what runs them: one after the other, each once, from where it was broken off."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.quickstart import QuickstartOptions
from gptloom.config.resolve import Resolved
from gptloom.evaluation.yardsticks import Yardstick, measure_yardsticks
from gptloom.generation.language_model import LanguageModel
from gptloom.interop.open import load
from gptloom.observe.machine import cores
from gptloom.observe.terminal import human_time, say
from gptloom.stages.quickstart import screen
from gptloom.stages.quickstart.corpus import QuickstartCorpus, check_corpus, open_corpus
from gptloom.stages.quickstart.pretrain import pretrain_base
from gptloom.stages.quickstart.record import Record, open_record
from gptloom.stages.quickstart.stage import Context, Stage, StageResult

CORPUS = "corpus"
MACHINE = ("device", "precision", "threads", "compile")

# Each builds on what those before it left. Together at most 8 minutes on two cores.
STAGES = (Stage("pretrain", 3.0, "raw text", "next token", pretrain_base),)


@dataclass(frozen=True)
class Quickstart:
    """A quickstart on disk: every stage that is done, and whether all that were asked for are."""

    folder: Path
    done: bool
    seconds: float  # of this call
    stages: tuple[tuple[Stage, StageResult], ...]
    record: Record

    @cached_property
    def model(self) -> LanguageModel:
        """The model that the last stage made, ready to write."""
        return load(str(self.folder / self.stages[-1][1].run))

    def as_dict(self) -> dict[str, Any]:
        """Everything that was measured, as JSON values."""
        return {"folder": str(self.folder), "done": self.done, "seconds": self.seconds, **self.record.as_dict()}


def quickstart(resolved: Resolved[QuickstartOptions]) -> Quickstart:
    """Runs the stages asked for that are not done yet, saying what it does and finds.

    Stops early, with ``done`` False, when a stage was stopped by a signal; the same call goes on. UserError for unknown
    stages, a folder that holds something else or was begun differently, and a text that cannot be used.
    """
    begun = time.perf_counter()
    options = resolved.options
    chosen = choose_stages(options.stages)
    check_corpus(options.corpus)
    record = open_record(options)
    waiting = [stage for stage in chosen if stage.name not in record.stages]
    for stage in chosen:
        if stage not in waiting:
            say(f"{stage.name} is done already; --overwrite begins anew")
    done = not waiting or _run(waiting, resolved, record)
    stages = tuple((stage, record.stages[stage.name]) for stage in STAGES if stage.name in record.stages)
    return Quickstart(record.folder, done, time.perf_counter() - begun, stages, record)


def choose_stages(names: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of these names in the order of the pipeline, all of them for no name; UserError for unknown ones."""
    known = [stage.name for stage in STAGES]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(*(Problem(f"there is no stage {name!r}", "stages", nearest(name, known)) for name in unknown))
    return tuple(stage for stage in STAGES if not names or stage.name in names)


def share_minutes(stage: Stage, minutes: float | None) -> float:
    """The stage's part of ``minutes`` for all stages, also when only some are run; None: what it is made for."""
    if minutes is None:
        return stage.minutes
    return minutes * stage.minutes / sum(other.minutes for other in STAGES)


def _run(stages: Sequence[Stage], resolved: Resolved[QuickstartOptions], record: Record) -> bool:
    """Whether all of them came to their end."""
    options = resolved.options
    torch.set_num_threads(options.threads or cores())
    screen.say_heading("the text")
    corpus = _open_corpus(options, record)
    screen.say_corpus(corpus)
    yardsticks = _yardsticks(record, corpus)
    screen.say_yardsticks(yardsticks)
    machine = {name: getattr(options, name) for name in MACHINE if resolved.given(name)}
    for stage in stages:
        minutes = share_minutes(stage, options.minutes)
        length = "a trial run" if options.fast else f"about {human_time(60 * minutes)} of training"
        screen.say_heading(f"{stage.name}: {stage.objective} on {stage.data}, {length}")
        result = stage.work(Context(record.folder, corpus, yardsticks, minutes, options.fast, options.seed, machine))
        if result is None:
            return False
        record.add(stage.name, result)
    return True


def _open_corpus(options: QuickstartOptions, record: Record) -> QuickstartCorpus:
    """The text, once the folder is marked as a quickstart's; no mark is left where there is no text."""
    record.check_python()
    record.write()
    try:
        corpus = open_corpus(options.corpus, record.folder / CORPUS, options.seed)
    except UserError:
        record.withdraw()
        raise
    record.set_corpus(corpus)
    return corpus


def _yardsticks(record: Record, corpus: QuickstartCorpus) -> tuple[Yardstick, ...]:
    """Measured once for a text."""
    if not record.yardsticks:
        record.set_yardsticks(tuple(measure_yardsticks(corpus.train, corpus.valid)))
    return record.yardsticks
