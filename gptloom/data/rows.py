"""Rows of a user's file one at a time, however large: csv, tsv, json, jsonl, txt, conll, parquet, xlsx, also packed.

Broken rows are found (file, line, what, mend) and left out; reading goes on behind them. Of jsonl, csv, tsv, txt,
conll and parquet no more than a row (or a block of parquet) is held; json and xlsx are held whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Literal

from gptloom.config.errors import Problem, UserError
from gptloom.data.delimited import Dialect, csv_dialect, tsv_dialect
from gptloom.data.findings import Findings, counted
from gptloom.data.header import LOOKED_AT, HeaderRule, is_header
from gptloom.data.inputs import REFUSED, data_suffix, similar_names
from gptloom.data.json_rows import json_rows, jsonl_rows
from gptloom.data.lines import Decode, Find, Line, Place, text_lines
from gptloom.data.reading import open_bytes
from gptloom.data.sheets import parquet_names, parquet_rows, xlsx_rows

FileFormat = Literal["csv", "tsv", "jsonl", "json", "parquet", "xlsx", "txt", "conll"]
HEADED: tuple[FileFormat, ...] = ("csv", "tsv", "xlsx", "conll")
"""Those whose first row may hold names."""

TABLES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
SUFFIXES: dict[str, FileFormat] = {**TABLES, ".txt": "txt", ".md": "txt"}
SPEAKERS = ("Human:", "User:", "Assistant:", "System:")
"""How turns of a transcript begin."""

HEAD_BYTES = 1 << 16
_BINARY_MARKS: dict[bytes, tuple[str, str]] = {  # first bytes: (what it is, the mend)
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"PK\x03\x04": ("an xlsx workbook or a zip", "name a workbook .xlsx; unpack a zip"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook (xls)", "save it as .xlsx or as CSV UTF-8"),
    codecs.BOM_UTF16_LE: ("text in utf-16", "convert it: iconv -f utf-16 -t utf-8 FILE > NEW (Excel: CSV UTF-8)"),
    codecs.BOM_UTF16_BE: ("text in utf-16", "convert it: iconv -f utf-16 -t utf-8 FILE > NEW (Excel: CSV UTF-8)"),
}
_LENGTH_MENDS: dict[FileFormat, str] = {
    "tsv": "a cell of a tsv holds no tab and no line end, quotes are letters there: save as csv",
    "conll": "as many words on every line, and a blank line after each sentence",
}
_EMPTY = ("", None)
_FEWEST_CELLS = 2  # of a row that ends early: one alone is a piece of a cell whose line ends are not quoted, or a note
_FIRST_OBJECTS = 100  # rows whose keys are the names of a JSON file
_NO_ROWS_MEND = "write rows into it, or name another"


@dataclass(frozen=True)
class Row:
    where: str  # file:line
    values: dict[str, Any]


class RowFile:
    """The rows of one file, as often as wanted; what is broken is found once."""

    def __init__(
        self,
        path: str,
        format: FileFormat,
        findings: Findings,
        has_names: HeaderRule = is_header,
        decode: Decode = bytes.decode,
    ) -> None:
        """``has_names`` is asked about the first row of a csv, tsv, xlsx or conll; ``decode`` reads each line of text."""
        self.path = path
        self.format = format
        self.has_header = format not in (*HEADED, "txt")  # JSON and Parquet name their columns
        self.names: tuple[str, ...] = ()  # of JSON: the keys of the first rows; "1", "2", ... without a header
        self._findings = findings
        self._decode = decode
        self._found_to: dict[str, Place] = {}  # of each kind, the last place where it was found
        self._dialect = Dialect(",")
        self.note = ""  # what is unusual in how the file was taken
        if format in HEADED:
            self._read_header(has_names)
        elif format == "parquet":
            self.names = parquet_names(path)
            self._check_names(path)
        elif format == "txt":
            self.names = ("text",)
        else:
            keys = (key for _, values in islice(self.placed(), _FIRST_OBJECTS) for key in values)
            self.names = tuple(dict.fromkeys(keys))

    @property
    def is_broken(self) -> bool:
        """Whether anything was found so far that is left out."""
        return bool(self._found_to)

    def __iter__(self) -> Iterator[Row]:
        for place, values in self.placed():
            yield Row(place_of(self.path, self.format, place), values)

    def placed(self) -> Iterator[tuple[int | Place, dict[str, Any]]]:
        """Every row with its place, which ``place_of`` spells."""
        if self.format == "jsonl":
            yield from jsonl_rows(self._lines(self._find), self._find)
        elif self.format == "json":
            yield from json_rows(self._lines(self._find), self.path, self._find, self._take_note)
        elif self.format == "parquet":
            yield from parquet_rows(self.path)
        elif self.format == "txt":
            yield from _text_rows(self._lines(self._find))
        else:
            yield from self._named(self._cells(self._find))

    def no_rows(self) -> Problem:
        """What to say of a file without any."""
        what = "no rows, only names of columns" if self.has_header and self.format != "json" else "no rows"
        return Problem(what, where=self.path, mend=_NO_ROWS_MEND)

    def _find(self, number: int | Place, kind: str, what: str, mend: str | None) -> None:
        place = number if isinstance(number, Place) else Place(number, 0)
        if place > self._found_to.get(kind, Place(0, 0)):
            self._findings.add(kind, what, place_of(self.path, self.format, number), mend)
            self._found_to[kind] = place

    def _take_note(self, note: str) -> None:
        self.note = note

    def _lines(self, find: Find) -> Iterator[Line]:
        return text_lines(Path(self.path), find, self._decode)

    # ---- tables without names in their rows --------------------------------------------------------------------------

    def _cells(self, find: Find) -> Iterator[tuple[int, list[Any]]]:
        if self.format == "xlsx":
            yield from self._sheet
        elif self.format == "conll":
            lines = (line for line in self._lines(find) if line.sound and line.text.strip())
            yield from ((line.number, line.text.split()) for line in lines)
        else:
            yield from self._dialect.cells(self._lines(find), find)

    @cached_property
    def _sheet(self) -> list[tuple[int, list[Any]]]:
        return xlsx_rows(self.path)

    def _read_header(self, has_names: HeaderRule) -> None:
        if self.format in ("csv", "tsv"):
            looked_at = csv_dialect if self.format == "csv" else tsv_dialect
            self._dialect = looked_at(self._lines(_unheard))
            self.note = self._dialect.note
        rows = self._cells(_unheard)
        number, first = next(rows, (1, []))
        below = [cells for _, cells in islice(rows, LOOKED_AT)]
        filled = _filled_columns([first, *below])
        whole = [
            cells for cells in below if len(cells) >= filled and all(cell not in _EMPTY for cell in cells[:filled])
        ]
        # a note below the table, in its first cell only, says nothing about the columns
        self.has_header = has_names(first[:filled], [cells[:filled] for cells in whole or below])
        self.names = tuple(str(i + 1) for i in range(len(first)))
        if self.has_header:
            cells = (str(cell).strip() if cell is not None else "" for cell in first[:filled])
            self.names = tuple(cell or name for cell, name in zip(cells, self.names, strict=False))
        self._check_names(place_of(self.path, self.format, number))

    def _check_names(self, where: str) -> None:
        doubled = dict.fromkeys(name for name in self.names if self.names.count(name) > 1)
        if doubled:
            mend = "name each column differently"
            raise UserError(*(Problem(f"two columns are called {name!r}", where, mend) for name in doubled))

    def _named(self, rows: Iterable[tuple[int, list[Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
        wanted = len(self.names)
        mend = _LENGTH_MENDS.get(self.format, "quote a cell that holds commas or line ends")
        for i, (number, cells) in enumerate(rows):
            if i == 0 and self.has_header:
                continue
            fewest = wanted if self.format == "conll" else min(wanted, _FEWEST_CELLS)
            if len(cells) < fewest or any(cells[wanted:]):
                first = "header" if self.has_header else "first row"
                what = f"{counted(len(cells), 'cell')} where the {first} has {wanted}"
                self._find(number, "rows of another length", what, mend)
            else:  # spreadsheets add empty cells at the end, and leave them out
                yield number, dict(zip_longest(self.names, cells[:wanted], fillvalue=""))


def _filled_columns(rows: Sequence[Sequence[Any]]) -> int:
    """How many columns there are up to the last that holds anything."""
    return max((i + 1 for cells in rows for i, cell in enumerate(cells) if cell not in _EMPTY), default=0)


def place_of(path: str, format: FileFormat, number: int | Place) -> str:
    """The place of a row for a person: ``train.jsonl:17``, ``train.parquet row 17``, ``train.json:1 item 17``."""
    if isinstance(number, Place):
        return f"{path}:{number.line} item {number.item}"
    return f"{path} row {number}" if format in ("parquet", "xlsx") else f"{path}:{number}"


def read_rows(
    path: str, findings: Findings, has_names: HeaderRule = is_header, decode: Decode = bytes.decode
) -> RowFile:
    """The rows of a file, by its suffix (also before .gz, .xz, .zst). What is broken in them goes to ``findings``.

    ``has_names`` says whether the first row of a csv, tsv or xlsx holds names. Text is UTF-8 unless ``decode`` knows better.
    Raises ``UserError``: no such file, nothing in it, another encoding or kind of file.
    """
    format = known_format(path, read_head(path), SUFFIXES)
    if format is None:
        refused = ("its name does not say what it is", f"give it one of the ends {' '.join(SUFFIXES)}")
        what, mend = REFUSED.get(data_suffix(Path(path)), refused)
        raise UserError(Problem(what, where=path, mend=mend.replace("FILE", Path(path).with_suffix("").name)))
    rows = RowFile(path, format, findings, has_names, decode)
    if next(iter(rows), None) is None and not rows.is_broken:
        raise UserError(rows.no_rows())
    return rows


def read_head(path: str) -> bytes:
    """The first bytes of a file. Raises ``UserError``: no such file, or nothing in it."""
    file = Path(path)
    if not file.exists():
        raise UserError(Problem("no such file", where=path, mend=similar_names(file)))
    if file.is_dir():
        raise UserError(Problem("a folder, not a file with rows", where=path, mend="name the file"))
    try:
        with open_bytes(file) as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", path, "check its permissions")) from None
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise UserError(Problem("empty file", where=path, mend=_NO_ROWS_MEND))
    return head


def known_format(path: str, head: bytes, suffixes: Mapping[str, FileFormat]) -> FileFormat | None:
    """The format by the suffix, of JSON also by the content; None where neither says it.

    Raises ``UserError`` for what begins like no UTF-8 text, and should be one.
    """
    format = suffixes.get(data_suffix(Path(path)))
    if format in ("parquet", "xlsx"):
        return format
    for mark, (what, mend) in _BINARY_MARKS.items():
        if head.startswith(mark):
            raise UserError(Problem(f"{what}, not UTF-8 text", where=path, mend=mend.replace("FILE", path)))
    text = head.decode(errors="replace").removeprefix("\ufeff").lstrip()
    if format in ("json", "jsonl") or (format is None and text[:1] in ("{", "[")):
        return "jsonl" if _is_by_line(text, format) else "json"
    return format


def _is_by_line(text: str, format: FileFormat | None) -> bool:
    """Whether JSON has an object on each line, and is no list and no object over several lines."""
    first, _, rest = text.partition("\n")
    first = first.rstrip()
    if first.startswith("[") or first == "{":
        return False
    return format == "jsonl" or (first.endswith("}") and bool(rest.strip()))


def _unheard(number: int | Place, kind: str, what: str, mend: str | None) -> None:
    """Takes what will be found again when the rows are read."""


# ---- rows of each kind of file ---------------------------------------------------------------------------------------


def _text_rows(lines: Iterable[Line]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line is a text; a file that begins with ``Human:`` is one transcript."""
    lines = iter(lines)
    first = next((line for line in lines if line.text.strip()), None)
    if first is None:
        return
    if first.text.lstrip().startswith(SPEAKERS):
        parts = [first, *lines]
        if all(line.sound for line in parts):
            yield first.number, {"text": "\n".join(_apart(line.text) for line in parts)}
        return
    yield from (
        (line.number, {"text": line.text}) for line in chain([first], lines) if line.sound and line.text.strip()
    )


def _apart(line: str) -> str:
    """A line of a transcript, with a blank one before each turn."""
    return f"\n\n{line.lstrip()}" if line.lstrip().startswith(SPEAKERS) else line
