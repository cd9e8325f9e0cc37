"""A user's table of labelled rows: csv, tsv, jsonl, json, parquet or xlsx, with the place of every row."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gptloom.config.errors import Problem, UserError
from gptloom.data.findings import Findings
from gptloom.data.header import is_header
from gptloom.data.inputs import COMPRESSIONS, data_suffix, similar_names
from gptloom.data.reading import open_bytes
from gptloom.data.sheets import Sheet, parquet_rows, xlsx_rows

TableFormat = Literal["csv", "tsv", "jsonl", "json", "parquet", "xlsx"]
FORMATS: dict[str, TableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
_BY_LINE = ("csv", "tsv", "jsonl", "conll")
BINARY_MARKS: dict[bytes, tuple[str, str]] = {  # first bytes: (what it is, the mend)
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"PK\x03\x04": ("an xlsx workbook or a zip", "name a workbook .xlsx; unpack a zip"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook (xls)", "save it as .xlsx or as CSV UTF-8"),
    codecs.BOM_UTF16_LE: ("text in utf-16", "convert it: iconv -f utf-16 -t utf-8 FILE > NEW (Excel: CSV UTF-8)"),
    codecs.BOM_UTF16_BE: ("text in utf-16", "convert it: iconv -f utf-16 -t utf-8 FILE > NEW (Excel: CSV UTF-8)"),
}


@dataclass(frozen=True)
class Table:
    """Rows of a file by the names of their columns; those of a file without header are "1", "2", ... ."""

    path: str
    names: tuple[str, ...]
    rows: list[dict[str, Any]]  # every row has every name; None where a JSON row lacks it
    places: Sequence[int]  # of each row: its line, or its number
    format: str
    has_header: bool

    def where(self, i: int) -> str:
        """The place of row ``i`` for a person: ``train.tsv:17``, or ``train.parquet row 17``."""
        return f"{self.path}:{self.places[i]}" if self.format in _BY_LINE else f"{self.path} row {self.places[i]}"

    @property
    def how(self) -> str:
        """How the file was taken: ``tsv, no header``."""
        if self.format not in ("csv", "tsv", "xlsx"):
            return self.format
        return f"{self.format}, {'names in the first row' if self.has_header else 'no header'}"


def read_table(path: str, header: bool | None = None, named: Collection[str] = ()) -> Table:
    """The table in a file, by its suffix (also before .gz, .xz, .zst), or by its content where that says nothing.

    ``header`` says whether the first row of a csv, tsv or xlsx holds names; None: it is looked at, where the columns
    ``named`` by the user decide. A tsv knows no quotes, a csv does (also with semicolons, as spreadsheets write it
    where the comma is in numbers). Lines of as many words each, with blank ones between them, are tagged words (conll).
    Text is UTF-8, with or without byte order mark.
    Raises ``UserError``: no such file, nothing in it, another encoding, broken rows (the first few, and how many).
    """
    file = Path(path)
    if not file.exists():
        raise UserError(Problem("no such file", where=path, mend=similar_names(file)))
    if file.is_dir():
        raise UserError(Problem("a folder, not a file with rows", where=path, mend="name the file"))
    try:
        with open_bytes(file) as stream:
            raw = stream.read()
    except OSError as error:
        mend = "check its permissions"
        raise UserError(Problem(f"cannot be read: {error.strerror}", where=path, mend=mend)) from None
    if not raw.strip():
        raise UserError(Problem("empty file", where=path, mend="write rows into it, or name another"))
    format: str | None = FORMATS.get(data_suffix(file))
    if format == "parquet":
        return _with_names(path, format, parquet_rows(path, raw), True)
    if format == "xlsx":
        return _with_header(path, format, xlsx_rows(path, raw), header, named)
    text = _decoded(path, raw)
    format = format or _format_of(text)
    if format == "json" and _first_line_is_a_row(text):
        format = "jsonl"
    if format in ("json", "jsonl"):
        if header is not None:
            raise UserError(Problem("JSON names its columns in every row", where="--header", mend="leave it out"))
        return _with_names(path, format, _json_rows(path, text) if format == "json" else _jsonl_rows(path, text), True)
    if format == "csv":
        return _with_header(path, format, _csv_rows(path, text), header, named)
    if format == "conll":
        return _with_header(path, format, _split_rows(text, None), bool(header), named)
    return _with_header(path, format, _split_rows(text, "\t"), header, named)


# ---- from rows to a table --------------------------------------------------------------------------------------------


def _with_names(path: str, format: str, sheet: Sheet, has_header: bool) -> Table:
    if not sheet.rows:
        raise UserError(Problem("no rows, only names of columns", where=path, mend="write rows into it"))
    names = sheet.names
    rows = [dict(zip(names, cells, strict=True)) for cells in sheet.rows]
    return Table(path, tuple(names), rows, sheet.places, format, has_header)


def _with_header(path: str, format: str, sheet: Sheet, header: bool | None, named: Collection[str]) -> Table:
    """Names from the first row where it holds names, else numbers; every row must be as long as the first."""
    if not sheet.rows:
        raise UserError(Problem("empty file", where=path, mend="write rows into it, or name another"))
    first = sheet.rows[0]
    has_header = is_header(first, sheet.rows[1:], named) if header is None else header
    names = [str(i + 1) for i in range(len(first))]
    if has_header:
        names = [str(cell).strip() if cell not in ("", None) else names[i] for i, cell in enumerate(first)]
    _check_shape(path, format, names, sheet, has_header)
    begin = int(has_header)
    return _with_names(path, format, Sheet(names, sheet.rows[begin:], sheet.places[begin:]), has_header)


def _check_shape(path: str, format: str, names: Sequence[str], sheet: Sheet, has_header: bool) -> None:
    findings = Findings()
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        findings.add(
            "names", f"two columns are called {name!r}", f"{path}:{sheet.places[0]}", "name each column differently"
        )
    mend = "quote a cell that holds commas or line ends"
    if format == "tsv":
        mend = "a cell of a tsv holds no tab and no line end, quotes are letters there: save as csv"
    for cells, place in zip(sheet.rows, sheet.places, strict=True):
        if len(cells) != len(names):
            what = f"{len(cells)} cells where the {'header' if has_header else 'first row'} has {len(names)}"
            findings.add("rows of another length", what, f"{path}:{place}", mend)
    findings.check()


# ---- text formats ----------------------------------------------------------------------------------------------------


def _decoded(path: str, raw: bytes) -> str:
    for mark, (what, mend) in BINARY_MARKS.items():
        if raw.startswith(mark):
            raise UserError(Problem(f"{what}, not a table in UTF-8 text", where=path, mend=mend.replace("FILE", path)))
    if b"\0" in raw:
        place = raw.index(b"\0")
        raise UserError(Problem(f"binary, not text: a NUL byte at byte {place:,}", where=path, mend="convert it"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        letter = error.object[error.start : error.start + 1]
        guess = f", {letter.decode('latin-1')!r} in latin-1" if letter >= b"\xa0" else ""
        name = Path(path)
        unpack = ""
        if name.suffix in COMPRESSIONS:
            unpack, name = "unpack it, then ", name.with_suffix("")
        new = name.with_name(f"{name.stem}.utf8{name.suffix}")
        convert = f"{unpack}iconv -f latin1 -t utf-8 {name} > {new}"
        raise UserError(
            Problem(
                f"not UTF-8: byte 0x{letter.hex()}{guess}, at byte {error.start:,}",
                where=f"{path}:{line}",
                mend=f"{convert} (cp1252 for files of Windows; editors: save as UTF-8)",
            )
        ) from None


def _format_of(text: str) -> str:
    begin = text.lstrip()[:1]
    first = text.split("\n", 1)[0]
    if begin == "{":
        return "jsonl" if _first_line_is_a_row(text) else "json"
    if begin == "[":
        return "json"
    if "\t" in first:
        return "tsv"
    return "conll" if _is_conll(text) else "csv"


def _is_conll(text: str) -> bool:
    """Whether lines are as many words each, a space between them, and blank lines stand between some: tagged words."""
    lines = [line.split() for line in _lines(text.strip())]
    widths = {len(words) for words in lines if words}
    commas = all("," in "".join(words) for words in lines if words)
    return len(widths) == 1 and widths != {1} and not all(lines) and not commas


def _first_line_is_a_row(text: str) -> bool:
    first, _, rest = text.strip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        return False


def _lines(text: str) -> list[str]:
    """Lines without their ends. Only a line feed ends one (a lone carriage return only where there is no line feed):
    the other line ends of Unicode are letters of a text."""
    if "\n" not in text:
        text = text.replace("\r", "\n")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _split_rows(text: str, between: str | None) -> Sheet:
    """Cells between tabs, or between any spaces."""
    kept = [(i, line.split(between)) for i, line in enumerate(_lines(text), start=1) if line.strip()]
    return Sheet([], [cells for _, cells in kept], [i for i, _ in kept])


def _csv_rows(path: str, text: str) -> Sheet:
    csv.field_size_limit(1 << 30)
    lines = [line + "\n" for line in _lines(text)]
    first = lines[0]
    delimiter = "," if "," in first else ";" if ";" in first else "\t" if "\t" in first else ","
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    sheet = Sheet([], [], [])
    begin = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                sheet.rows.append(cells)
                sheet.places.append(begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        mend = 'quote cells that hold commas or quotes, and double the quotes in them: "so ""called"" cells"'
        raise UserError(Problem(f"broken csv: {error}", where=f"{path}:{begin}", mend=mend)) from None
    return sheet


def _jsonl_rows(path: str, text: str) -> Sheet:
    findings = Findings()
    objects: list[tuple[int, dict[str, Any]]] = []
    escaped = "\\ud" in text.lower()
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            what = f"not JSON: {error.msg} at column {error.colno}"
            findings.add("lines that are not JSON", what, where, "mend or delete the line")
            continue
        _add_object(objects, number, row, where, findings, escaped)
    findings.check()
    return _of_objects(objects)


def _json_rows(path: str, text: str) -> Sheet:
    findings = Findings()
    objects: list[tuple[int, dict[str, Any]]] = []
    escaped = "\\ud" in text.lower()
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        mend = "mend it, or write one object per line and name the file .jsonl"
        raise UserError(
            Problem(f"not JSON: {error.msg} at column {error.colno}", f"{path}:{error.lineno}", mend)
        ) from None
    if not isinstance(found, list):
        keys = f"object with {', '.join(list(found)[:5])}" if isinstance(found, dict) else "value"
        what = f"one JSON {keys}, not a list of rows"
        raise UserError(Problem(what, where=path, mend='write [{"text": ..., "label": ...}, ...]'))
    for number, row in enumerate(found, start=1):
        _add_object(objects, number, row, f"{path} row {number}", findings, escaped)
    findings.check()
    return _of_objects(objects)


def _add_object(
    objects: list[tuple[int, dict[str, Any]]], number: int, row: Any, where: str, findings: Findings, escaped: bool
) -> None:
    """``escaped``: the file spells halves of surrogate pairs, of which JSON allows one without the other."""
    if not isinstance(row, dict):
        kind = {"list": "list", "str": "text", "NoneType": "null"}.get(type(row).__name__, "number")
        mend = 'write each row as {"text": ..., "label": ...}'
        findings.add("rows that are no objects", f"a JSON {kind}, not an object", where, mend)
    elif escaped and re.search("[\ud800-\udfff]", json.dumps(row, ensure_ascii=False)):
        what = "half of a surrogate pair (\\ud800 to \\udfff alone) is no character"
        findings.add("rows with half characters", what, where, "delete it")
    else:
        objects.append((number, row))


def _of_objects(objects: Sequence[tuple[int, dict[str, Any]]]) -> Sheet:
    names = list(dict.fromkeys(name for _, row in objects for name in row))
    return Sheet(names, [[row.get(name) for name in names] for _, row in objects], [number for number, _ in objects])
