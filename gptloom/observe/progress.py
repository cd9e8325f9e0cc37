"""What a person sees of a training: events as sentences, and the one live line that says where it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gptloom.observe.glossary import main_metrics, written
from gptloom.observe.numbers import human_count, human_time
from gptloom.observe.terminal import Terminal, printable, terminal

PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines where they cannot overwrite each other."""
PATIENCE = 3
"""A process that keeps the others waiting is named after so many looks in a row: once may be chance."""


@dataclass
class Progress:
    """Where a training stands, gathered from its events in order."""

    step: int = 0
    steps: int | None = None
    loss: float | None = None
    task_loss: float | None = None
    """The task's term alone, where a fine-tuning has another beside it."""
    not_finite: bool = False
    bits_per_byte: float | None = None
    valid_loss: float | None = None
    metric: str | None = None
    """The metric of a fine-tuning, by name, and its last value."""
    metric_value: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds_per_step: float | None = None
    """Wall time, and so evaluations, samples and saves included; the first logged steps, which compile, are not."""
    _first: tuple[int, float] | None = None

    def update(self, event: dict[str, Any]) -> None:
        if event["type"] == "start":
            self._first = None
            self.seconds_per_step = None
        if event["type"] != "checkpoint":  # one that was saved aside comes when the run is further on
            self.step = event["step"]
        self.steps = event.get("steps") or self.steps
        if event["type"] == "evaluate":
            self.valid_loss, self.bits_per_byte = event.get("valid_loss"), event.get("bits_per_byte")
            self.metric = event.get("metric")
            self.metric_value = event.get("metrics", {}).get(self.metric)
        if event["type"] == "train":
            self.loss = event.get("loss")
            terms = event.get("losses") or {}
            self.task_loss = terms.get("task") if len(terms) > 1 else None
            self.not_finite = self.loss is None
            self.tokens_per_second, self.mfu = event.get("tokens_per_second"), event.get("mfu")
            self._measure(event["step"], event["time"])

    @property
    def seconds_left(self) -> float | None:
        if self.steps is None or self.seconds_per_step is None:
            return None
        return max(0, self.steps - self.step) * self.seconds_per_step

    def _measure(self, step: int, now: float) -> None:
        if self._first is None:
            self._first = (step, now)
        elif step > self._first[0]:
            self.seconds_per_step = max(0.0, now - self._first[1]) / (step - self._first[0])


def progress_line(progress: Progress) -> str:
    """``step 1,200/5,000 24% · loss 3.214 · valid 1.842 bits/byte · 12.3k tok/s · MFU 41% · 3 min 20 s left``.

    MFU is the share of the machine's measured matrix peak. What is not known yet is left out.
    """
    parts = [_step_part(progress)]
    if progress.not_finite:
        parts.append("loss not finite")
    elif progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
        if progress.task_loss is not None:
            parts[-1] += f" (task {progress.task_loss:.3f})"
    if progress.metric is not None and progress.metric_value is not None:
        parts.append(f"valid {progress.metric} {written(progress.metric, progress.metric_value)}")
    elif progress.bits_per_byte is not None:
        parts.append(f"valid {progress.bits_per_byte:.3f} bits/byte")
    elif progress.valid_loss is not None:
        parts.append(f"valid loss {progress.valid_loss:.3f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{human_count(progress.tokens_per_second)} tok/s")
    if progress.mfu is not None:
        parts.append(f"MFU {progress.mfu:.0%}")
    if progress.seconds_left:
        parts.append(f"{human_time(progress.seconds_left)} left")
    return " · ".join(parts)


def _step_part(progress: Progress) -> str:
    if not progress.steps:
        return f"step {progress.step:,}"
    return f"step {progress.step:,}/{progress.steps:,} {progress.step / progress.steps:.0%}"


def event_line(event: dict[str, Any]) -> str:
    """One event other than ``train`` as a person reads it; only a sample has several lines."""
    step = f"step {event['step']:,}"
    match event["type"]:
        case "start":
            return _start_line(event)
        case "evaluate":
            figures = [
                f"{label} {event[key]:.3f}"
                for key, label in (("valid_loss", "validation loss"), ("bits_per_byte", "bits per byte"))
                if event.get(key) is not None
            ]
            measured = event.get("metrics", {})
            figures += [
                f"{name} {written(name, measured[name])}"
                for name in main_metrics(measured, event.get("metric"))
                if measured[name] is not None
            ]
            return f"{step}: " + (", ".join(figures) or "evaluated")
        case "sample":
            text = f"{event.get('prompt', '')}{event.get('text', '')}"
            return f"{step} writes:\n" + "\n".join(f"  │ {printable(line)}" for line in text.splitlines())
        case "checkpoint":
            return f"{step}: saved {event.get('path', 'a checkpoint')} ({event.get('kind', 'last')})"
        case "timing":
            late = [
                f"process {found['rank']} on {found['host']} ({found['times']:.2f} times the middle one's work)"
                for found in event["stragglers"]
            ]
            return f"{step}: the others wait for {', '.join(late)}" if late else f"{step}: no process waits for another"
        case "guard":
            return f"{step}: guard: {event.get('reason', 'no reason given')} → {event.get('action', 'no action given')}"
        case "end":
            reason = f": {event['reason']}" if event.get("reason") else ""
            return f"{event.get('state', 'ended')} at {step}{reason}"
    return f"{step}: {event['type']}"


def _start_line(event: dict[str, Any]) -> str:
    about = []
    if event.get("model"):
        about.append(str(event["model"]))
    if event.get("parameters"):
        about.append(f"{human_count(event['parameters'])} parameters")
    if event.get("tokens_per_step"):
        about.append(f"{human_count(event['tokens_per_step'])} tokens a step")
    if event.get("context"):
        about.append(f"context {event['context']:,}")
    verb = f"resumed from step {event['step']:,}" if event["attempt"] or event["step"] else "started"
    goal = f", to step {event['steps']:,}" if event.get("steps") else ""
    return f"{verb}{goal}" + (f" ({' · '.join(about)})" if about else "")


class ProgressReader:
    """Reads a run's events as they are written and shows them: the live line, and what is worth a line of its own.

    Where the output is no terminal there is a plain line every ten seconds of the run and one at every evaluation
    instead. ``everything`` also shows starts and checkpoints, for who did not start the run and follows it.
    """

    def __init__(self, terminal: Terminal = terminal, everything: bool = False) -> None:
        self.terminal = terminal
        self.everything = everything
        self.progress = Progress()
        self._last_plain, self._plain = -math.inf, ""  # when a plain line was last said, and which
        self._late: dict[int, int] = {}  # rank → for how many looks it has kept the others waiting without a break

    def __call__(self, event: dict[str, Any]) -> None:
        self.progress.update(event)
        match event["type"]:
            case "train" | "evaluate":
                self._show(event)
            case "timing":
                ranks = [found["rank"] for found in event["stragglers"]]
                self._late = {rank: self._late.get(rank, 0) + 1 for rank in ranks}
                if PATIENCE in self._late.values():
                    self.terminal.say(event_line(event))
            case "sample" | "guard" | "end":
                last = progress_line(self.progress)
                if event["type"] == "end" and self.progress.loss is not None and last != self._plain:
                    self.terminal.say(last)
                self.terminal.say(event_line(event))
            case "start" | "checkpoint" if self.everything:
                self.terminal.say(event_line(event))

    def close(self) -> None:
        self.terminal.end_live()

    def _show(self, event: dict[str, Any]) -> None:
        line = progress_line(self.progress)
        if self.terminal.moves:
            self.terminal.show_live(line)
        elif event["type"] == "evaluate" or event["time"] - self._last_plain >= PLAIN_INTERVAL:
            self.terminal.say(line)
            self._last_plain, self._plain = event["time"], line
