"""Columns that are known by their names alone: where contents would not tell a question from its answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gptloom.config.data_tools import InstructOptions
from gptloom.config.errors import Problem, UserError
from gptloom.data.column_names import plain
from gptloom.data.tables import Table


def named_columns(table: Table, options: InstructOptions, **names: Sequence[str]) -> dict[str, str]:
    """Role → column: as declared, else the first of its ``names`` that the table has; ``text`` of a question may be absent.

    UserError with the columns that are there, where one is missing.
    """
    found: dict[str, str] = {}
    problems = []
    for role, usual in names.items():
        declared: str | None = getattr(options, role)
        others = {*found.values(), *(getattr(options, other) for other in names if other != role)}
        taken = declared or _first_called(table, usual, taken_already=others)
        if declared and declared not in table.names:
            problems.append(Problem(f"no column {declared!r}; there are {', '.join(table.names)}", table.path))
        elif declared in found.values():
            what = f"column {declared!r} is taken for {role} and for something else at once"
            problems.append(Problem(what, table.path, f"--{role} COLUMN; there are {', '.join(table.names)}"))
        elif taken is not None:
            found[role] = taken
        elif not (role == "text" and "second" in names):
            what = f"no column is called {', '.join(usual[:4])} or the like; there are {', '.join(table.names)}"
            problems.append(Problem(what, table.path, f"--{role} COLUMN"))
    if problems:
        raise UserError(*problems)
    return found


def _first_called(table: Table, usual: Sequence[str], taken_already: Collection[str | None]) -> str | None:
    free = {plain(name): name for name in reversed(table.names) if name not in taken_already}
    return next((free[name] for name in usual if name in free), None)


def spelled_columns(columns: dict[str, str]) -> str:
    """The options that say the same."""
    return " ".join(f"--{role} {name}" for role, name in columns.items())
