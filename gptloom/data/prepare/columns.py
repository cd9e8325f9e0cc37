"""From the columns of a file to prompts and completions, whatever the columns are called."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.data.column_names import LABEL_NAMES, TEXT_NAMES, plain
from gptloom.data.findings import Findings
from gptloom.data.instruction_formats import Format, has_columns
from gptloom.data.instruction_names import COMPLETIONS, INSTRUCTIONS, PROMPTS, TEXTS
from gptloom.data.prepare.finding import Finding, done
from gptloom.data.prepare.rows import Pair, Pairs
from gptloom.data.rows import Row
from gptloom.data.turns import Notes, text_of

PROMPT, COMPLETION = "prompt", "completion"
# Other names, the likeliest first.
_PROMPT_NAMES = (*PROMPTS, *INSTRUCTIONS, "request", "source", "user", "human", *TEXT_NAMES["classify"], "title")
_COMPLETION_NAMES = (*COMPLETIONS, "reply", "target", "translation", "summary", "assistant", *LABEL_NAMES["classify"])
_NEAR = 0.8  # of difflib: completition, promt


def pairs_of(
    path: str, names: Sequence[str], rows: Sequence[Row], format: Format | None, broken: Findings
) -> tuple[Pairs, list[Finding[Any]]]:
    """Prompts and completions of rows with the columns ``names``, and what was done about the columns.

    Rows that lack one of them, or whose cells are no text, go to ``broken``. Raises ``UserError`` where nobody can know
    which columns are meant.
    """
    prompt, completion = _chosen(path, names, rows) if format is None else (format.prompt, format.answer)
    pairs = []
    for row in rows:
        notes = Notes(row.where, broken, Findings())
        if not has_columns(row, [name for name in (prompt, completion) if name is not None], notes):
            continue
        asked = "" if prompt is None else text_of(row.values.get(prompt), prompt, notes)
        answered = text_of(row.values.get(completion), completion, notes)
        if not notes.is_wrong:
            pairs.append(Pair(asked, answered, row.where))
    return Pairs(tuple(pairs)), _told(prompt, completion, names)


def _chosen(path: str, names: Sequence[str], rows: Sequence[Row]) -> tuple[str | None, str]:
    """The columns of prompts (None: there are none) and of completions."""
    completion = _named(COMPLETION, _COMPLETION_NAMES, names)
    prompt = _named(PROMPT, _PROMPT_NAMES, [name for name in names if name != completion])
    if len(names) == 1:
        is_question = plain(names[0]) in _PROMPT_NAMES and plain(names[0]) not in TEXTS
        return (None, names[0]) if not is_question else _unknown(path, names, [COMPLETION])
    if len(names) == 2 and prompt is completion is None:
        return _by_contents(names, rows)
    if len(names) == 2 and prompt is None:
        prompt = names[0] if completion == names[1] else names[1]
    if len(names) == 2 and completion is None:
        completion = names[0] if prompt == names[1] else names[1]
    if prompt is None or completion is None:
        lacking = [role for role, name in ((PROMPT, prompt), (COMPLETION, completion)) if name is None]
        return _unknown(path, names, lacking)
    return prompt, completion


def is_usual(name: str) -> bool:
    """Whether prompts or completions are often called so."""
    return plain(name) in (*_PROMPT_NAMES, *_COMPLETION_NAMES)


def _by_contents(names: Sequence[str], rows: Sequence[Row]) -> tuple[str, str]:
    """Of two columns nobody knows by name, classes are the completion; else the second is."""
    first, second = (len({str(row.values.get(name)) for row in rows}) for name in names)
    return (names[1], names[0]) if first < len(rows) / 3 <= second else (names[0], names[1])


def _unknown(path: str, names: Sequence[str], lacking: Sequence[str]) -> tuple[str | None, str]:
    what = f"no column is called {' or '.join(lacking)}, nor anything like it; there are {', '.join(map(repr, names))}"
    mend = f"call one column {' and one '.join(lacking)}, then the same command"
    raise UserError(Problem(what, path, mend))


def _named(role: str, known: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that is called so: just so, nearly so, by another name for it, or alone with such a word in its name."""
    simple = {plain(name): name for name in reversed(names)}
    if role in simple:
        return simple[role]
    near = difflib.get_close_matches(role, simple, n=1, cutoff=_NEAR) or [name for name in known if name in simple]
    if near:
        return simple[near[0]]
    words = {role, *known}
    having = [column for name, column in simple.items() if words.intersection(name.split("_"))]  # Customer question
    return having[0] if len(having) == 1 else None


def _spelled(name: str) -> str:
    """Columns without names are numbered."""
    return f"column {name}" if name.isdecimal() else repr(name)


def _told(prompt: str | None, completion: str, names: Sequence[str]) -> list[Finding[Any]]:
    found: list[Finding[Any]] = []
    wanted = {completion: COMPLETION} if prompt is None else {prompt: PROMPT, completion: COMPLETION}
    told = " and ".join(f"{_spelled(column)} as {role}" for column, role in wanted.items() if column != role)
    if prompt is None:
        text = f"there are no prompts: {_spelled(completion)} is taken as text that a model writes without being asked"
        found.append(done("columns", text, "Leave the prompts empty"))
    elif told:
        found.append(done("columns", f"columns with other names: {told}", f"Take {told}"))
    others = [name for name in names if name not in wanted]
    if others:
        told = ", ".join(map(_spelled, others))
        found.append(done("columns", f"columns that are neither prompt nor completion: {told}", f"Leave out {told}"))
    return found
