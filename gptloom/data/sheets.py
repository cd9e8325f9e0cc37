"""Rows of the two binary table formats, Parquet and xlsx, whose libraries come with ``pip install 'gptloom[data]'``."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.data.inputs import data_suffix
from gptloom.data.reading import open_bytes

_MEND = "pip install 'gptloom[data]'"
_PARQUET_ROWS = 1024  # held at once


@contextmanager
def _open_parquet(path: str) -> Iterator[Any]:
    """Raises ``UserError``: no pyarrow, or no Parquet file, also where that shows only while rows are read."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(Problem("reading Parquet needs pyarrow", where=path, mend=_MEND)) from None
    with open_bytes(Path(path)) as stream:
        is_packed = data_suffix(Path(path)) != Path(path).suffix.lower()
        source = io.BytesIO(stream.read()) if is_packed else stream  # Parquet is read from its end
        try:
            yield parquet.ParquetFile(source)
        except (ArrowException, OSError) as error:
            raise UserError(Problem(f"not a Parquet file: {error}", where=path)) from None


def parquet_names(path: str) -> tuple[str, ...]:
    """The names of the columns. Raises ``UserError``: no pyarrow, or no Parquet file."""
    with _open_parquet(path) as file:
        return tuple(file.schema_arrow.names)


def parquet_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row with its number, from 1; a block of them is held at once."""
    with _open_parquet(path) as file:
        batches = file.iter_batches(batch_size=_PARQUET_ROWS)
        yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1)


def xlsx_rows(path: str) -> list[tuple[int, list[Any]]]:
    """The cells of a workbook's sheet with the number of each row, empty rows and columns around them left out.

    Raises ``UserError``: no openpyxl, no workbook, or several sheets that hold something.
    """
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise UserError(Problem("reading xlsx needs openpyxl", where=path, mend=_MEND)) from None
    with open_bytes(Path(path)) as stream:
        raw = io.BytesIO(stream.read())
    try:
        book = load_workbook(raw, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(Problem(f"not an xlsx workbook: {error}", where=path, mend="save it as .xlsx")) from None
    filled: dict[str, list[tuple[int, list[Any]]]] = {}
    for sheet in book.worksheets:
        rows = [(i, list(cells)) for i, cells in enumerate(sheet.iter_rows(values_only=True), start=1)]
        rows = [(i, cells) for i, cells in rows if any(cell is not None for cell in cells)]
        if rows:
            width = max(i + 1 for _, cells in rows for i, cell in enumerate(cells) if cell is not None)
            filled[sheet.title] = [(i, [*cells, *[None] * (width - len(cells))][:width]) for i, cells in rows]
    if len(filled) > 1:
        what = f"{len(filled)} sheets hold rows: {', '.join(filled)}"
        raise UserError(Problem(what, where=path, mend="save the one to read as a file of its own"))
    return next(iter(filled.values()), [])
