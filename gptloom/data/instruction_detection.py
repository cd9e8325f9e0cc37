"""Which format instruction data come in, told by columns and contents: OpenAI's, Alpaca's, ShareGPT's, HH's, pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.data.column_names import LABEL_NAMES, plain
from gptloom.data.findings import Findings
from gptloom.data.inputs import data_suffix, expand_inputs, split_weight
from gptloom.data.instruction_names import (
    CHOSEN,
    COMPLETIONS,
    INSTRUCTION_ANSWERS,
    INSTRUCTIONS,
    MESSAGES,
    PROMPTS,
    REJECTED,
    TEXTS,
    TRANSCRIPTS,
)
from gptloom.data.rows import TABLES, Row, RowFile, read_rows
from gptloom.data.transcripts import is_transcript
from gptloom.data.turns import listed

FormatName = Literal["prompt-completion", "instruction", "messages", "sharegpt", "transcript", "preference", "text"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
LOOKED_AT = 20  # rows from which the format of a file is known

plain_name = lru_cache(maxsize=4096)(plain)  # of keys that come in every row


@dataclass(frozen=True)
class Format:
    """A format, and which columns hold what is asked and what is answered."""

    name: FormatName
    answer: str  # the column of the answer, or of the whole conversation
    prompt: str | None = None
    rejected: str | None = None

    @property
    def title(self) -> str:
        """For a person: ``instruction/input/output (Alpaca)``."""
        if self.name == "instruction":
            middle = "input/" if self.answer != "instances" else ""
            return f"{self.prompt}/{middle}{self.answer} (Alpaca)"
        return {
            "prompt-completion": f"{self.prompt}/{self.answer}",
            "messages": f"{self.answer} (OpenAI)",
            "sharegpt": f"{self.answer} (ShareGPT)",
            "transcript": "Human/Assistant transcripts (HH)",
            "preference": f"{self.answer}/{self.rejected} (preference pairs)",
            "text": "plain text",
        }[self.name]

    @property
    def columns(self) -> tuple[str, ...]:
        """Without these a row cannot be read."""
        return tuple(name for name in (self.prompt, self.answer, self.rejected) if name is not None)


def detect(names: Sequence[str], rows: Sequence[Row], only: str | None = None) -> Format | None:
    """The format of rows with these columns, of ``only`` that name where it is given; None where none fits."""
    found = _Names(names, rows)
    candidates = (_preference(found), _listed(found), _instruction(found), _pair(found), _text(found))
    fits = (format for format in candidates if format is not None and only in (None, format.name))
    return next(fits, None)


class _Names:
    """Columns by their plain names, and what the first rows hold in them."""

    def __init__(self, names: Sequence[str], rows: Sequence[Row]) -> None:
        self.names = names
        self.by_plain = {plain_name(name): name for name in reversed(names)}
        self.rows = rows

    def first(self, candidates: Sequence[str]) -> str | None:
        return next((self.by_plain[name] for name in candidates if name in self.by_plain), None)

    def value(self, name: str) -> Any:
        """What the first row that fills the column holds."""
        return next((row.values[name] for row in self.rows if row.values.get(name) not in (None, "")), None)


def _preference(found: _Names) -> Format | None:
    chosen, rejected = found.first(CHOSEN), found.first(REJECTED)
    if chosen is None or rejected is None:
        return None
    return Format("preference", chosen, found.first(("prompt", *INSTRUCTIONS, *PROMPTS, *MESSAGES)), rejected)


def _listed(found: _Names) -> Format | None:
    """A column of lists of messages, or one whose text is a transcript."""
    name = found.first(MESSAGES)
    value = None if name is None else listed(found.value(name))
    if name is not None and isinstance(value, list):
        first = value[0] if value and isinstance(value[0], dict) else {}
        return Format("sharegpt" if "from" in first or "value" in first else "messages", name)
    for name in (found.first(TRANSCRIPTS), found.first(TEXTS)):
        if name is not None and is_transcript(found.value(name)):
            return Format("transcript", name)
    return None


def _instruction(found: _Names) -> Format | None:
    instruction, answer = found.first(INSTRUCTIONS), found.first(INSTRUCTION_ANSWERS)
    return Format("instruction", answer, instruction) if instruction is not None and answer is not None else None


def _pair(found: _Names) -> Format | None:
    prompt, completion = found.first(PROMPTS), found.first(COMPLETIONS)
    return Format("prompt-completion", completion, prompt) if prompt is not None and completion is not None else None


def _text(found: _Names) -> Format | None:
    """A text alone. Labelled texts are no such: what they are labelled with would silently be lost."""
    if any(name in found.by_plain for name in (*LABEL_NAMES["classify"], *PROMPTS, *INSTRUCTIONS)):
        return None
    name = found.first(TEXTS) or (found.names[0] if len(found.names) == 1 else None)
    return Format("text", name) if name is not None and isinstance(found.value(name), str) else None


def format_of(rows: RowFile, only: str | None = None) -> Format:
    """The format of most of a file's first rows. Raises ``UserError`` where none fits."""
    sample = list(islice(rows, LOOKED_AT))
    if rows.format in ("json", "jsonl"):
        each = (detect(list(row.values), [row], only) for row in sample)
        votes = Counter(format for format in each if format is not None)
        if votes:
            return votes.most_common(1)[0][0]
    format = detect(rows.names, sample, only)
    if format is None:
        raise UserError(_not_detected(rows, only))
    return format


def _not_detected(rows: RowFile, only: str | None) -> Problem:
    columns = ", ".join(rows.names) or "none"
    names = {plain_name(name) for name in rows.names}
    what = (
        f"not {only} data; its columns: {columns}" if only else f"no format of instruction data; its columns: {columns}"
    )
    mend = "columns prompt and completion, or instruction and output; or messages, a list of {role, content}"
    wanted: tuple[str, ...] = (*PROMPTS, *COMPLETIONS, *INSTRUCTIONS, *MESSAGES)
    if only == "preference":
        mend = "columns prompt, chosen and rejected: what is asked, the better answer and the worse one"
        wanted = (*PROMPTS, *CHOSEN, *REJECTED)
    unknown = {name: nearest(name, wanted) for name in rows.names if plain_name(name) not in wanted}
    near = [f"{name!r}: {sentence}" for name, sentence in unknown.items() if sentence.startswith("did")]
    if not rows.names and rows.is_broken:
        what, mend = "not one row can be read", "mend what is told of its lines"
    elif not rows.has_header:
        what, mend = "no names of columns in the first row", f"name them there: {mend.removeprefix('columns ')}"
    elif names & set(LABEL_NAMES["classify"]) and only != "preference":
        mend = f"labelled texts: gptloom finetune, or gptloom data instruct {rows.path} to ask for the labels in words"
    elif near:
        mend = "; ".join(near)
    return Problem(what, rows.path, mend)


def looks_like_instructions(paths: Sequence[str]) -> str | None:
    """The title of the format where one of the files holds instruction data and no column of plain text; else None."""
    for path in paths:
        try:
            rows = read_rows(path, Findings())
            format = detect(rows.names, list(islice(rows, LOOKED_AT)))
        except UserError:
            continue  # whoever reads the file says what is wrong with it
        if format is not None and format.name != "text" and "text" not in rows.names:
            return format.title
    return None


def refuse_instructions(data: Sequence[str]) -> None:
    """Raises ``UserError`` for files of prompts and answers, which are no text to read on and on.

    ``data``: files, folders and globs, each with an optional ``@WEIGHT``.
    """
    problems = []
    for path in _files(data):
        if (title := looks_like_instructions([path])) is not None:
            what = f"instruction data ({title}): prompts with answers to write, not documents"
            mend = f"gptloom sft BASE --data {path}; to read one of its columns all the same: --text-column NAME"
            problems.append(Problem(what, path, mend))
    if problems:
        raise UserError(*problems)


def _files(data: Sequence[str]) -> list[str]:
    """The files that ``data`` names, of a folder those with rows; whoever reads them says what is wrong with an entry."""
    files: list[str] = []
    for entry in data:
        name, _ = split_weight(entry)
        if Path(name).is_file():
            files.append(name)
            continue
        with suppress(UserError):
            found = [source.path for source in expand_inputs([name])]
            files += [str(path) for path in found if data_suffix(path) in TABLES]
    return files
