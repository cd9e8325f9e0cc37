"""What to do with a prepared file: the next command, what each prompt must end in, how much there is to read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptloom.data.prepare.pairs import class_names
from gptloom.data.prepare.reader import Reader
from gptloom.data.prepare.rows import Pairs, Rows
from gptloom.data.separators import separator_of, stop_of
from gptloom.observe.numbers import human_time


@dataclass(frozen=True)
class Next:
    """Commands, reminders, and the size of the work.

    Attributes:
        commands: lines for the terminal, ours first.
        separator: what a prompt must end in; "" where nothing must.
        stop: what a completion ends in; "" where nothing does.
        tokens: in the rows to train on, counted or estimated as ``basis`` says.
        reminders: the rest in sentences, for a person.
        seconds: of one pass over them where the model's own training tells how fast it reads; else None.
    """

    commands: list[str]
    separator: str
    stop: str
    tokens: int
    basis: str
    seconds: float | None
    reminders: list[str]

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


def next_steps(rows: Rows, files: Sequence[tuple[Path, Rows]], reader: Reader) -> Next:
    """What to do with ``rows``, which are in one of the ``files``, or in two: for training and for validation."""
    paths = [path for path, _ in files]
    tokens = sum(reader.counts(files[0][1].texts()))
    separator = stop = ""
    if isinstance(rows, Pairs) and rows.kind != "open-ended":
        separator, stop = separator_of(rows.prompts), stop_of(rows.completions)
    seconds = tokens / reader.tokens_per_second if reader.tokens_per_second else None
    reminders = [*_marks(separator, stop), _work(tokens, seconds, reader)]
    return Next(_commands(rows, paths, reader.name), separator, stop, tokens, reader.basis, seconds, reminders)


def _marks(separator: str, stop: str) -> list[str]:
    said = []
    if separator:
        said.append(f"A prompt has to end in {separator!r}: `gptloom chat` puts it there, other programs have to")
    if stop:
        said.append(f"A completion ends in {stop!r}: programs of OpenAI's API are told stop=[{stop!r}]")
    return said


def _work(tokens: int, seconds: float | None, reader: Reader) -> str:
    """How much a pass reads, and how long it takes where the model's own training tells how fast that went."""
    work = f"One pass reads {tokens:,} tokens ({reader.basis})"
    if seconds is None:
        return f"{work}; `gptloom sft ... --dry-run` says how long that takes on this machine"
    return f"{work}: about {human_time(seconds)} at the {reader.tokens_per_second:,.0f} a second of {reader.name}'s training"


def _commands(rows: Rows, paths: Sequence[Path], base: str) -> list[str]:
    train, *valid = [shlex.quote(str(path)) for path in paths]
    data = f"--data {train}" + "".join(f" --valid {path}" for path in valid)
    commands = [f"gptloom sft {base} {data}"]
    if isinstance(rows, Pairs):
        if rows.kind == "classification":
            commands.append(f"gptloom finetune {base} --task classify {data} --text prompt --label completion")
        commands.append(_of_openai(rows, [str(path) for path in paths]))
    return commands


def _of_openai(rows: Pairs, paths: Sequence[str]) -> str:
    line = "openai api fine_tunes.create" + "".join(
        f' {flag} "{p}"' for flag, p in zip(("-t", "-v"), paths, strict=False)
    )
    if rows.kind != "classification" or len(paths) == 1:
        return line
    names = class_names(rows.completions)
    if len(names) == 2:
        return f'{line} --compute_classification_metrics --classification_positive_class "{names[0]}"'
    return f"{line} --compute_classification_metrics --classification_n_classes {len(names)}"
