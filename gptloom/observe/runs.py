"""Run folders from outside: what is in one, which there are, and following one while it trains."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.run_folder import COMPARISON, CONFIG, EVENTS, FINAL, LINEAGE_FILE, METRICS, MODEL, STATE
from gptloom.observe.events import read_events, tail_events

Event = dict[str, Any]
IsLocked = Callable[[Path], bool]
"""Whether a live process holds the lock of a run folder."""

BROKEN_OFF = "broken off"


@dataclass(frozen=True)
class RunFiles:
    """What a run folder says about itself; parts that are not there yet are empty."""

    folder: Path
    events: list[Event]
    config: dict[str, Any]
    state: dict[str, Any]
    card: dict[str, Any]
    """``final/gptloom.json``: lineage, versions and metrics of the finished model."""
    scores: dict[str, Any] = field(default_factory=dict)
    """``metrics.json`` of a fine-tuning: what the finished model reached on each set of labelled examples."""

    @property
    def start(self) -> Event:
        """The facts of all ``start`` events, later ones winning."""
        return {key: value for event in self.of_type("start") for key, value in event.items()}

    def of_type(self, type: str) -> list[Event]:
        return [event for event in self.events if event["type"] == type]

    def last(self, type: str, key: str) -> Any:
        """The newest value of ``key`` in events of one type, None when there is none."""
        values = [event[key] for event in self.of_type(type) if event.get(key) is not None]
        return values[-1] if values else None


@dataclass(frozen=True)
class RunSummary:
    """One line of ``gptloom runs``; times are Unix seconds, the size is in bytes."""

    path: Path
    state: str
    reason: str | None
    model: str | None
    step: int
    steps: int | None
    loss: float | None
    valid_loss: float | None
    bits_per_byte: float | None
    metric: str | None
    """By which the best step of a fine-tuning is chosen, and its value there."""
    metric_value: float | None
    started: float | None
    updated: float | None
    size: int

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "path": str(self.path)}


def is_run(folder: Path) -> bool:
    """Whether a folder is a run: an event log or a state file lies in it (a checkpoint's stands beside ``model/``)."""
    return any((folder / name).is_file() for name in (EVENTS, STATE)) and not (folder / MODEL).exists()


def check_run(folder: Path) -> None:
    """UserError where a folder is no run: what it is instead, and the runs beside it."""
    if not is_run(folder):
        raise UserError(_no_run(folder))


def read_run(folder: Path) -> RunFiles:
    """Reads everything small in a run folder. Raises UserError when it is no run, naming runs beside it that are."""
    check_run(folder)
    return RunFiles(
        folder=folder,
        events=read_events(folder / EVENTS),
        config=_read_yaml(folder / CONFIG),
        state=_read_json(folder / STATE),
        card=_read_json(folder / FINAL / LINEAGE_FILE),
        scores=_read_json(folder / METRICS),
    )


def find_runs(root: Path) -> list[Path]:
    """Every run folder below ``root``, in order of path; runs inside a run are not looked for."""
    found = []
    for folder, subfolders, _ in os.walk(root):
        if is_run(Path(folder)):
            found.append(Path(folder))
            subfolders.clear()
    return sorted(found)


def list_runs(root: Path, is_locked: IsLocked) -> list[RunSummary]:
    """The runs below ``root``, the one that moved last first. A run that cannot be read is listed as ``unreadable``."""
    return sorted(
        (summarise(folder, is_locked) for folder in find_runs(root)), key=lambda run: run.updated or 0, reverse=True
    )


def state_of(run: RunFiles, is_locked: IsLocked) -> str:
    """The state it wrote; ``running`` without a live lock is ``broken off``: its process died without a word."""
    state: str = run.state.get("state", "running")
    return BROKEN_OFF if state == "running" and not is_locked(run.folder) else state


def summarise(folder: Path, is_locked: IsLocked) -> RunSummary:
    """One run in a line, ``unreadable`` with the reason when its files cannot be read."""
    try:
        run = read_run(folder)
    except UserError as error:
        run = RunFiles(folder, [], {}, {"state": "unreadable", "reason": str(error.problems[0].what)}, {})
    return RunSummary(
        path=folder,
        state=state_of(run, is_locked),
        reason=run.state.get("reason"),
        model=run.start.get("model"),
        step=next((e["step"] for e in reversed(run.events) if e["type"] != "checkpoint"), run.state.get("step", 0)),
        steps=run.start.get("steps"),
        loss=run.last("train", "loss"),
        valid_loss=run.last("evaluate", "valid_loss"),
        bits_per_byte=run.last("evaluate", "bits_per_byte"),
        metric=run.last("evaluate", "metric"),
        metric_value=_best(run),
        started=run.events[0]["time"] if run.events else None,
        updated=run.events[-1]["time"] if run.events else None,
        size=_size(folder),
    )


def _best(run: RunFiles) -> float | None:
    """The metric at the best step so far."""
    best = run.last("evaluate", "best_step")
    found = [e for e in run.of_type("evaluate") if e["step"] == best and e.get("metric")]
    return found[-1]["metrics"].get(found[-1]["metric"]) if found else None


def _size(folder: Path) -> int:
    """Bytes of all files; those that a training deletes or renames meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def follow_events(folder: Path, is_locked: IsLocked, poll: float = 0.2) -> Iterator[Event]:
    """The events of a run so far, then each new one, until the run ends or no live process works on it.

    Raises UserError when the folder is no run.
    """
    check_run(folder)
    log = folder / EVENTS
    ends_to_pass = [event["type"] for event in read_events(log)].count("end")  # of attempts that were since resumed
    for event in tail_events(log, poll, stop=lambda: not is_locked(folder)):
        yield event
        if event["type"] == "end":
            ends_to_pass -= 1
            if ends_to_pass < 0:
                return


def no_single_run(folder: Path) -> Problem | None:
    """Why the folder of a comparison of runs is not taken for a run or a model; None where it is no comparison."""
    compared = folder / COMPARISON
    if not compared.with_suffix(".json").is_file():
        return None
    runs = ", ".join(run.as_posix() for run in find_runs(folder))
    what = f"a comparison of several runs: {compared.with_suffix('.md').as_posix()} shows what they came to"
    return Problem(what, str(folder), f"name one of them: {runs}" if runs else None)


def _no_run(folder: Path) -> Problem:
    if compared := no_single_run(folder):
        return compared
    if folder.is_dir():
        what = f"no run: neither {EVENTS} nor {STATE} lies in this folder"
    else:
        what = "no such run folder"
    beside = [str(run) for run in find_runs(folder.parent)] if folder.parent.is_dir() else []
    mend = nearest(str(folder), beside) if beside else "gptloom runs lists the runs that are there"
    return Problem(what, str(folder), mend)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(Problem(f"not JSON: {error}", str(path))) from error
    return found if isinstance(found, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(Problem(f"not YAML: {error}", str(path))) from error
    return found if isinstance(found, dict) else {}
