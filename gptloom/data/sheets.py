"""Rows of the two binary table formats, Parquet and xlsx, whose libraries come with ``pip install 'gptloom[data]'``."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

from gptloom.config.errors import Problem, UserError

_MEND = "pip install 'gptloom[data]'"


@dataclass
class Sheet:
    """Cells by row; ``names`` is empty where a first row may hold them. ``places``: the line or number of each row."""

    names: list[str]
    rows: list[list[Any]]
    places: list[int]


def parquet_rows(path: str, raw: bytes) -> Sheet:
    """Raises ``UserError``: no pyarrow, or no Parquet file."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(Problem("reading Parquet needs pyarrow", where=path, mend=_MEND)) from None
    try:
        table = parquet.read_table(io.BytesIO(raw))
    except (ArrowException, OSError) as error:
        raise UserError(Problem(f"not a Parquet file: {error}", where=path)) from None
    columns = [column.to_pylist() for column in table.columns]
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    return Sheet(list(table.column_names), rows, list(range(1, len(rows) + 1)))


def xlsx_rows(path: str, raw: bytes) -> Sheet:
    """The sheet of a workbook, empty rows and columns around it left out. A place is the row's number in the sheet.

    Raises ``UserError``: no openpyxl, no workbook, or several sheets that hold something.
    """
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise UserError(Problem("reading xlsx needs openpyxl", where=path, mend=_MEND)) from None
    try:
        book = load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(Problem(f"not an xlsx workbook: {error}", where=path, mend="save it as .xlsx")) from None
    filled: dict[str, Sheet] = {}
    for sheet in book.worksheets:
        rows = [(i, list(cells)) for i, cells in enumerate(sheet.iter_rows(values_only=True), start=1)]
        rows = [(i, cells) for i, cells in rows if any(cell is not None for cell in cells)]
        if rows:
            width = max(i + 1 for _, cells in rows for i, cell in enumerate(cells) if cell is not None)
            padded = [[*cells, *[None] * (width - len(cells))][:width] for _, cells in rows]
            filled[sheet.title] = Sheet([], padded, [i for i, _ in rows])
    if len(filled) > 1:
        what = f"{len(filled)} sheets hold rows: {', '.join(filled)}"
        raise UserError(Problem(what, where=path, mend="save the one to read as a file of its own"))
    return next(iter(filled.values()), Sheet([], [], []))
