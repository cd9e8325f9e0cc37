"""Which column of a table is the text, the label, a choice: as the user says, else by names, else by what they hold."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, Protocol

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.excerpt import beginning
from gptloom.config.task import Columns, Task
from gptloom.data.column_guess import FEW_ROWS, Facts, guess_roles, likely
from gptloom.data.column_names import INSTRUCTION_NAMES, TEXT_NAMES, plain
from gptloom.data.conll import word_per_line
from gptloom.data.instruction_detection import detect
from gptloom.data.rows import Row
from gptloom.data.tables import Table

ROLES = ("text", "second", "label", "choices", "start")
LONGEST_SAMPLE = 70  # characters of a cell that are shown
NEEDED: dict[Task, tuple[str, ...]] = {
    "classify": ("text", "label"),
    "regress": ("text", "label"),
    "entail": ("text", "second", "label"),
    "similar": ("text", "second", "label"),
    "choice": ("text", "choices", "label"),
    "span": ("text", "second", "label"),
    "tokens": ("text", "label"),
}


class Declared(Protocol):
    """What the user said of the columns (``ColumnOptions``); None or nothing where nothing was said."""

    @property
    def text(self) -> str | None: ...
    @property
    def second(self) -> str | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def choices(self) -> Sequence[str]: ...
    @property
    def start(self) -> str | None: ...


def declared_names(columns: Declared) -> tuple[str, ...]:
    """The columns that are named, for ``read_table(named=...)``."""
    single = (columns.text, columns.second, columns.label, columns.start)
    return (*(name for name in single if name is not None), *columns.choices)


def guess_columns(table: Table, task: Task, given: Declared) -> tuple[Columns, str]:
    """The columns of a task, those that were not given guessed, and a sentence that says what was taken.

    Raises ``UserError`` where a given column is missing, where the table is instruction data, and where a column is
    not obvious: with a value of each column and the options to write.
    """
    problems = _missing(table, given)
    if problems:
        raise UserError(*problems)
    _refuse_instructions(table, given)
    facts = [Facts.of(name, table) for name in table.names if name not in declared_names(given)]
    declared = {role: getattr(given, role) for role in ROLES if getattr(given, role)}
    tagged = task == "tokens" and word_per_line(table)
    if tagged:
        roles = {"text": table.names[0], "label": table.names[-1]} | declared
    else:
        roles = guess_roles(task, declared, facts)
    if any(not roles.get(role) for role in NEEDED[task]):
        raise UserError(_not_obvious(table, task, roles, facts))
    columns = Columns.model_validate(roles)
    check_columns(table, columns)
    guessed = [role for role in ROLES if role in roles and role not in declared]
    note = f" (guessed: {', '.join(guessed)})" if guessed else ""
    unused = [fact.name for fact in facts if fact.name not in declared_names(columns)]
    rest = f"; not used: {', '.join(unused)}" if unused else ""
    lines = "; a word on each line, a sentence between blank ones" if tagged else ""
    return columns, f"{table.path} ({table.how}{lines}): {spelled(roles)}{note}{rest}"


def check_columns(table: Table, columns: Columns, label_needed: bool = True) -> None:
    """Raises ``UserError`` for columns the table lacks (with the nearest name), and for one that is taken twice."""
    wanted = columns
    if not label_needed and columns.label not in table.names:
        wanted = columns.model_copy(update={"label": None, "start": None})
    problems = _other_header(table, wanted) or _missing(table, wanted)
    roles = {role: getattr(columns, role) for role in ("text", "second", "label")}
    by_column: dict[str, list[str]] = {}
    for role, name in [*roles.items(), *(("choices", name) for name in columns.choices)]:
        if name is not None:
            by_column.setdefault(name, []).append(role)
    for name, doubled in by_column.items():
        if len(doubled) > 1:
            what = f"column {name!r} is taken for {' and '.join(doubled)} at once"
            others = ", ".join(other for other in table.names if other != name)
            problems.append(
                Problem(what, where=table.path, mend=f"--{doubled[-1]} COLUMN; other columns: {others or 'none'}")
            )
    if problems:
        raise UserError(*problems)


def with_roles(columns: Columns, roles: Sequence[str]) -> Columns:
    """``columns`` with those that a user calls otherwise now: ``["text=review", "choices=a,b,c"]``."""
    update: dict[str, Any] = {}
    problems = []
    for entry in roles:
        role, equals, name = entry.partition("=")
        if role not in ROLES or not equals or not name:
            mend = nearest(role, ROLES) if role not in ROLES else f"{role}=COLUMN"
            problems.append(Problem(f"{entry!r} is not ROLE=COLUMN", where="--columns", mend=mend))
        else:
            update[role] = tuple(name.split(",")) if role == "choices" else name
    if problems:
        raise UserError(*problems)
    return columns.model_copy(update=update)


def spelled(roles: dict[str, Any]) -> str:
    """The options that say the same: ``--text sentence --label "my label"``."""
    words = []
    for role in ROLES:
        names = roles.get(role)
        if names:
            words += [f"--{role}", *([names] if isinstance(names, str) else names)]
    return shlex.join(words)


def _missing(table: Table, given: Declared) -> list[Problem]:
    problems = []
    for name in declared_names(given):
        if name not in table.names:
            mend = nearest(name, table.names)
            if not table.has_header:
                count = len(table.names)
                mend = f"the file has no header: its columns are called 1 to {count}; --header if its first row is one"
            elif name.isdecimal() and table.format in ("csv", "tsv", "xlsx"):
                mend += "; --no-header if the first row holds no names"
            problems.append(Problem(f"no column {name!r}", where=table.path, mend=mend))
    return problems


def _other_header(table: Table, columns: Columns) -> list[Problem]:
    """The problem of a table whose columns are counted where those of the first file are named, or the reverse."""
    names = declared_names(columns)
    counted = all(name.isdecimal() for name in names)
    if all(name in table.names for name in names) or table.has_header is not counted:
        return []
    if counted:
        what = f"its first row was taken for names ({', '.join(table.names)}), and the first --data file has none"
        return [Problem(what, table.path, "delete that row; --no-header if it is a row like the others")]
    what = f"no header, and the first --data file has one: its columns are called {', '.join(names)}"
    return [Problem(what, table.path, "write that first row here too; --header if the first row here is one")]


def _refuse_instructions(table: Table, given: Declared) -> None:
    names = {plain(name) for name in table.names}
    if given.text or not any(columns <= names for columns in INSTRUCTION_NAMES):
        return
    kind = next(columns for columns in INSTRUCTION_NAMES if columns <= names)
    raise UserError(
        Problem(
            f"instruction data (columns {', '.join(sorted(kind))}): prompts with answers to write, not labelled texts",
            where=table.path,
            mend=f"gptloom sft BASE --data {table.path}; if it is labelled text after all, name --text and --label",
        )
    )


def _not_obvious(table: Table, task: Task, roles: dict[str, Any], facts: Sequence[Facts]) -> Problem:
    """Every column with a value of it, and options that could be meant."""
    lacking = [role for role in NEEDED[task] if not roles.get(role)]
    width = max(len(name) for name in table.names)
    by_name = {fact.name: fact for fact in facts}
    lines = [
        f"    {name:<{width}}  {_shortened(by_name[name].sample) if name in by_name else '(declared)'}"
        for name in table.names
    ]
    which = " and ".join(lacking)
    what = f"not obvious which column is the {which} ({table.how}); its columns, with a value of each:\n"
    taken = [name for names in roles.values() for name in ([names] if isinstance(names, str) else names)]
    free = [fact for fact in facts if fact.name not in taken]
    swapped = roles.get("label")
    if "text" in lacking and swapped is not None and _looks_like_text(table, task, swapped):
        found = roles | {"text": swapped} | likely(task, ["label"], free)
        if found["label"] == swapped:
            found["label"] = "COLUMN"
        what = f"column {swapped!r} is given as the label, and looks like the text"
        return Problem(what, where=table.path, mend=spelled(found))
    instructions = detect(table.names, [Row("", row) for row in table.rows[:FEW_ROWS]])
    if instructions is not None and instructions.name != "text" and not any(fact.is_classes for fact in free):
        mend = f"labels: name --text and --label; answers to write: gptloom sft BASE --data {table.path}"
        return Problem(what + "\n".join(lines), where=table.path, mend=mend)
    if len(table.names) < len(NEEDED[task]):
        mend = f"a table for {task} has a column for each of: {', '.join(NEEDED[task])}; commas or tabs between them"
        return Problem(what + "\n".join(lines), where=table.path, mend=mend)
    example = spelled(roles | likely(task, lacking, free))
    options = spelled(dict.fromkeys(lacking, "COLUMN"))
    more = "" if table.has_header else "; --header if the first row holds names"
    if task == "classify" and "text" in lacking and sum(fact.is_text for fact in facts) == 2:
        more += "; for classes of pairs of texts --task entail"
    return Problem(what + "\n".join(lines), where=table.path, mend=f"{options}, such as: {example}{more}")


def _looks_like_text(table: Table, task: Task, name: str) -> bool:
    return plain(name) in TEXT_NAMES[task] or Facts.of(name, table).is_text


def _shortened(text: str) -> str:
    return beginning(" ".join(text.split()), LONGEST_SAMPLE)
