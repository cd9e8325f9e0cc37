"""Reads a file for ``data prepare``: what its rows are, and what had to be done to understand them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.data.column_names import plain
from gptloom.data.findings import Findings, counted
from gptloom.data.inputs import data_suffix
from gptloom.data.instruction_formats import Format, conversation_of, detect
from gptloom.data.prepare.columns import pairs_of
from gptloom.data.prepare.finding import Finding, done
from gptloom.data.prepare.rows import Chats, Pairs
from gptloom.data.rows import Row, RowFile, read_rows

MOST_BROKEN = 0.1
"""Of more broken rows than this share, the file was not understood: it is refused instead of cut to pieces."""


@dataclass(frozen=True)
class Loaded:
    """The rows, and what was found, and done already, in reading them."""

    rows: Pairs | Chats
    findings: list[Finding[Any]]


def load(path: str) -> Loaded:
    """The rows of a file of examples.

    Raises ``UserError``: it cannot be read, holds preferences, has columns that nobody knows, or more than a tenth of
    its rows is broken (with the problems of all).
    """
    broken = Findings()
    file = read_rows(path, broken)
    kept = list(file)
    names, kept, spelled = _plainly_named(file, kept)
    format = detect(names, kept)
    if format == "preference":
        what = "chosen and rejected answers, of which only a comparison learns"
        raise UserError(Problem(what, path, f"gptloom data check {path} --stage dpo"))
    found = [*_format(file, format), *spelled]
    rows: Pairs | Chats
    if format in ("messages", "sharegpt", "transcript", "instruction"):
        conversations = (conversation_of(row, format, broken) for row in kept)
        rows = Chats(tuple(one for one in conversations if one is not None))
    else:
        rows, told = pairs_of(path, names, kept, broken)
        found += told
    if broken:
        found.append(_left_out(broken, len(rows)))
    return Loaded(rows, found)


def _plainly_named(file: RowFile, rows: Sequence[Row]) -> tuple[list[str], list[Row], list[Finding[Any]]]:
    """Names without stray capitals and spaces (``Messages ``), where that leaves them apart."""
    names = list(dict.fromkeys([*file.names, *(name for row in rows for name in row.values)]))
    simple = {name: plain(name) or name for name in names}
    changed = [name for name in names if simple[name] != name]
    if not changed or len(set(simple.values())) < len(names):
        return names, list(rows), []
    told = ", ".join(f"{name!r} as {simple[name]}" for name in changed)
    finding: Finding[Any] = done("columns", f"names with capitals, spaces or signs: {told}", f"Read {told}")
    return (
        [*simple.values()],
        [replace(row, values={simple[k]: v for k, v in row.values.items()}) for row in rows],
        [finding],
    )


def _format(file: RowFile, format: Format | None) -> list[Finding[Any]]:
    """What kind of file it is; all but JSONL is converted."""
    named = file.format.upper()
    converted = data_suffix(Path(file.path)) != ".jsonl"
    text = f"{file.path} is formatted as {named}"
    if not converted:
        return [Finding("format", text)]
    return [done("format", text, f"Convert {named} to JSONL")]


def _left_out(broken: Findings, whole: int) -> Finding[Any]:
    """Raises ``UserError`` where too much is broken."""
    if broken.count > MOST_BROKEN * (broken.count + whole):
        broken.check()
    told = "\n".join(f"    {problem}".replace("\n", "\n    ") for problem in broken.problems())
    rows = counted(broken.count, "broken row")
    return done("broken rows", f"{rows}:\n{told}", f"Leave out {rows}")
