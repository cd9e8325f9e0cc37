"""Cells of a row as texts, words, choices and tags; what a cell lacks is found."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from gptloom.config.task import Columns, Task
from gptloom.data.findings import Findings, counted
from gptloom.data.labels import label_name


def texts_of(task: Task, row: dict[str, Any], columns: Columns, where: str, findings: Findings) -> tuple[str, ...]:
    """The texts of an example, as ``Example.texts`` orders them; () where one of them is found wanting."""
    if task == "tokens":
        return words_of(row[columns.text], columns.text, where, findings)
    found = [_text(row[columns.text], columns.text, where, findings)]
    if columns.second is not None:
        found.append(_text(row[columns.second], columns.second, where, findings))
    if task == "choice":
        if None not in found:  # GPT-1 writes a document and its question as one text (section 3.3)
            found = [" ".join(text for text in found if text is not None)]
        choices = _choices(row, columns, where, findings)
        found += choices or [None]
    return () if None in found else tuple(text for text in found if text is not None)


def words_of(cell: Any, column: str, where: str, findings: Findings) -> tuple[str, ...]:
    """The words in a list, or between spaces; () where there is none or one is empty."""
    words = _listed(cell)
    if words is None:
        words = cell.split() if isinstance(cell, str) else []
    names = [word.strip() if isinstance(word, str) else label_name(word) for word in words]
    if not names:
        findings.add("rows with an empty text", f"no words in {column!r}", where, "delete the row or fill it in")
    elif not all(names):
        what = f"word {[not name for name in names].index(True) + 1} in {column!r} is empty"
        findings.add("rows with an empty word", what, where, "delete it, and its tag")
        return ()
    return tuple(name for name in names if name)


def tags_of(cell: Any, words: Sequence[str], column: str, where: str, findings: Findings) -> list[Any] | None:
    """The tags of the words in a list, or between spaces; None where there are none at all."""
    tags = _listed(cell)
    if tags is None:
        tags = cell.split() if isinstance(cell, str) else []
    if not tags:
        return None
    if words and len(tags) != len(words):
        what = f"{counted(len(words), 'word')} and {counted(len(tags), 'tag')} in {column!r}"
        mend = "one tag for each word; words with spaces in them: write both as JSON lists"
        findings.add("rows whose words and tags differ in number", what, where, mend)
    elif any(label_name(tag) is None for tag in tags):
        findings.add("rows with an empty tag", f"a tag in {column!r} is empty", where, "write O where there is nothing")
    return tags


def no_text(cell: Any) -> str | None:
    """What a cell holds that cannot be spelled as text; None where it can."""
    return "a list" if isinstance(cell, list) else "an object" if isinstance(cell, dict) else None


def spelled(cell: Any) -> str:
    """A cell as text: numbers are spelled, true and false as in JSON; nothing, and nan, is ""."""
    return cell if isinstance(cell, str) else label_name(cell) or ""


def _text(cell: Any, column: str, where: str, findings: Findings) -> str | None:
    if kind := no_text(cell):
        findings.add("cells that are no text", f"{column!r} holds {kind}, not text", where, "name another column")
        return None
    text = spelled(cell)
    if not text.strip():
        findings.add("rows with an empty text", f"{column!r} is empty", where, "delete the row or fill it in")
        return None
    return text


def _choices(row: dict[str, Any], columns: Columns, where: str, findings: Findings) -> list[str]:
    """The choices of a row; of several columns the last may be empty, where a row has fewer."""
    cells: list[Any] | None = [row[name] for name in columns.choices]
    if len(columns.choices) == 1:
        cell = row[columns.choices[0]]
        cells = _listed(cell.get("text") if isinstance(cell, dict) else cell)
        if cells is None:
            what = f"{columns.choices[0]!r} holds {json.dumps(cell, default=str)[:40]}, not a list of choices"
            mend = 'name a column for each: --choices a b c; or write lists: ["first", "second"]'
            findings.add("cells that are no list of choices", what, where, mend)
            return []
    assert cells is not None
    texts = [spelled(cell) for cell in cells]
    if len(columns.choices) > 1:
        while texts and not texts[-1].strip():
            texts.pop()
    if len(texts) < 2:
        what = f"{counted(len(texts), 'choice')} to choose from"
        findings.add("rows with fewer than two choices", what, where, "a row needs at least two")
        return []
    empty = [i + 1 for i, text in enumerate(texts) if not text.strip()]
    if empty:
        findings.add("rows with an empty choice", f"choice {empty[0]} is empty", where, "delete it or fill it in")
        return []
    return texts


def _listed(cell: Any) -> list[Any] | None:
    """A list, or one that is written in a csv's cell as JSON or as Python prints it."""
    if isinstance(cell, list):
        return cell
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list):
            return found
    return None
