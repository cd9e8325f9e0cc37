"""What a person sees in a terminal: messages, tables, how numbers are written, and the one live line of a training."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from gptloom.observe.glossary import main_metrics, written

PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines where they cannot overwrite each other."""
PATIENCE = 3
"""A process that keeps the others waiting is named after so many looks in a row: once may be chance."""


def human_count(number: float) -> str:
    """``950``, ``9,876``, ``12.3k``, ``124M``, ``1.3B``: three figures and the letter the field uses."""
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    for unit, letter in ((1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")):
        if abs(number) < 999.5 * unit or letter == "T":
            return _three_figures(number / unit) + letter
    raise AssertionError("unreachable")


def human_bytes(number: float) -> str:
    """``512 B``, ``1.4 kB``, ``23.5 MB``, ``6.1 GB``: powers of ten, as disks are sold."""
    if abs(number) < 1000:
        return f"{number:.0f} B"
    for unit, letter in ((1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")):
        if abs(number) < 999.5 * unit or letter == "TB":
            return f"{_three_figures(number / unit)} {letter}"
    raise AssertionError("unreachable")


def human_time(seconds: float) -> str:
    """``0.4 s``, ``45 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 04 h``: the two largest units."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def _three_figures(number: float) -> str:
    decimals = 0 if abs(number) >= 99.95 else 1
    return f"{number:.{decimals}f}".removesuffix(".0")


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


def printable(line: str) -> str:
    """``line`` with U+FFFD for what would move a terminal's cursor or ring its bell: an untrained model writes anything."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in line)


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


class Terminal:
    """Standard error as a place for messages, with at most one live line below them.

    ``quiet`` silences messages and the live line (errors are printed by the command line itself). The live line exists
    only where standard error is a terminal that can move its cursor.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream
        self.quiet = quiet
        self._live = False

    @property
    def stream(self) -> TextIO:
        """Looked up when used, since tests and notebooks replace ``sys.stderr``."""
        return self._stream or sys.stderr

    @property
    def moves(self) -> bool:
        """Whether a line may be overwritten: a person looks at it, and has not asked for plain output."""
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return self.stream.isatty() and not plain

    def say(self, text: str = "") -> None:
        """Prints a message; a live line below is removed first and comes back with its next update."""
        if self.quiet:
            return
        self.end_live()
        _write(self.stream, text + "\n")

    def show_live(self, line: str) -> None:
        """Replaces the live line; does nothing where the output does not move."""
        if self.quiet or not self.moves:
            return
        width = shutil.get_terminal_size().columns - 1
        _write(self.stream, "\r\x1b[2K" + (line if len(line) <= width else line[: width - 1] + "…"))
        self._live = True

    def end_live(self) -> None:
        """Removes the live line, if there is one."""
        if self._live:
            _write(self.stream, "\r\x1b[2K")
            self._live = False


terminal = Terminal()
"""The process's standard error; the command line sets ``terminal.quiet``."""


@contextlib.contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Inside, ``say`` and the live line are silent where ``quiet`` is true."""
    before, terminal.quiet = terminal.quiet, terminal.quiet or quiet
    try:
        yield
    finally:
        terminal.quiet = before


def speaker() -> str:
    """``process 3 on node7``: what an error begins with in every process of a training but the first, which needs none.

    Known from torchrun's environment, so that it is right before the processes have met and after they have parted.
    """
    rank = os.environ.get("RANK", "0")
    return f"process {rank} on {socket.gethostname()}" if rank != "0" else ""


def say(text: str = "") -> None:
    """A message for the person who started the command, on standard error, unless ``--quiet``."""
    terminal.say(text)


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


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    right: Collection[str] = (),
    file: TextIO | None = None,
) -> None:
    """A table on standard output or ``file``: drawn by rich on a terminal, else plain columns two spaces apart.

    Plain as well where the terminal has room for that only, so that no cell is broken.

    ``right`` names the headers of columns whose cells stand right (numbers).
    """
    file = file or sys.stdout
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    drawn, plain = sum(widths) + 3 * len(widths) + 1, sum(widths) + 2 * (len(widths) - 1)
    if file.isatty() and not plain <= shutil.get_terminal_size().columns < drawn:
        _print_rich_table(headers, cells, title, right, file)
        return
    if title:
        _write(file, title + "\n")
    for row in [list(headers), *cells]:
        line = "  ".join(
            cell.rjust(width) if header in right else cell.ljust(width)
            for cell, width, header in zip(row, widths, headers, strict=True)
        )
        _write(file, line.rstrip() + "\n")


def _print_rich_table(
    headers: Sequence[str], rows: list[list[str]], title: str | None, right: Collection[str], file: TextIO
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a cell are no markup
    Console(file=file).print(table)


def _write(stream: TextIO, text: str) -> None:
    """Writes and flushes; characters a console cannot show (code page 1252) become question marks, never an error."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, errors="replace").decode(encoding))
    stream.flush()
