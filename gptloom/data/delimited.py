"""Cells of csv and tsv: what stands between them, whether they are quoted, and which rows a stray quote swallows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gptloom.data.lines import LOST_ROWS, Find, Line

LOOKED_AT = 1000  # lines from which is told what stands between cells, and whether they are quoted
MOST_LINES = 20
"""A cell of more lines, each of which would be a row, was not meant: a quote that opens too early swallowed them."""

_LONGEST_CELL = 1 << 26  # characters; a quote that is never closed must not swallow a whole large file
_SIGNS = ",;\t"
_SIGN_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel writes and reads it as the first line of a csv
_OPENED = re.compile(r'(?:^|\t)"')
_QUOTED = re.compile(r'(?:^|\t)"((?:[^"]|"")*)"(?=\t|$)')
_QUOTE_MEND = 'quote cells that hold commas or quotes, and double the quotes in them: "so ""called"" cells"'


@dataclass(frozen=True)
class Dialect:
    """How the lines of a file become cells, and what a person is to know of it."""

    delimiter: str
    is_quoted: bool = True
    first_line: int = 1
    note: str = ""

    def cells(self, lines: Iterable[Line], find: Find) -> Iterator[tuple[int, list[str]]]:
        """The cells of each row with the number of its first line; rows that are broken are found and left out."""
        lines = (line for line in lines if line.number >= self.first_line)
        if self.is_quoted:
            return _quoted_cells(lines, self, find)
        return ((line.number, line.text.split(self.delimiter)) for line in lines if line.sound and line.text.strip())


def csv_dialect(lines: Iterable[Line]) -> Dialect:
    """Of the signs in the first line the one that makes most rows as wide as the first: a name may hold a comma too."""
    head = _filled(lines)
    if head and (said := _SIGN_LINE.fullmatch(head[0].text)):
        return Dialect(said[1], first_line=head[0].number + 1, note=f"{said[0].strip()!r} is no row of it")
    signs = [sign for sign in _SIGNS if head and sign in head[0].text] or [","]
    return Dialect(signs[0] if len(signs) == 1 else max(signs, key=lambda sign: _as_wide(head, sign)))


def tsv_dialect(lines: Iterable[Line]) -> Dialect:
    """A tsv knows no quotes, unless a spreadsheet wrote it: then cells that begin with one end with one, and those
    inside are doubled, or most rows have such a cell."""
    head = _filled(lines)
    quoted = [_QUOTED.findall(line.text) for line in head]
    inner = [text for texts in quoted for text in texts]
    opened = sum(len(_OPENED.findall(line.text)) for line in head)
    is_meant = any('""' in text or "\t" in text for text in inner) or 2 * sum(map(bool, quoted)) > len(head)
    if 2 * len(inner) > opened and is_meant:
        return Dialect("\t", note="quotes around cells are no part of them")
    return Dialect("\t", is_quoted=False)


def _filled(lines: Iterable[Line]) -> list[Line]:
    return list(islice((line for line in lines if line.text.strip()), LOOKED_AT))


def _as_wide(lines: Sequence[Line], delimiter: str) -> int:
    """How many rows have as many cells as the first, where that has several."""
    widths = []
    try:
        for cells in _reader((line.text + "\n" for line in lines), delimiter):
            widths.append(len(cells))
    except csv.Error:  # broken, or cut off behind the last line
        pass
    return widths.count(widths[0]) if widths and widths[0] > 1 else 0


def _reader(lines: Iterable[str], delimiter: str) -> Any:
    csv.field_size_limit(_LONGEST_CELL)
    return csv.reader(lines, delimiter=delimiter, strict=True)


class _Feed:
    """The lines a csv reader takes, and whether all of the row it is at were sound."""

    def __init__(self, lines: Iterable[Line], first_line: int) -> None:
        self._lines = iter(lines)
        self.number = first_line - 1
        self.sound = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        self.sound &= line.sound
        return line.text + "\n"


def _quoted_cells(lines: Iterable[Line], dialect: Dialect, find: Find) -> Iterator[tuple[int, list[str]]]:
    feed = _Feed(lines, dialect.first_line)
    reader = _reader(feed, dialect.delimiter)
    width = 0  # of the first row
    while True:
        begin, feed.sound = feed.number + 1, True
        try:
            cells = next(reader, None)
        except csv.Error as error:
            _find_broken(begin, feed.number, error, find)
            continue
        if cells is None:
            return
        width = width or len(cells)
        if feed.number - begin > MOST_LINES and any(_swallows(cell, width, dialect.delimiter) for cell in cells):
            _find_lost(begin, feed.number, f"closes in line {feed.number}", find)
        elif feed.sound and any(cell.strip() for cell in cells):
            yield begin, cells


def _swallows(cell: str, width: int, delimiter: str) -> bool:
    """Whether every line inside a cell would be a row of its own."""
    inner = [line for line in cell.split("\n")[1:-1] if line.strip()]
    return len(inner) >= MOST_LINES and width > 1 and all(line.count(delimiter) == width - 1 for line in inner)


def _find_broken(begin: int, end: int, error: csv.Error, find: Find) -> None:
    never_closed = "unexpected end of data" in str(error) or "field larger" in str(error)
    if end > begin:
        how = "does not close" if never_closed else f"meets the next one in the midst of line {end}"
        _find_lost(begin, end, how, find)
        return
    what = "a quote that opens in this row is never closed" if never_closed else str(error)
    find(begin, "rows that are no csv", f"broken csv: {what}", _QUOTE_MEND)


def _find_lost(begin: int, end: int, how: str, find: Find) -> None:
    what = f"broken csv: lines {begin} to {end} are in one cell: a quote opens in line {begin} and {how}"
    find(begin, LOST_ROWS, what, f"close it in line {begin}, or delete it; a quote inside a cell is doubled")
