"""Cells of a label column become classes or scores; what cannot be one, and what hardly was meant, is found here."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gptloom.data.findings import Findings, counted, first_few
from gptloom.data.header import number_of

MOST_WHOLE_SCORES = 10  # a numeric column of a similarity with more different values holds scores
FEWEST_ROWS = 5  # with which one class per row is a mistake
LISTED_LABELS = 12
NO_LABELS = ("nan", "none", "null", "-")  # how data frames and SNLI write that there is none

Placed = tuple[str, Any]  # where a cell stands, and the cell


def label_name(cell: Any) -> str | None:
    """The name of a class: the cell without spaces around it; true and false as JSON spells them; None if empty."""
    if isinstance(cell, str):
        return cell.strip() or None
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    return json.dumps(cell) if isinstance(cell, bool) else str(cell)


def holds_scores(cells: Sequence[Any]) -> bool:
    """Whether labels of a similarity are scores: numbers, of which any has a fraction or there are more than ten."""
    filled = [cell for cell in cells if label_name(cell) is not None]
    numbers = [number for cell in filled if (number := number_of(cell)) is not None]
    finite = {number for number in numbers if math.isfinite(number)}
    if 2 * len(numbers) <= len(filled):
        return False
    return len(finite) > MOST_WHOLE_SCORES or any(not number.is_integer() for number in finite)


def read_scores(placed: Sequence[Placed], findings: Findings, training: bool) -> list[float | None]:
    """The score of each cell; None where it is empty. Finds what is no finite number, and scores that are all equal."""
    scores: list[float | None] = []
    for where, cell in placed:
        number = number_of(cell)
        if label_name(cell) is None:
            scores.append(None)
            continue
        if number is None or not math.isfinite(number):
            state = "no number" if number is None else "not finite"
            findings.add("scores that are no finite number", f"the score {cell!r} is {state}", where, "mend or delete")
        scores.append(number)
    values = {score for score in scores if score is not None}
    if training and len(values) == 1 and len(scores) > 1 and not findings:
        findings.add("scores", f"every score is {values.pop():g}: there is nothing to learn", placed[0][0])
    return scores


def learn_classes(placed: Sequence[Placed], column: str, findings: Findings, warnings: list[str]) -> tuple[str, ...]:
    """The names of the classes: in the order of numbers where all are, else of the alphabet.

    Finds a class that is written in several ways (1, 1.0, "1"), a single class, and one class per row.
    """
    _find_mixed(placed, findings)
    named = [(where, name) for where, cell in placed if (name := label_name(cell)) is not None]
    counts = Counter(name for _, name in named)
    if len(counts) == 1:
        what = f"one class only: each of {counted(len(named), 'row')} is {next(iter(counts))!r}"
        mend = f"add examples of the other classes, or another --label than {column}"
        findings.add("one class only", what, named[0][0], mend)
    elif _is_key(len(counts), len(named)):
        what = f"column {column!r} has {len(counts):,} classes in {len(named):,} rows: a column of ids or of free text?"
        findings.add("one class per row", what, named[0][0], "name the column of the classes: --label COLUMN")
    else:
        _warn(counts, warnings)
    numbers = {name: number_of(name) for name in counts}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(counts, key=lambda name: (numbers[name], name)))
    return tuple(sorted(counts))


def class_numbers(placed: Sequence[Placed], labels: Sequence[str], findings: Findings) -> list[int | None]:
    """The class of each cell, None where it is empty. Finds classes that are not among ``labels``."""
    number = {name: i for i, name in enumerate(labels)}
    unseen: dict[str, list[str]] = {}
    classes = []
    for where, cell in placed:
        name = label_name(cell)
        classes.append(None if name is None else number.get(name))
        if name is not None and name not in number:
            unseen.setdefault(name, []).append(where)
    for name, places in unseen.items():
        rows = "the row" if len(places) == 1 else "these rows"
        mend = f"train with examples of it, delete {rows}, or, only to predict, leave the column of labels out"
        value = number_of(name)
        same = [label for label in labels if label.casefold() == name.casefold() or _equal(value, number_of(label))]
        if same:
            mend = f"write it as in training: {same[0]}"
        known = ", ".join(labels[:LISTED_LABELS]) + (", ..." if len(labels) > LISTED_LABELS else "")
        what = f"the label {name!r}, {counted(len(places), 'time')}, is not among those of training: {known}"
        findings.add("labels that training has not seen", what, places[0], mend)
    return classes


def _find_mixed(placed: Sequence[Placed], findings: Findings) -> None:
    """One class in several spellings or types: equal as numbers, or a text that is a JSON value's name."""
    spellings: dict[Any, dict[str, list[str]]] = {}
    for where, cell in placed:
        name, number = label_name(cell), number_of(cell)
        if name is None:
            continue
        key = number if number is not None and math.isfinite(number) else name
        spelling = json.dumps(name, ensure_ascii=False) if isinstance(cell, str) else name
        spellings.setdefault(key, {}).setdefault(spelling, []).append(where)
    for ways in spellings.values():
        if len(ways) > 1:
            several = ", ".join(
                f"{way} ({counted(len(places), 'row')}, first {places[0]})" for way, places in ways.items()
            )
            what = f"one label is written in {len(ways)} ways: {several}"
            rarest = min(ways.values(), key=len)
            findings.add("labels written in several ways", what, rarest[0], "write it in one way")


def _is_key(classes: int, rows: int) -> bool:
    """A class for each row; in larger data also for most rows."""
    return rows >= FEWEST_ROWS and (classes == rows or (rows >= 20 and 2 * classes > rows))


def _warn(counts: Counter[str], warnings: list[str]) -> None:
    rare = [name for name, count in counts.items() if count == 1]
    if rare and sum(counts.values()) >= 20:
        warnings.append(f"{counted(len(rare), 'class has', 'classes have')} one example: {first_few(sorted(rare), 5)}")
    for name in counts:
        if name.casefold() in NO_LABELS:
            warnings.append(f"a class is called {name!r} ({counted(counts[name], 'row')}): rows without a label?")
    folded: dict[str, list[str]] = {}
    for name in counts:
        folded.setdefault(name.casefold(), []).append(name)
    for names in folded.values():
        if len(names) > 1:
            each = ", ".join(f"{name!r} ({counted(counts[name], 'row')})" for name in names)
            warnings.append(f"labels that differ in capitals only are different classes: {each}")


def _equal(a: float | None, b: float | None) -> bool:
    return a is not None and a == b
