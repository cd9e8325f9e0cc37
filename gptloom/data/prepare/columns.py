"""From the columns of a file to prompts and completions, whatever the columns are called."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.data.column_names import plain
from gptloom.data.findings import Findings
from gptloom.data.prepare.finding import Finding, done
from gptloom.data.prepare.rows import Pair, Pairs
from gptloom.data.rows import Row

PROMPT, COMPLETION = "prompt", "completion"
# Other names, the likeliest first.
_PROMPT_NAMES = (
    *("prompt", "question", "instruction", "input", "query", "request", "user", "human", "source"),
    *("text", "sentence", "review", "message", "comment", "tweet", "document", "title", "context"),
)
_COMPLETION_NAMES = (
    *("completion", "answer", "response", "output", "reply", "assistant", "bot", "target", "translation", "summary"),
    *("label", "class", "category", "sentiment", "intent"),
)
_TEXT_NAMES = (COMPLETION, "text", "content", "sentence", "document", "story", "body", "line")
_NEAR = 0.8  # of difflib: completition, promt


def pairs_of(
    path: str, names: Sequence[str], rows: Sequence[Row], broken: Findings
) -> tuple[Pairs, list[Finding[Pairs]]]:
    """Prompts and completions of rows with the columns ``names``, and what was done about the columns.

    Cells that are no text go to ``broken``, without their row. Raises ``UserError`` where it cannot be known which
    columns are meant.
    """
    prompt, completion = _chosen(path, names)
    found = _told(prompt, completion, names)
    pairs = []
    for row in rows:
        try:
            asked = "" if prompt is None else _text(row.values.get(prompt))
            pairs.append(Pair(asked, _text(row.values.get(completion)), row.where))
        except TypeError as error:
            mend = "write text into it; conversations are rows with messages"
            broken.add("cells that are no text", str(error), row.where, mend)
    return Pairs(tuple(pairs)), found


def _text(cell: Any) -> str:
    """A cell as text: nothing is "", and a number or truth value as JSON spells it."""
    if isinstance(cell, str) or cell is None:
        return cell or ""
    if isinstance(cell, list | Mapping):
        raise TypeError(f"a {'list' if isinstance(cell, list) else 'object'} where text is expected")
    return json.dumps(cell) if isinstance(cell, bool | int | float) else str(cell)


# ---- which columns ---------------------------------------------------------------------------------------------------


def _chosen(path: str, names: Sequence[str]) -> tuple[str | None, str]:
    """The columns of prompts (None: there are none) and of completions."""
    completion = _named(COMPLETION, _COMPLETION_NAMES, names)
    prompt = _named(PROMPT, _PROMPT_NAMES, [name for name in names if name != completion])
    if len(names) == 1 and completion is None and _may_be_text(names[0]):
        return None, names[0]
    if len(names) == 1 and completion is not None:
        return None, completion
    if len(names) == 2 and (prompt is None or completion is None):
        prompt, completion = _by_elimination(names, prompt, completion)
    lacking = [role for role, name in ((PROMPT, prompt), (COMPLETION, completion)) if name is None]
    if lacking or completion is None:
        mend = f"name one column {' and one '.join(lacking)} (an empty prompt is allowed), then the same command"
        what = (
            f"no column is called {' or '.join(lacking)}, nor anything like it; there are {', '.join(map(repr, names))}"
        )
        raise UserError(Problem(what, path, mend))
    return prompt, completion


def _named(role: str, known: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that is called so: just so, in other letters, nearly so, or by another name for it."""
    if role in names:
        return role
    simple = {plain(name): name for name in reversed(names)}
    near = difflib.get_close_matches(role, simple, n=1, cutoff=_NEAR)
    if near:
        return simple[near[0]]
    return next((simple[name] for name in known if name in simple), None)


def _may_be_text(name: str) -> bool:
    return plain(name) in _TEXT_NAMES or _named(PROMPT, _PROMPT_NAMES[:9], [name]) is None


def _by_elimination(names: Sequence[str], prompt: str | None, completion: str | None) -> tuple[str, str]:
    """Of two columns the other one, or, where neither has a known name, the first and the second."""
    if completion is not None:
        return next(name for name in names if name != completion), completion
    if prompt is not None:
        return prompt, next(name for name in names if name != prompt)
    return names[0], names[1]


def _told(prompt: str | None, completion: str, names: Sequence[str]) -> list[Finding[Pairs]]:
    found: list[Finding[Pairs]] = []
    if prompt is None:
        text = f"there is no column of prompts: {completion!r} is taken as text that a model writes without being asked"
        found.append(done("columns", text, "Leave the prompts empty"))
    renamed = {
        column: role for column, role in ((prompt, PROMPT), (completion, COMPLETION)) if column not in (None, role)
    }
    if renamed:
        told = " and ".join(f"{column!r} as {role}" for column, role in renamed.items())
        found.append(done("columns", f"columns are called otherwise: {told}", f"Take {told}"))
    others = [name for name in names if name not in (prompt, completion)]
    if others:
        told = ", ".join(map(repr, others))
        found.append(done("columns", f"other columns: {told}", f"Leave out {told}"))
    return found
