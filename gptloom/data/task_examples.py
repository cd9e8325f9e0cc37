"""Rows of a user's tables become examples of a task; everything that is wrong with them is told at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from gptloom.config.task import Columns, Preprocess, Task, TaskConfig
from gptloom.data.answers import answer_and_start, keyed, place_answer, right_choices
from gptloom.data.cells import no_text, tags_of, texts_of
from gptloom.data.columns import check_columns, with_roles
from gptloom.data.conll import sentences
from gptloom.data.example import Example, Examples
from gptloom.data.findings import Findings, counted
from gptloom.data.labels import class_numbers, holds_scores, label_name, learn_classes, read_scores
from gptloom.data.preprocess import preprocess
from gptloom.data.tables import Table


@dataclass(frozen=True)
class _Row:
    where: str
    row: int
    texts: tuple[str, ...]  # () where they are wrong
    label: Any  # the cell
    start: Any = None  # of a span: the cell


def read_examples(
    tables: Sequence[Table],
    task: Task,
    columns: Columns,
    labels: Sequence[str] | None,
    preprocess: Sequence[Preprocess] = (),
) -> Examples:
    """The examples of all tables, every one with its label. ``preprocess`` changes their texts.

    ``labels`` None: the classes are learned from the data (training), else they are these; () are scores, choices or
    spans. Raises ``UserError`` with all that is wrong with the data, a few of each kind and a count.
    """
    return _Reader(task, columns, labels, preprocess, labelled=True).read(tables)


def for_prediction(table: Table, task: TaskConfig, roles: Sequence[str] = ()) -> list[Example]:
    """The examples of a table for a trained model: without a label column, or with empty cells in it, label is None.

    ``roles`` name columns that are called otherwise than in training, as ``text=review``; a label column named there
    must exist. Raises ``UserError`` like ``read_examples``.
    """
    columns = with_roles(task.columns, roles)
    named = any(role.startswith("label=") for role in roles)
    check_columns(table, columns, label_needed=named)
    if columns.label not in table.names:
        columns = columns.model_copy(update={"label": None, "start": None})
    return _Reader(task.task, columns, task.labels, task.preprocess, labelled=False).read([table]).examples


class _Reader:
    """One pass over the rows for texts and label cells, one over the cells for labels."""

    def __init__(
        self,
        task: Task,
        columns: Columns,
        labels: Sequence[str] | None,
        steps: Sequence[Preprocess],
        *,
        labelled: bool,
    ) -> None:
        assert not steps or task not in ("span", "tokens"), "answers would move, tagged words vanish"
        self.task = task
        self.columns = columns
        self.known = labels
        self.steps = steps
        self.labelled = labelled
        self.findings = Findings()
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def read(self, tables: Sequence[Table]) -> Examples:
        if self.task == "tokens":
            tables = [sentences(table) for table in tables]
        for table in tables:
            check_columns(table, self.columns, label_needed=self.labelled)
        rows = [self._row(table, i) for table in tables for i in range(len(table.rows))]
        self._find_unlabelled(rows)
        self._find_single_words(rows)
        values, labels = self._settled(rows)
        self.findings.check()
        self._count_choices(rows)
        self._count_emptied(rows)
        examples = [Example(row.where, row.texts, value, row.row) for row, value in zip(rows, values, strict=True)]
        return Examples(examples, labels, self.warnings, self.notes)

    def _row(self, table: Table, i: int) -> _Row:
        cells, where, columns = table.rows[i], table.where(i), self.columns
        texts = texts_of(self.task, cells, columns, where, self.findings)
        label = cells[columns.label] if columns.label is not None else None
        start = cells[columns.start] if columns.start is not None else None
        if self.task == "span":
            label, start = answer_and_start(label, start)
        if self.task == "choice":
            label = keyed(cells[columns.choices[0]], label)
        if self.task == "tokens" and columns.label is not None:
            label = tags_of(label, texts, columns.label, where, self.findings)
        return _Row(where, i, tuple(preprocess(text, self.steps) for text in texts), label, start)

    def _find_unlabelled(self, rows: Sequence[_Row]) -> None:
        column = self.columns.label
        mend = "an answer must be a piece of the context" if self.task == "span" else "delete the row or fill it in"
        for row in rows:
            if self.task != "tokens" and (kind := no_text(row.label)):
                what = f"{column!r} holds {kind}: a row has one label"
                self.findings.add("labels that are lists", what, row.where, "name another --label")
            elif self.labelled and (row.label is None or label_name(row.label) is None):
                nan = " (NaN)" if isinstance(row.label, float) else ""
                self.findings.add("rows without a label", f"no label in column {column!r}{nan}", row.where, mend)

    def _find_single_words(self, rows: Sequence[_Row]) -> None:
        """Of tagged words, a sentence must be learned from: one word is its own context."""
        if self.task == "tokens" and self.known is None and len(rows) > 1 and all(len(row.texts) == 1 for row in rows):
            what = f"every row has a single word in column {self.columns.text!r}, so that no word has a context"
            mend = (
                "a row is a sentence: its words and its tags, each a space apart; or a word and its tag on each line,"
                " with a blank line after each sentence"
            )
            self.findings.add("rows of one word", what, rows[0].where, mend)

    def _settled(self, rows: Sequence[_Row]) -> tuple[Sequence[Any], tuple[str, ...]]:
        """The label of each row, and the names of the classes."""
        if self.task == "choice":
            return self._right_choices(rows), ()
        if self.task == "span":
            return [self._place(row) for row in rows], ()
        if self.task == "tokens":
            return self._tags(rows)
        placed = [(row.where, row.label) for row in rows]
        if self.task == "regress" or (self.task == "similar" and self._scores(placed)):
            return read_scores(placed, self.findings, training=self.known is None), ()
        return self._classes(placed)

    def _scores(self, placed: Sequence[tuple[str, Any]]) -> bool:
        if self.known is not None:
            return not self.known
        scores = holds_scores([cell for _, cell in placed])
        kind = "scores" if scores else "classes (--task regress for scores)"
        self.notes.append(f"the labels of {self.columns.label!r} are taken as {kind}")
        return scores

    def _classes(self, placed: Sequence[tuple[str, Any]]) -> tuple[list[int | None], tuple[str, ...]]:
        if self.known is not None:
            return class_numbers(placed, self.known, self.findings), tuple(self.known)
        names = learn_classes(placed, str(self.columns.label), self.findings, self.warnings)
        return class_numbers(placed, names, self.findings), names

    def _tags(self, rows: Sequence[_Row]) -> tuple[list[tuple[int | None, ...] | None], tuple[str, ...]]:
        placed = [(row.where, tag) for row in rows for tag in row.label or ()]
        numbers, names = self._classes(placed)
        each = iter(numbers)
        return [tuple(next(each) for _ in row.label) if row.label else None for row in rows], names

    def _right_choices(self, rows: Sequence[_Row]) -> list[int | None]:
        asked = [(row.where, row.label, row.texts[1:]) for row in rows if row.texts]
        found, numbering, sure = right_choices(asked, self.findings)
        if numbering is not None:
            self.notes.append(f"the right choice in {self.columns.label!r} is taken as a {numbering}")
        if not sure:
            self.warnings.append(
                f"the right choice in {self.columns.label!r} may count from 0 or from 1 (no row has 0 or the last"
                " choice's number); it is taken to count from 0"
            )
        each = iter(found)
        return [next(each) if row.texts else None for row in rows]

    def _place(self, row: _Row) -> tuple[int, int] | None:
        if row.label is None or not row.texts:
            return None
        return place_answer(row.texts[0], row.label, row.start, row.where, self.findings)

    def _count_choices(self, rows: Sequence[_Row]) -> None:
        counts = Counter(len(row.texts) - 1 for row in rows) if self.task == "choice" else Counter()
        if len(counts) > 1:
            each = ", ".join(f"{n} in {counted(counts[n], 'row')}" for n in sorted(counts))
            self.warnings.append(f"rows have different numbers of choices: {each}")

    def _count_emptied(self, rows: Sequence[_Row]) -> None:
        emptied = sum(not text for text in chain.from_iterable(row.texts for row in rows))
        if emptied:
            texts = counted(emptied, "text has", "texts have")
            self.warnings.append(f"{texts} no word left after --preprocess {' '.join(self.steps)}")
