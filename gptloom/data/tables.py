"""A user's table of labelled rows, held as a whole: csv, tsv, jsonl, json, parquet, xlsx or conll, with every place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.data.findings import Findings
from gptloom.data.header import HeaderRule, is_header
from gptloom.data.lines import Place
from gptloom.data.rows import HEAD_BYTES, HEADED, TABLES, FileFormat, RowFile, known_format, place_of, read_head


@dataclass(frozen=True)
class Table:
    """Rows of a file by the names of their columns; those of a file without header are "1", "2", ... ."""

    path: str
    names: tuple[str, ...]
    rows: list[dict[str, Any]]  # every row has every name; None where a JSON row lacks it
    places: Sequence[int | Place]  # of each row: its line, or its number
    format: FileFormat
    has_header: bool
    note: str = ""  # what is unusual in how the file was taken

    def where(self, i: int) -> str:
        """The place of row ``i`` for a person: ``train.tsv:17``, or ``train.parquet row 17``."""
        return place_of(self.path, self.format, self.places[i])

    @property
    def how(self) -> str:
        """How the file was taken: ``tsv, no header``."""
        header = "names in the first row" if self.has_header else "no header"
        parts = (self.format, header if self.format in ("csv", "tsv", "xlsx") else "", self.note)
        return ", ".join(part for part in parts if part)


def read_table(path: str, header: bool | None = None, named: Collection[str] = ()) -> Table:
    """The table in a file, by its suffix (also before .gz, .xz, .zst), or by its content where that says nothing.

    ``header`` says whether the first row of a csv, tsv or xlsx holds names; None: it is looked at, where the columns
    ``named`` by the user decide. A tsv knows no quotes unless a spreadsheet wrote it, a csv does (also with semicolons,
    where the comma is in numbers). Lines of as many words each, with blank ones between them, are tagged words (conll).
    Text is UTF-8, with or without byte order mark.
    Raises ``UserError``: no such file, nothing in it, another encoding, broken rows (the first few, and how many).
    """
    head = read_head(path)
    format = known_format(path, head, TABLES) or _format_of_content(path, head)
    if header is not None and format not in HEADED:
        what = f"{format} names its columns itself: --header and --no-header do nothing"
        raise UserError(Problem(what, where=path, mend="leave them out"))
    findings = Findings()
    file = RowFile(path, format, findings, _rule(format, header, named))
    places: list[int | Place] = []
    rows: list[dict[str, Any]] = []
    for place, values in file.placed():
        places.append(place)
        rows.append(values)
    findings.check()
    if not any(rows):  # nor any with a column
        raise UserError(file.no_rows())
    names = file.names
    if format in ("json", "jsonl"):
        names = tuple(dict.fromkeys(name for row in rows for name in row))
        rows = [{name: row.get(name) for name in names} for row in rows]
    return Table(path, names, rows, places, format, file.has_header, file.note)


def _rule(format: FileFormat, header: bool | None, named: Collection[str]) -> HeaderRule:
    if header is None and format != "conll":  # whose first row is a word like the others
        return partial(is_header, named=named)
    return lambda first, below: bool(header)


def _format_of_content(path: str, head: bytes) -> FileFormat:
    if b"\0" in head:
        what = f"binary, not text: a NUL byte at byte {head.index(0):,}"
        raise UserError(Problem(what, where=path, mend="convert it"))
    text = head.decode(errors="replace")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    if "\t" in text.partition("\n")[0]:
        return "tsv"
    if len(head) == HEAD_BYTES:
        text = text.rpartition("\n")[0]  # the last line is cut
    return "conll" if _is_conll(text) else "csv"


def _is_conll(text: str) -> bool:
    """Whether lines are as many words each, a space between them, and blank lines stand between some: tagged words."""
    by_line = [line.split() for line in text.strip().split("\n")]
    widths = {len(words) for words in by_line if words}
    commas = all("," in "".join(words) for words in by_line if words)
    return len(widths) == 1 and widths != {1} and not all(by_line) and not commas
