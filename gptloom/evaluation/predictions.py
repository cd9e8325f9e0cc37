"""Answers for the rows of a user's tables, and the table that they become."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.config.task import TaskConfig
from gptloom.data.columns import declared_names, with_roles
from gptloom.data.conll import sentences
from gptloom.data.example import Example
from gptloom.data.header_check import check_header
from gptloom.data.tables import Table, read_table
from gptloom.data.task_examples import for_prediction
from gptloom.data.task_inputs import cut_sentence
from gptloom.evaluation.task_metrics import TaskReport, evaluate_task

if TYPE_CHECKING:
    from gptloom.generation.classifier import Classifier, Prediction

ENDINGS = (".csv", ".tsv", ".jsonl")
ADDED = ("prediction", "confidence")
DIGITS = 6


@dataclass(frozen=True)
class Predicted:
    """The rows that were given, and the answer to each; ``report`` where rows have a label."""

    task: TaskConfig
    names: tuple[str, ...]
    """The input's own columns."""
    rows: list[dict[str, Any]]
    examples: list[Example]
    predictions: list[Prediction]
    report: TaskReport | None

    @property
    def cut(self) -> dict[str, int] | None:
        """Rows that were too long, their tokens that were not read, and words that were tagged unread; None: no such."""
        rows = [said for said in self.predictions if said.cut]
        if not rows:
            return None
        return {
            "rows": len(rows),
            "tokens": sum(said.cut for said in rows),
            "words": sum(said.unread for said in rows),
        }

    @property
    def cut_note(self) -> str | None:
        """``cut`` in a sentence."""
        found = self.cut
        if found is None:
            return None
        task = self.task
        pairs = zip(self.examples, self.predictions, strict=True)
        cut = [(example.where, said.cut) for example, said in pairs if said.cut]
        unread = ""
        if found["words"]:
            usual = "O" if "O" in task.labels else task.labels[0]
            unread = f"; {found['words']:,} words beyond are answered {usual!r} unread"
        return cut_sentence(task, "", cut, len(self.rows)) + unread

    @property
    def columns(self) -> list[str]:
        """The input's columns, the prediction, its confidence, and the probability of each class or choice."""
        return list(dict.fromkeys(name for row in self._table for name in row))

    def table(self) -> list[dict[str, Any]]:
        """Every row with what was added to it. Of a choice the prediction is its text, and ``p(1)`` is of the first."""
        return self._table

    @cached_property
    def _table(self) -> list[dict[str, Any]]:
        return [
            {name: row.get(name) for name in self.names} | self._added(example, said)
            for row, example, said in zip(self.rows, self.examples, self.predictions, strict=True)
        ]

    def _added(self, example: Example, said: Prediction) -> dict[str, Any]:
        """Scores have no confidence, and tags and spans no probabilities to show."""
        probabilities = said.probabilities or {}
        if self.task.task == "choice":
            answer: Any = example.texts[1 + said.answer]
            probabilities = {str(place): p for place, p in enumerate(probabilities.values(), start=1)}
        else:
            answer = round(said.answer, DIGITS) if self.task.is_score else said.answer
        confidence = {} if said.confidence is None else {"confidence": round(said.confidence, DIGITS)}
        each = {f"p({label})": round(p, DIGITS) for label, p in probabilities.items()}
        return {"prediction": answer, **confidence, **each}


def read_tables(task: TaskConfig, data: Sequence[str], roles: Sequence[str], header: bool | None) -> list[Table]:
    """The tables named by ``data``; ``roles`` are columns called otherwise than in training, as ``text=review``.

    Raises:
        UserError: files that are missing or no tables, roles that are none, a first row of names where the model's
            columns are counted, or the reverse.
    """
    columns = with_roles(task.columns, roles)
    tables = [read_table(path, header, declared_names(columns)) for path in data]
    for table in tables:
        check_header(table, columns, header)
    return [sentences(table) for table in tables] if task.task == "tokens" else tables


def predict_tables(classifier: Classifier, tables: Sequence[Table], roles: Sequence[str] = ()) -> Predicted:
    """Answers every row of the tables, and scores the answers of those that have a label.

    Raises:
        UserError: rows without what the task asks for, labels that the model does not know, columns that would be written
            over.
    """
    check_names(tables)
    examples = [example for table in tables for example in for_prediction(table, classifier.task, roles)]
    names = tuple(dict.fromkeys(name for table in tables for name in table.names))
    rows = [row for table in tables for row in table.rows]
    return _predicted(classifier, names, rows, examples, classifier.predict(examples))


def predict_texts(
    classifier: Classifier, texts: Sequence[str], second: Sequence[str] = (), choices: Sequence[str] = ()
) -> Predicted:
    """Answers texts; see ``Classifier.classify`` for what it refuses."""
    predictions = classifier.classify(list(texts), list(second) or None, list(choices))
    rows = [{"text": text, **({"second": second[place]} if second else {})} for place, text in enumerate(texts)]
    examples = [Example(f"text {place + 1}", (*row.values(), *choices), None, place) for place, row in enumerate(rows)]
    return _predicted(classifier, tuple(rows[0]), rows, examples, predictions)


def _predicted(
    classifier: Classifier,
    names: tuple[str, ...],
    rows: list[dict[str, Any]],
    examples: list[Example],
    predictions: list[Prediction],
) -> Predicted:
    labelled = [pair for pair in zip(examples, predictions, strict=True) if pair[0].label is not None]
    report = None
    if labelled:
        report = evaluate_task(classifier.task, [example for example, _ in labelled], [said for _, said in labelled])
    return Predicted(classifier.task, names, rows, examples, predictions, report)


def check_names(tables: Sequence[Table]) -> None:
    """``UserError`` where a table has a column that predictions would be written over."""
    problems = [
        Problem(f"it has a column {name!r} already, which predictions are written to", table.path, "rename that column")
        for table in tables
        for name in table.names
        if name in ADDED or (name.startswith("p(") and name.endswith(")"))
    ]
    if problems:
        raise UserError(*problems)


# ---- files -----------------------------------------------------------------------------------------------------------


def write_predictions(path: Path, predicted: Predicted) -> None:
    """Writes ``predicted.table()`` as csv, tsv or jsonl by the ending of ``path``, whole or not at all.

    Raises:
        UserError: a cell with a tab or a line end in a tsv, which has no way to say so.
    """
    writers: dict[str, Callable[[Path, Predicted], str]] = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl}
    write_text(path, writers[path.suffix.lower()](path, predicted))


def _jsonl(path: Path, predicted: Predicted) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in predicted.table())


def _csv(path: Path, predicted: Predicted) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(_cells(predicted))
    return file.getvalue()


def _tsv(path: Path, predicted: Predicted) -> str:
    lines: list[str] = []
    for cells in _cells(predicted):
        if any(letter in cell for cell in cells for letter in "\t\n\r"):
            what = f"row {len(lines)} has a tab or a line end in a cell, and a tsv has no quotes"
            raise UserError(Problem(what, str(path), "--out NAME.csv or NAME.jsonl"))
        lines.append("\t".join(cells) + "\n")
    return "".join(lines)


def _cells(predicted: Predicted) -> list[list[str]]:
    """The names of the columns, then every row, as text; tags a space apart, other lists as JSON."""
    columns = predicted.columns

    def cell(name: str, value: Any) -> str:
        if name == "prediction" and isinstance(value, list):
            return " ".join(value)
        if isinstance(value, list | dict):
            return json.dumps(value, ensure_ascii=False, default=str)
        return "" if value is None else str(value)

    return [columns, *([cell(name, row.get(name)) for name in columns] for row in predicted.table())]
