"""A file for a trained model must name its columns, or count them, as the file that it was trained on."""

from __future__ import annotations

import shlex

from gptloom.config.errors import Problem, UserError
from gptloom.config.task import Columns
from gptloom.data.columns import ROLES, declared_names
from gptloom.data.header import is_header
from gptloom.data.rows import HEADED
from gptloom.data.tables import Table


def check_header(table: Table, columns: Columns, header: bool | None) -> None:
    """Raises ``UserError`` where ``columns``, the model's, are counted and the table's are named, or the reverse.

    Counted columns are in every file, so that a first row of names would be answered like a text. ``header`` is what
    the user said of the first row.
    """
    if table.format not in HEADED:
        return
    needed = declared_names(columns.model_copy(update={"label": None, "start": None}))
    there = all(name in table.names for name in needed)
    counted = all(name.isdecimal() for name in needed)
    first = [str(name) for name in (table.names if table.has_header else table.rows[0].values())]
    named = table.has_header or (header is None and is_header(first, [list(row.values()) for row in table.rows[1:]]))
    if counted and named and not (table.has_header and there):
        names = dict(zip(map(str, range(1, len(first) + 1)), first, strict=True))
        what = f"its first row looks like names ({', '.join(first)}), and the model was trained on a file without"
        mend = f"{_roles(columns, names)}   (or --no-header: it is a row like the others)"
        raise UserError(Problem(what, table.path, mend))
    if not counted and not there and not table.has_header:
        numbers = iter(table.names)
        names = {name: next(numbers, "COLUMN") for name in declared_names(columns)}
        what = f"it has no header, and the model's columns are called {', '.join(needed)}"
        mend = f"{_roles(columns, names)}, by the places of its columns   (or --header: its first row holds names)"
        raise UserError(Problem(what, table.path, mend))


def _roles(columns: Columns, names: dict[str, str]) -> str:
    """``--columns text=NAME label=NAME``, as far as the table has such columns."""
    words = []
    for role in ROLES:
        own = getattr(columns, role)
        found = [names.get(name) for name in ((own,) if isinstance(own, str) else own or ())]
        if found and None not in found:
            words.append(f"{role}={','.join(name for name in found if name is not None)}")
    return shlex.join(["--columns", *words])
