"""Small pieces of an HTML page: sections, tables, names with their meaning. Cells are escaped here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

from gptloom.observe.glossary import metric

OPEN_ROWS = 20
"""A table with more rows begins folded."""


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], right: Collection[int] = ()) -> str:
    """``headers`` are HTML, cells are text; ``right`` are the columns of numbers. Empty without rows."""
    if not rows:
        return ""
    classes = [' class="right"' if column in right else "" for column in range(len(headers))]
    head = "".join(f"<th{css}>{name}</th>" for css, name in zip(classes, headers, strict=True))
    body = "".join(_row(row, classes) for row in rows)
    drawn = f"<table>{f'<tr>{head}</tr>' if any(headers) else ''}{body}</table>"
    card = f'<div class="card">{drawn}</div>'
    return card if len(rows) <= OPEN_ROWS else f"<details><summary>all {len(rows)} rows</summary>{card}</details>"


def _row(row: Iterable[Any], classes: Sequence[str]) -> str:
    cells = ("" if cell is None else escape(str(cell)) for cell in row)
    return "<tr>" + "".join(f"<td{css}>{cell}</td>" for css, cell in zip(classes, cells, strict=True)) + "</tr>"


def metric_name(name: str, label: str | None = None) -> str:
    """A metric's name with its meaning as a tooltip."""
    entry = metric(name)
    shown = escape(label or name.replace("_", " "))
    return f'<abbr title="{escape(entry.meaning)}">{shown}</abbr>' if entry else shown
