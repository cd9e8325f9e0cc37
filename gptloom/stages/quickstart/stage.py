"""What the quickstart is a list of: stages, what they are given, and what each reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gptloom.evaluation.yardsticks import Yardstick
from gptloom.stages.quickstart.corpus import QuickstartCorpus


@dataclass(frozen=True)
class Context:
    """What a stage may use. Runs of earlier stages lie beside its own, in ``out``."""

    out: Path
    corpus: QuickstartCorpus
    yardsticks: tuple[Yardstick, ...]
    minutes: float  # of training
    fast: bool  # only try it out: as small and short as possible, whatever ``minutes`` says
    seed: int
    machine: Mapping[str, Any]  # --device, --precision, --threads, --compile as far as they were given


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its line in the last screen, and every figure behind it."""

    run: str  # the run folder's name in ``Context.out``
    model: str  # what was made, and its parameters: "base, 3.1M"
    seconds: float
    better: str  # what got better by how much
    figures: Mapping[str, Any]  # JSON values


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    ``minutes`` is its share of the time, and its length when nobody gives another. ``work`` goes on with a run that was
    broken off, says what it finds, and returns None when it was stopped (with a checkpoint) before it was done. It
    begins with what the stage called ``after`` made, if any. Where not ``any_text``, it needs the docstrings of the text
    that Python carries. ``use``: the command that its model is for.
    """

    name: str
    minutes: float
    data: str
    objective: str
    work: Callable[[Context], StageResult | None]
    after: str | None = None
    any_text: bool = True
    use: Literal["generate", "predict", "chat"] = "generate"
