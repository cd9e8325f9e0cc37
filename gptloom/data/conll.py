"""Files with one word on each line and its tag behind it (CoNLL): the lines between blank ones are a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gptloom.data.lines import Place
from gptloom.data.tables import Table

BY_LINE = ("conll", "tsv", "csv")
DOCUMENT = "-DOCSTART-"  # CoNLL-2003 begins each document with it, as with a sentence of one word


def word_per_line(table: Table) -> bool:
    """Whether each cell is one word, the first of all lines and the last of all, and blank lines are between some."""
    if table.format not in BY_LINE or len(table.names) < 2 or len(table.rows) < 2:
        return False
    ends = (table.names[0], table.names[-1])
    single = all(isinstance(row[end], str) and len(row[end].split()) <= 1 for row in table.rows for end in ends)
    return single and len(_starts(table)) > 1


def sentences(table: Table) -> Table:
    """``table`` with a row for each sentence, whose cells are lists; unchanged where it is no file of that kind."""
    if not word_per_line(table):
        return table
    starts = _starts(table)
    rows: list[dict[str, Any]] = []
    places: list[int | Place] = []
    for start, end in zip(starts, [*starts[1:], len(table.rows)], strict=True):
        lines = table.rows[start:end]
        if lines[0][table.names[0]] != DOCUMENT:
            rows.append({name: [line[name] for line in lines] for name in table.names})
            places.append(table.places[start])
    return replace(table, rows=rows, places=places)


def _starts(table: Table) -> Sequence[int]:
    """Rows before which lines are missing: blank ones, which are no rows."""
    places = [place for place in table.places if isinstance(place, int)]  # all, in a file that is read by line
    return [0, *(i for i in range(1, len(places)) if places[i] > places[i - 1] + 1)]
