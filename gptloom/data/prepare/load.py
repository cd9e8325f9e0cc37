"""Reads a file for ``data prepare``: what its rows are, and what had to be done to understand them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.data.column_names import plain
from gptloom.data.findings import Findings, counted
from gptloom.data.header import is_header_or_short
from gptloom.data.inputs import data_suffix
from gptloom.data.instruction_formats import Format, conversations_of, detect, unused_columns
from gptloom.data.instruction_names import HISTORIES, INPUTS, SYSTEMS
from gptloom.data.lines import LOST_ROWS, NOT_UTF8, Decode
from gptloom.data.prepare.columns import is_usual, pairs_of
from gptloom.data.prepare.finding import Finding, Remedy, done
from gptloom.data.prepare.rows import Chats, Pairs
from gptloom.data.prepare.windows import windows_text, windows_word
from gptloom.data.rows import Row, RowFile, read_rows

MOST_BROKEN = 0.1
"""Of more broken rows than this share, the file was not understood: it is refused instead of cut to pieces."""


@dataclass(frozen=True)
class Loaded:
    """The rows, and what was found, and done already, in reading them."""

    rows: Pairs | Chats
    findings: list[Finding[Any]]


def load(path: str, decode: Decode | None = None) -> Loaded:
    """The rows of a file of examples; ``decode`` reads its lines (default: UTF-8, or Windows-1252 where all others are that).

    Raises ``UserError``: it cannot be read, or not to its end, holds preferences, has columns that nobody knows, or more
    than a tenth of its rows is broken (with the problems of all).
    """
    broken, odd = Findings(), Findings()
    file = read_rows(path, broken, is_header_or_short, decode or bytes.decode)
    kept = list(file)
    if decode is None and broken.count_of(NOT_UTF8) and (word := windows_word(path)):
        return _of_windows(path, word)
    if not kept or broken.count_of(LOST_ROWS):
        broken.check()
    unread = broken.count
    names = list(dict.fromkeys([*file.names, *(name for row in kept for name in row.values)]))
    format = detect(names, kept)
    if format is not None and format.name == "preference":
        what = "chosen and rejected answers, of which only a comparison learns"
        raise UserError(Problem(what, path, f"gptloom data check {path} --stage dpo"))
    found: list[Finding[Any]]
    rows: Pairs | Chats
    if format is not None and _is_conversation(format, names, kept):
        of_rows = [conversations_of(row, format, broken, odd) for row in kept]
        rows, found = Chats(tuple(one for some in of_rows for one in some)), _converted(file, format, names)
        unread += sum(not some for some in of_rows)
    else:
        rows, found = pairs_of(path, names, kept, format, broken)
        unread += len(kept) - len(rows)
    if broken:
        found.append(_left_out(broken, unread, len(rows)))
    if odd:
        found.append(Finding("messages", f"what is odd in some messages:\n{_lines(odd)}"))
    return Loaded(rows, [*_format(file), *_header(file), *found])


def _of_windows(path: str, word: str) -> Loaded:
    """A file that is read as Windows-1252; where that is not wanted, the rows in UTF-8 alone are left, if they are enough."""

    def without(rows: Any) -> Any:
        known = set(load(path, bytes.decode).rows.wheres)
        return rows.keep([place for place, where in enumerate(rows.wheres) if where in known])

    loaded = load(path, windows_text)
    text = f"{path} is not UTF-8 throughout; in Windows-1252, as spreadsheets save it, it says {word!r}"
    remedy = Remedy[Any](f"Read {path} as Windows-1252", lambda rows: rows, otherwise=without)
    return Loaded(loaded.rows, [loaded.findings[0], Finding("encoding", text, remedy), *loaded.findings[1:]])


def _is_conversation(format: Format, names: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether the rows say more than a prompt and a completion can."""
    if format.name in ("messages", "sharegpt", "transcript"):
        return True
    beside = {*SYSTEMS, *HISTORIES, *(INPUTS if format.name == "instruction" else ())}
    more = [name for name in names if plain(name) in beside and name not in format.columns]
    lists = sum(any(isinstance(row.values.get(name), list | dict) for name in format.columns) for row in rows)
    return 2 * lists > len(rows) or any(row.values.get(name) for row in rows for name in more)


def _format(file: RowFile) -> list[Finding[Any]]:
    """What kind of file it is; all but JSONL is converted."""
    kind = file.format.upper()
    text = f"{file.path} is a {kind} file" + (f"; {file.note}" if file.note else "")
    if data_suffix(Path(file.path)) == ".jsonl" and file.format == "jsonl":
        return [Finding("format", text)]
    return [done("format", text, f"Convert {kind} to JSONL")]


def _header(file: RowFile) -> list[Finding[Any]]:
    """Names that nobody knows were told from a row by their looks only: a person is to see what was taken for names."""
    if file.format not in ("csv", "tsv", "xlsx") or not file.has_header or any(map(is_usual, file.names)):
        return []
    told = ", ".join(map(repr, file.names))
    text = f"the first row, {told}, looks like names of columns; if it is an example, write prompt,completion above it"
    return [Finding("header", text)]


def _converted(file: RowFile, format: Format, names: Sequence[str]) -> list[Finding[Any]]:
    """Everything but OpenAI's messages is written as messages; columns that they have no place for go."""
    if format.name == "messages" and format.answer == "messages":
        found: list[Finding[Any]] = [Finding("messages", f"conversations: {format.title}")]
    else:
        found = [done("messages", f"conversations: {format.title}", "Write them as messages (OpenAI's chat format)")]
    unused = unused_columns(format, names)
    if unused:
        told = ", ".join(map(repr, unused))
        found.append(done("columns", f"columns that are no part of a conversation: {told}", f"Leave out {told}"))
    return found


def _left_out(broken: Findings, unread: int, whole: int) -> Finding[Any]:
    """Raises ``UserError`` where too much is broken."""
    if unread > MOST_BROKEN * (unread + whole):
        broken.check()
    rows = counted(unread, "broken row")
    return done("broken rows", f"{rows}:\n{_lines(broken)}", f"Leave out {rows}")


def _lines(findings: Findings) -> str:
    return "\n".join(f"    {problem}".replace("\n", "\n    ") for problem in findings.problems())
