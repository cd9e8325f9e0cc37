"""Log readers: each takes the events of a run as they are written and passes their numbers on to another program."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.files import write_text
from gptloom.config.run_folder import EVENTS
from gptloom.observe.events import read_events

Event = dict[str, Any]

HEAD = ("version", "time", "type", "attempt", "step")
MEASURED_TYPES = ("train", "evaluate")


class Reader(Protocol):
    """Called with each event once its line is in ``events.jsonl``, the attempt's ``start`` first; closed at the end."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


def measurements(event: Event) -> Iterator[tuple[str, float]]:
    """The numbers of a ``train`` or ``evaluate`` event by name, those of a mapping as ``losses/lm``; None left out."""
    if event["type"] not in MEASURED_TYPES:
        return
    for name, value in event.items():
        if name in HEAD:
            continue
        for label, number in value.items() if isinstance(value, dict) else [(None, value)]:
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                yield (f"{name}/{label}" if label is not None else name), float(number)


class TensorBoardReader:
    """Scalars ``train/loss``, ``evaluate/bits_per_byte`` ... over steps, and the samples as text, in ``tensorboard/``.

    A resumed attempt purges the points beyond the step it starts from, so that no step is drawn twice.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / "tensorboard"
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if self._writer is None or event["type"] == "start":
            self._open(event)
        step, time = event["step"], event["time"]
        for name, number in measurements(event):
            self._writer.add_scalar(f"{event['type']}/{name}", number, step, walltime=time)
        if event["type"] == "sample":
            text = "    " + f"{event.get('prompt', '')}{event.get('text', '')}".replace("\n", "\n    ")
            self._writer.add_text("sample", text, step, walltime=time)  # indented: Markdown shows it as it is
        if event["type"] in ("evaluate", "end"):
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self, event: Event) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        purge_from = event["step"] + 1 if event["attempt"] else None
        self._writer = SummaryWriter(str(self._folder), purge_step=purge_from)


class CsvReader:
    """``csv/train.csv`` and ``csv/evaluate.csv``: a row an event: ``step``, ``time``, ``attempt``, then the numbers.

    At a start, and when a column appears that the file lacks, the files are written anew from the event log: it knows
    which rows still hold.
    """

    LEAD = ("step", "time", "attempt")

    def __init__(self, run_folder: Path) -> None:
        self._log = run_folder / EVENTS
        self._folder = run_folder / "csv"
        self._columns: dict[str, list[str]] = {}

    def __call__(self, event: Event) -> None:
        if event["type"] == "start":
            for type in MEASURED_TYPES:
                self._rewrite(type)
        if event["type"] not in MEASURED_TYPES:
            return
        row = self._row(event)
        if not row.keys() <= set(self._columns.get(event["type"], ())):
            self._rewrite(event["type"])
            return
        with self._path(event["type"]).open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns[event["type"]]).writerow(row)

    def close(self) -> None:
        """Nothing is kept open between two rows."""

    def _path(self, type: str) -> Path:
        return self._folder / f"{type}.csv"

    def _row(self, event: Event) -> dict[str, Any]:
        return {**{name: event[name] for name in self.LEAD}, **dict(measurements(event))}

    def _rewrite(self, type: str) -> None:
        rows = [self._row(event) for event in read_events(self._log) if event["type"] == type]
        self._columns[type] = list(dict.fromkeys([*self.LEAD, *(name for row in rows for name in row)]))
        self._folder.mkdir(exist_ok=True)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._columns[type])
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._path(type), table.getvalue())


class WandbReader:
    """An offline Weights & Biases run in ``wandb/``, one for each attempt, grouped by the run's name.

    Nothing is sent and no account is asked for; ``wandb sync`` uploads it when the user wants that.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        self._run: Any = None

    def __call__(self, event: Event) -> None:
        if self._run is None or event["type"] == "start":
            self._open(event)
        numbers = {f"{event['type']}/{name}": number for name, number in measurements(event)}
        if numbers:
            self._run.log(numbers, step=event["step"])

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _open(self, event: Event) -> None:
        import wandb

        self.close()
        name = self._folder.resolve().name
        self._run = wandb.init(
            project="gptloom",
            group=name,
            name=f"{name} attempt {event['attempt']}",
            dir=str(self._folder),
            mode="offline",
            config={key: value for key, value in event.items() if key not in HEAD},
            settings=wandb.Settings(silent=True, console="off"),
        )


READERS: dict[str, Callable[[Path], Reader]] = {
    "tensorboard": TensorBoardReader,
    "csv": CsvReader,
    "wandb": WandbReader,
}


def make_readers(names: Sequence[str], run_folder: Path) -> list[Reader]:
    """The readers named, in that order; ``none`` stands for no reader. The run folder exists; files come with events.

    Raises UserError, before anything is trained, for an unknown name, ``none`` beside others, or a missing package.
    """
    problems = []
    for name in names:
        if name != "none" and name not in READERS:
            problems.append(Problem(f"unknown log reader {name!r}: {nearest(name, [*READERS, 'none'])}", "--log"))
    if "none" in names and len(names) > 1:
        problems.append(Problem(f"'none' beside other log readers: {' '.join(names)}", "--log", "--log none"))
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        problems.append(
            Problem("the log reader wandb needs a package that is not here", "--log", 'pip install "gptloom[wandb]"')
        )
    if problems:
        raise UserError(*problems)
    return [READERS[name](run_folder) for name in dict.fromkeys(names) if name != "none"]
