"""The right one of several choices, however a file writes it, and the place of an answer in its context."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from gptloom.config.excerpt import beginning
from gptloom.data.findings import Findings, counted
from gptloom.data.header import number_of
from gptloom.data.labels import label_name

Numbering = Literal["number from 0", "number from 1", "letter", "text"]
Asked = tuple[str, Any, tuple[str, ...]]  # where, the label's cell, the choices


def right_choices(rows: Sequence[Asked], findings: Findings) -> tuple[list[int | None], Numbering | None, bool]:
    """The number from 0 of each row's right choice (None where the cell is empty), how the file writes it, and whether
    that is sure (numbers could count from 0 or from 1 where neither 0 nor the last choice's number occurs).

    A number counts from 0, unless no 0 occurs and the number of the last choice does; a letter A, B, ... ; or the
    choice's own text. What most rows have holds for all; a row that has something else is found, as is a right choice
    beyond the choices.
    """
    filled = [row for row in rows if label_name(row[1]) is not None]
    if not filled:
        return [None] * len(rows), None, True
    numbering, sure = _numbering(filled)
    found: list[int | None] = []
    for where, cell, choices in rows:
        if label_name(cell) is None:
            found.append(None)
            continue
        right = _right(cell, choices, numbering)
        if right is None or not 0 <= right < len(choices):
            shown = f"the right choice {cell!r} is none of {counted(len(choices), 'choice')}"
            mend = (
                f"as in most rows, a {numbering}" if numbering != "text" else "the text of one of them, or its number"
            )
            findings.add("right choices beyond the choices", shown, where, mend)
        found.append(right)
    return found, numbering, sure


def _numbering(rows: Sequence[Asked]) -> tuple[Numbering, bool]:
    kinds = Counter(_kind(cell, choices) for _, cell, choices in rows)
    kind = kinds.most_common(1)[0][0]
    if kind != "number":
        return ("letter" if kind == "letter" else "text"), True
    numbers = [(number_of(cell), len(choices)) for _, cell, choices in rows]
    if any(number == 0 for number, _ in numbers):
        return "number from 0", True
    last = any(number == count for number, count in numbers)
    return ("number from 1" if last else "number from 0"), last


def _kind(cell: Any, choices: tuple[str, ...]) -> str:
    name = label_name(cell) or ""
    number = number_of(cell)
    if number is not None and number.is_integer() and 0 <= number <= len(choices):
        return "number"
    if _own(name, choices) is not None:
        return "text"
    if len(name) == 1 and "a" <= name.lower() <= "z":
        return "letter"
    return "number" if number is not None else "text"


def _right(cell: Any, choices: tuple[str, ...], numbering: Numbering) -> int | None:
    name = label_name(cell) or ""
    if numbering == "text":
        return _own(name, choices)
    if numbering == "letter":
        return ord(name.lower()) - ord("a") if len(name) == 1 and name.isascii() and name.isalpha() else None
    number = number_of(cell)
    if number is None or not number.is_integer():
        return None
    return int(number) - (numbering == "number from 1")


def _own(name: str, choices: tuple[str, ...]) -> int | None:
    """The only choice of this text, capitals aside where they do not tell two apart."""
    same = [i for i, choice in enumerate(choices) if choice.strip() == name]
    same = same or [i for i, choice in enumerate(choices) if choice.strip().casefold() == name.casefold()]
    return same[0] if len(same) == 1 else None


def keyed(choices: Any, label: Any) -> Any:
    """The number from 0 of a ``label`` that is the key of a choice, in ``{"text": [...], "label": ["A", "B", ...]}`` as
    ARC is published (where some rows have 1, 2, ... for keys); else the label."""
    keys = choices.get("label") if isinstance(choices, dict) else None
    return keys.index(label) if isinstance(keys, list) and label in keys else label


def answer_and_start(cell: Any, start: Any) -> tuple[str | None, Any]:
    """The answer's text and where it is said to begin; of SQuAD's ``{"text": [...], "answer_start": [...]}`` and of
    lists of answers the first."""
    if isinstance(cell, dict):
        start = cell.get("answer_start") if start is None else start
        cell = cell.get("text")
    elif isinstance(cell, list) and cell and isinstance(cell[0], dict):
        return answer_and_start(cell[0], start)
    if isinstance(cell, list):
        cell = cell[0] if cell else None
    if isinstance(start, list):
        start = start[0] if start else None
    return (None if cell in ("", None) else str(cell)), start


def place_answer(context: str, answer: str, start: Any, where: str, findings: Findings) -> tuple[int, int] | None:
    """Characters (first, one past the last) of ``answer`` in ``context``; the first occurrence where no start is given.

    Finds an answer that does not stand there, and says where it does if there is only one such place.
    """
    shown = json.dumps(beginning(answer, 40), ensure_ascii=False)
    times = context.count(answer)
    if start in ("", None):
        if not times:
            findings.add(
                "answers that are not in their context",
                f"the answer {shown} does not occur in the context",
                where,
                "an answer is a piece of the context, letter by letter",
            )
            return None
        first = context.index(answer)
        return first, first + len(answer)
    number = number_of(start)
    if number is None or not number.is_integer():
        findings.add("starts that are no number", f"the start {start!r} is no whole number", where)
        return None
    first = int(number)
    if first >= 0 and context.startswith(answer, first):
        return first, first + len(answer)
    there = context[max(0, first) : max(0, first) + 20] if 0 <= first < len(context) else "nothing"
    elsewhere = {0: "it does not occur in it", 1: f"it occurs once, at {context.find(answer)}"}.get(
        times, f"it occurs {times} times elsewhere"
    )
    findings.add(
        "answers that are not at their place",
        f"the answer {shown} is not at character {first} of the context, where {there!r} stands; {elsewhere}",
        where,
        "starts count characters from 0, not bytes; without a start column the first occurrence is taken",
    )
    return None
