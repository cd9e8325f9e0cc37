"""The list of the quickstart's stages, and what runs them: one after the other, each once, from where it was broken off."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
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
from gptloom.observe.numbers import human_time
from gptloom.observe.terminal import say
from gptloom.stages.quickstart import screen
from gptloom.stages.quickstart.classify import classify_docstrings
from gptloom.stages.quickstart.corpus import QuickstartCorpus, check_corpus, open_corpus
from gptloom.stages.quickstart.instruct import instruct_base
from gptloom.stages.quickstart.pretrain import pretrain_base
from gptloom.stages.quickstart.record import Record, open_record
from gptloom.stages.quickstart.stage import Context, Stage, StageResult

CORPUS = "corpus"
MACHINE = ("device", "precision", "threads", "compile")

# Each builds on what those before it left. Together at most 8 minutes on two cores.
STAGES = (
    Stage("pretrain", 3.0, "raw text", "next token", pretrain_base),
    Stage(
        "classify",
        1.5,
        "labelled docstrings",
        "module family",
        classify_docstrings,
        after="pretrain",
        any_text=False,
        use="predict",
    ),
    Stage(
        "instruct",
        0.75,
        "questions and answers",
        "tokens of the answers",
        instruct_base,
        after="pretrain",
        any_text=False,
        use="chat",
    ),
)


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
        """The model that the last stage made which makes one that writes, ready to write."""
        assert self.writer is not None, "no stage that makes a model that writes is done"
        model = load(str(self.folder / self.writer.run))
        assert isinstance(model, LanguageModel)
        return model

    @property
    def writer(self) -> StageResult | None:
        """What the last stage left that makes a model that writes."""
        return next((made for stage, made in reversed(self.stages) if stage.use == "generate"), None)

    def as_dict(self) -> dict[str, Any]:
        """Everything that was measured, as JSON values."""
        return {"folder": str(self.folder), "done": self.done, "seconds": self.seconds, **self.record.as_dict()}


def quickstart(resolved: Resolved[QuickstartOptions]) -> Quickstart:
    """Runs the stages asked for that are not done yet, saying what it does and finds.

    Stops early, with ``done`` False, when a stage was stopped by a signal; the same call goes on. UserError for unknown
    stages, those that need another text or an earlier stage, a folder that holds something else or was begun
    differently, and a text that cannot be used.
    """
    begun = time.perf_counter()
    options = resolved.options
    chosen = choose_stages(options.stages, options.corpus)
    check_corpus(options.corpus)
    record = open_record(options)
    check_order(chosen, record.stages)
    waiting = [stage for stage in chosen if stage.name not in record.stages]
    for stage in chosen:
        if stage not in waiting:
            say(f"{stage.name} is done already; --overwrite begins anew")
    done = not waiting or _run(waiting, resolved, record)
    stages = tuple((stage, record.stages[stage.name]) for stage in STAGES if stage.name in record.stages)
    return Quickstart(record.folder, done, time.perf_counter() - begun, stages, record)


def stages_of(corpus: str | None) -> tuple[Stage, ...]:
    """The stages that can do with the corpus of this name (None: that of the running Python)."""
    return tuple(stage for stage in STAGES if stage.any_text or corpus is None)


def choose_stages(names: Sequence[str], corpus: str | None = None) -> tuple[Stage, ...]:
    """The stages of these names in the order of the pipeline; for no name all that can do with the corpus.

    UserError for unknown ones, and for those that need another corpus.
    """
    known, fitting = [stage.name for stage in STAGES], stages_of(corpus)
    problems = [
        Problem(f"there is no stage {name!r}", "stages", nearest(name, known)) for name in names if name not in known
    ]
    for stage in STAGES:
        if stage.name in names and stage not in fitting:
            what = f"{stage.name} needs {stage.data}, which only the text that Python carries has"
            problems.append(Problem(what, "stages", "leave it out, or leave --corpus out"))
    if problems:
        raise UserError(*problems)
    return tuple(stage for stage in fitting if not names or stage.name in names)


def check_order(chosen: Sequence[Stage], done: Collection[str]) -> None:
    """UserError when a stage begins with what another makes that is neither done nor chosen."""
    there = {stage.name for stage in chosen} | set(done)
    missing = [stage for stage in chosen if stage.after is not None and stage.after not in there]
    if missing:
        raise UserError(
            *(
                Problem(f"{s.name} begins with what {s.after} makes", "stages", f"--stages {s.after},{s.name}")
                for s in missing
            )
        )


def share_minutes(stage: Stage, minutes: float | None, corpus: str | None = None) -> float:
    """The stage's part of ``minutes`` for all stages that can do with the corpus, also when only some are run.

    None: what it is made for.
    """
    if minutes is None:
        return stage.minutes
    return minutes * stage.minutes / sum(other.minutes for other in stages_of(corpus))


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
        if not stage.any_text and corpus.docstrings is None:
            say(f"\n{stage.name} is left out: this Python carries too few docstrings")
            continue
        minutes = share_minutes(stage, options.minutes, options.corpus)
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
