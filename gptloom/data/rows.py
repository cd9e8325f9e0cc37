"""Rows of a user's file one at a time, however large it is: csv, tsv, json, jsonl, txt, parquet, xlsx, also packed.

Broken rows are found (file, line, what, mend) and left out; reading goes on behind them. Of jsonl, csv, tsv, txt and
parquet no more than a row (or a block of parquet) is held; json and xlsx are held whole.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from gptloom.config.errors import Problem, UserError
from gptloom.data.column_names import plain
from gptloom.data.findings import Findings, counted
from gptloom.data.header import is_header
from gptloom.data.inputs import REFUSED, data_suffix, similar_names
from gptloom.data.instruction_names import HEADERS
from gptloom.data.json_rows import json_rows, jsonl_rows
from gptloom.data.lines import Find, Line, Place, text_lines
from gptloom.data.reading import open_bytes
from gptloom.data.sheets import xlsx_rows
from gptloom.data.tables import BINARY_MARKS, FORMATS, TableFormat

FileFormat = TableFormat | Literal["txt"]

SUFFIXES: dict[str, FileFormat] = {**FORMATS, ".txt": "txt", ".md": "txt"}
SPEAKERS = ("Human:", "User:", "Assistant:", "System:")
"""How turns of a transcript begin."""

_HEAD_BYTES = 1 << 16
_LOOKED_AT = 100  # rows whose keys are the names of a JSON file
_BELOW_HEADER = 1000
_PARQUET_ROWS = 1024
_LONGEST_CELL = 1 << 26  # characters; a quote that is never closed must not swallow a whole large file
_NO_ROWS_MEND = "write rows into it, or name another"


@dataclass(frozen=True)
class Row:
    where: str  # file:line
    values: dict[str, Any]


class RowFile:
    """The rows of one file, as often as wanted; what is broken is found once."""

    def __init__(self, path: str, format: FileFormat, findings: Findings, header: bool | None) -> None:
        self.path = path
        self.format = format
        self.has_header = format not in ("csv", "tsv", "xlsx", "txt")  # JSON and Parquet name their columns
        self.names: tuple[str, ...] = ()  # of JSON: the keys of the first rows; "1", "2", ... without a header
        self._findings = findings
        self._found_to: dict[str, Place] = {}  # of each kind, the last place where it was found
        self._delimiter = ","
        if format in ("csv", "tsv", "xlsx"):
            self._read_header(header)
        elif format == "parquet":
            self.names = tuple(_parquet_names(path))
        elif format == "txt":
            self.names = ("text",)
        else:
            keys = (key for _, values in islice(self._rows(), _LOOKED_AT) for key in values)
            self.names = tuple(dict.fromkeys(keys))

    @property
    def is_broken(self) -> bool:
        """Whether anything was found so far that is left out."""
        return bool(self._found_to)

    def where(self, number: int | Place) -> str:
        """The place of a row for a person: ``train.jsonl:17``, ``train.parquet row 17``, ``train.json:1 item 17``."""
        if isinstance(number, Place):
            return f"{self.path}:{number.line} item {number.item}"
        return f"{self.path} row {number}" if self.format in ("parquet", "xlsx") else f"{self.path}:{number}"

    def __iter__(self) -> Iterator[Row]:
        for number, values in self._rows():
            yield Row(self.where(number), values)

    def _find(self, number: int | Place, kind: str, what: str, mend: str | None) -> None:
        place = number if isinstance(number, Place) else Place(number, 0)
        if place > self._found_to.get(kind, Place(0, 0)):
            self._findings.add(kind, what, self.where(number), mend)
            self._found_to[kind] = place

    def _rows(self) -> Iterator[tuple[int | Place, dict[str, Any]]]:
        if self.format == "jsonl":
            yield from jsonl_rows(text_lines(Path(self.path), self._find), self._find)
        elif self.format == "json":
            yield from json_rows(text_lines(Path(self.path), self._find), self._find)
        elif self.format == "parquet":
            yield from _parquet_rows(self.path)
        elif self.format == "txt":
            yield from _text_rows(text_lines(Path(self.path), self._find))
        else:
            yield from self._named(self._cells(self._find))

    # ---- tables without names in their rows --------------------------------------------------------------------------

    def _cells(self, find: Find) -> Iterator[tuple[int, list[Any]]]:
        if self.format == "xlsx":
            with open_bytes(Path(self.path)) as stream:
                sheet = xlsx_rows(self.path, stream.read())
            yield from zip(sheet.places, sheet.rows, strict=True)
        elif self.format == "tsv":
            lines = text_lines(Path(self.path), find)
            yield from ((line.number, line.text.split("\t")) for line in lines if line.sound and line.text.strip())
        else:
            yield from _csv_cells(text_lines(Path(self.path), find), self._delimiter, find)

    def _read_header(self, header: bool | None) -> None:
        if self.format == "csv":
            self._delimiter = _delimiter_of(Path(self.path))
        rows = self._cells(_unheard)
        number, first = next(rows, (1, []))
        below = [cells for _, cells in islice(rows, _BELOW_HEADER)]
        whole = [cells for cells in below if len(cells) == len(first) and all(cell not in ("", None) for cell in cells)]
        known = any(isinstance(cell, str) and plain(cell) in HEADERS for cell in first)
        # a note below the table, in its first cell only, says nothing about the columns
        self.has_header = (known or is_header(first, whole or below)) if header is None else header
        self.names = tuple(str(i + 1) for i in range(len(first)))
        if self.has_header:
            cells = (str(cell).strip() if cell is not None else "" for cell in first)
            self.names = tuple(cell or name for cell, name in zip(cells, self.names, strict=True))
        doubled = next((name for name in self.names if self.names.count(name) > 1), None)
        if doubled is not None:
            what = f"two columns are called {doubled!r}"
            raise UserError(Problem(what, self.where(number), "name each column differently"))

    def _named(self, rows: Iterable[tuple[int, list[Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
        wanted = len(self.names)
        mend = "quote a cell that holds commas or line ends"
        if self.format == "tsv":
            mend = "a cell of a tsv holds no tab and no line end, quotes are letters there: save as csv"
        for i, (number, cells) in enumerate(rows):
            if i == 0 and self.has_header:
                continue
            if len(cells) < wanted or any(cells[wanted:]):  # spreadsheets add empty cells at the end
                first = "header" if self.has_header else "first row"
                what = f"{counted(len(cells), 'cell')} where the {first} has {wanted}"
                self._find(number, "rows of another length", what, mend)
            else:
                yield number, dict(zip(self.names, cells, strict=False))


def read_rows(path: str, findings: Findings, *, header: bool | None = None) -> RowFile:
    """The rows of a file, by its suffix (also before .gz, .xz, .zst). What is broken in them goes to ``findings``.

    ``header`` says whether a csv, tsv or xlsx begins with names; None: it is looked at. Text is UTF-8.
    Raises ``UserError``: no such file, nothing in it, another encoding or kind of file.
    """
    file = Path(path)
    format = _format_of(path, _head(file))
    if header is not None and format not in ("csv", "tsv", "xlsx"):
        raise UserError(Problem(f"{format} files have no header", where=path, mend="leave it out"))
    rows = RowFile(path, format, findings, header)
    if next(iter(rows), None) is None and not rows.is_broken:
        what = "no rows, only names of columns" if rows.has_header and format != "json" else "no rows"
        raise UserError(Problem(what, where=path, mend=_NO_ROWS_MEND))
    return rows


def _head(file: Path) -> bytes:
    path = str(file)
    if not file.exists():
        raise UserError(Problem("no such file", where=path, mend=similar_names(file)))
    if file.is_dir():
        raise UserError(Problem("a folder, not a file with rows", where=path, mend="name the file"))
    try:
        with open_bytes(file) as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", path, "check its permissions")) from None
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise UserError(Problem("empty file", where=path, mend=_NO_ROWS_MEND))
    return head


def _format_of(path: str, head: bytes) -> FileFormat:
    suffix = data_suffix(Path(path))
    format = SUFFIXES.get(suffix)
    if format in ("parquet", "xlsx"):
        return format
    for mark, (what, mend) in BINARY_MARKS.items():
        if head.startswith(mark):
            raise UserError(Problem(f"{what}, not UTF-8 text", where=path, mend=mend.replace("FILE", path)))
    text = head.decode(errors="replace").removeprefix("\ufeff").lstrip()
    if format in ("json", "jsonl") or (format is None and text[:1] in ("{", "[")):
        return "jsonl" if _is_by_line(text, format) else "json"
    if format is None:
        known = " ".join(SUFFIXES)
        what, mend = REFUSED.get(suffix, ("its name does not say what it is", f"give it one of the ends {known}"))
        raise UserError(Problem(what, where=path, mend=mend.replace("FILE", Path(path).with_suffix("").name)))
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


def _delimiter_of(path: Path) -> str:
    first = next((line.text for line in text_lines(path, _unheard) if line.text.strip()), "")
    return next((sign for sign in ",;\t" if sign in first), ",")


class _Feed:
    """The lines a csv reader takes, and whether all of the row it is at were sound."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.number = 0
        self.sound = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        self.sound &= line.sound
        return line.text + "\n"


def _csv_cells(lines: Iterator[Line], delimiter: str, find: Find) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_LONGEST_CELL)
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        begin, feed.sound = feed.number + 1, True
        try:
            cells = next(reader, None)
        except csv.Error as error:
            what = "broken csv: " + _worded(error)
            mend = 'quote cells that hold commas or quotes, and double the quotes in them: "so ""called"" cells"'
            find(begin, "rows that are no csv", what, mend)
            continue
        if cells is None:
            return
        if feed.sound and any(cell.strip() for cell in cells):
            yield begin, cells


def _worded(error: csv.Error) -> str:
    if "unexpected end of data" in str(error) or "field larger" in str(error):
        return "a quote that opens in this row is never closed"
    return str(error)


def _parquet_file(stream: IO[bytes], path: str) -> Any:
    """Raises ``UserError``: no pyarrow, or no Parquet file."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(Problem("reading Parquet needs pyarrow", path, "pip install 'gptloom[data]'")) from None
    if data_suffix(Path(path)) != Path(path).suffix.lower():  # packed around: Parquet is read from its end
        stream = io.BytesIO(stream.read())
    try:
        return parquet.ParquetFile(stream)
    except (ArrowException, OSError) as error:
        raise UserError(Problem(f"not a Parquet file: {error}", where=path)) from None


def _parquet_names(path: str) -> Sequence[str]:
    with open_bytes(Path(path)) as stream:
        return list(_parquet_file(stream, path).schema_arrow.names)


def _parquet_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_bytes(Path(path)) as stream:
        batches = _parquet_file(stream, path).iter_batches(batch_size=_PARQUET_ROWS)
        yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1)
