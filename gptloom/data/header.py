"""Whether the first row of a csv, tsv or xlsx holds the names of its columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from gptloom.data.column_names import is_known, plain
from gptloom.data.instruction_names import HEADERS

LOOKED_AT = 1000  # rows below the first
LONGEST_NAME = 40  # characters
MOST_WORDS = 4
LONGER = 2  # times its name a column of texts is at least, on average
SENTENCE_ENDS = ".?!"

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)

_DIGITS = re.compile(r"\d+")
_SENTENCE_WORDS = 3

HeaderRule = Callable[[Sequence[Any], Sequence[Sequence[Any]]], bool]
"""Whether a first row holds names, given the rows below it."""


def number_of(cell: Any) -> float | None:
    """The number that a cell is or spells (also nan and inf), else None; true and false are none."""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return float(cell)
    if isinstance(cell, str) and _NUMBER.fullmatch(cell.strip()):
        return float(cell)
    return None


def is_header(first: Sequence[Any], below: Sequence[Sequence[Any]], named: Collection[str] = ()) -> bool:
    """Whether ``first`` is a row of names over the rows ``below``, by what it is and how it differs from them.

    Columns that the user ``named`` decide: found in the row they make it a header, and mere numbers speak of a file
    without one.
    """
    cells = [cell.strip() if isinstance(cell, str) else "" if cell is None else cell for cell in first]
    while cells and cells[-1] == "":  # spreadsheets add empty cells at the end
        cells.pop()
    n = len(cells)
    counting = cells in ([str(i) for i in range(n)], [str(i + 1) for i in range(n)])
    if counting and n > 1:  # what is written for a frame without names
        return True
    if named:
        if all(name.isdecimal() for name in named):
            return False
        if any(name in cells for name in named):
            return True
    columns = [[row[i] for row in below[:LOOKED_AT] if i < len(row)] for i in range(n)]
    comes_again = any(cell and cell in column for cell, column in zip(cells, columns, strict=True))
    of_instructions = sum(isinstance(cell, str) and plain(cell) in HEADERS for cell in cells)
    if of_instructions > 1 or (of_instructions and not comes_again):
        return True
    if comes_again or not _could_be_names(cells):
        return False
    if any(_is_numbered_as(cell, column) for cell, column in zip(cells, columns, strict=True) if cell):
        return False
    if any(is_known(cell) for cell in cells):
        return True
    if any(_is_sentence_as(cell, column) for cell, column in zip(cells, columns, strict=True) if cell):
        return False
    return any(_numbers(column) or _few_values(column) for column in columns)


def is_header_or_short(first: Sequence[Any], below: Sequence[Sequence[Any]]) -> bool:
    """``is_header``, or a row of few words each that stand over texts: short beside what is below one of them at least.

    For files that a person is asked about: it takes a short first text over longer ones for a name.
    """
    return is_header(first, below) or _is_short_over_long([str(cell or "").strip() for cell in first], below)


def _is_short_over_long(cells: Sequence[str], below: Sequence[Sequence[Any]]) -> bool:
    if not below or not all(0 < len(cell.split()) <= MOST_WORDS and cell[-1].isalnum() for cell in cells):
        return False
    columns = [[str(row[i] or "") for row in below if i < len(row)] for i in range(len(cells))]
    if any(cell in column for cell, column in zip(cells, columns, strict=True)):
        return False
    return any(
        bool(column) and sum(map(len, column)) >= LONGER * len(cell) * len(column)
        for cell, column in zip(cells, columns, strict=True)
    )


def _could_be_names(cells: Sequence[Any]) -> bool:
    """Short texts, each once, none of them a number; the first may be empty (over a column of row numbers)."""
    if any(not isinstance(cell, str) or number_of(cell) is not None for cell in cells):
        return False
    if any(not cell for cell in cells[1:]) or len(set(cells)) < len(cells) or not any(cells):
        return False
    return all(len(cell) <= LONGEST_NAME and len(cell.split()) <= MOST_WORDS for cell in cells if cell)


def _is_numbered_as(cell: str, column: Sequence[Any]) -> bool:
    """Whether a cell is another number of most of those below it: ``question 0?`` over ``question 1?``."""
    return bool(_DIGITS.search(cell)) and _is_most(cell, column, lambda text: _DIGITS.sub("0", text))


def _is_sentence_as(cell: str, column: Sequence[Any]) -> bool:
    """Whether a cell is a sentence like most of those below it, by its last sign or the shapes of its words."""
    ends_alike = cell[-1] in SENTENCE_ENDS and _is_most(cell, column, lambda text: text[-1])
    return ends_alike or (len(cell.split()) >= _SENTENCE_WORDS and _is_most(cell, column, _word_shapes))


def _is_most(cell: str, column: Sequence[Any], making: Callable[[str], str]) -> bool:
    """Whether most texts of a column give the same as the cell."""
    texts = [text.strip() for text in column if isinstance(text, str) and text.strip()]
    return 2 * sum(making(text) == making(cell) for text in texts) > len(texts)


def _word_shapes(text: str) -> str:
    """``It was Monday`` and ``He saw London`` alike: ``Aa a Aa``."""
    return re.sub("[a-z]+", "a", re.sub("[A-Z]+", "A", _DIGITS.sub("0", text)))


def _numbers(column: Sequence[Any]) -> bool:
    filled = [cell for cell in column if cell not in ("", None)]
    return bool(filled) and all(number_of(cell) is not None for cell in filled)


def _few_values(column: Sequence[Any]) -> bool:
    """A column of classes: each value comes again. (That the first row's cell does not was seen before.)"""
    counts = Counter(map(str, column))
    return len(column) >= 4 and len(counts) > 1 and min(counts.values()) > 1
