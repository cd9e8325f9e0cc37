"""Checks of labelled rows for ``finetune``: columns, labels and texts as that command reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from gptloom.config.errors import UserError
from gptloom.config.finetune import ColumnOptions
from gptloom.config.task import Columns, Task
from gptloom.data.check.measure import Measure
from gptloom.data.check.report import CheckReport, FileFacts, Gathered
from gptloom.data.check.survey import Survey, find_garbled
from gptloom.data.columns import guess_columns
from gptloom.data.conll import sentences
from gptloom.data.example import Example
from gptloom.data.findings import Findings
from gptloom.data.tables import Table, read_table
from gptloom.data.task_examples import read_examples


def check_labelled(paths: Sequence[str], valid: Sequence[str], measure: Measure, task: Task, base: str) -> CheckReport:
    """Tables as ``gptloom finetune --task`` reads them, their columns guessed. The rows are held in memory, as there."""
    survey, held_out = Survey(measure.unit, measure.limit), Survey(measure.unit, measure.limit)
    gathered = Gathered("finetune", survey, held_out)
    columns: Columns | None = None
    labels: Sequence[str] | None = None
    for side, one, names in (("train", survey, paths), ("valid", held_out, valid)):
        one.seen.prompts_too = bool(valid)
        tables = _tables(names, gathered)
        if not tables:
            continue
        try:
            if columns is None:
                columns, sentence = guess_columns(tables[0], task, ColumnOptions())
                gathered.notes.append(sentence)
            found = read_examples(tables, task, columns, labels)
        except UserError as error:
            gathered.problems += error.problems
            continue
        labels = labels if labels is not None else found.labels
        gathered.notes += [*found.notes, *found.warnings]
        if task == "tokens":
            tables = [sentences(table) for table in tables]
        each = iter(found.examples)
        for table in tables:
            facts = FileFacts(table.path, side, table.how, len(table.rows))
            gathered.files.append(facts)
            for example in islice(each, facts.rows):
                facts.size += _add(example, found.labels, one, gathered.warnings, measure)
    held = f" --valid {' '.join(valid)}" if valid else ""
    return gathered.report(f"gptloom finetune {base} --task {task} --data {' '.join(paths)}{held}")


def _tables(names: Sequence[str], gathered: Gathered) -> list[Table]:
    tables = []
    for path in names:
        try:
            tables.append(read_table(path))
        except UserError as error:
            gathered.problems += error.problems
    return tables


def _add(example: Example, labels: Sequence[str], survey: Survey, warnings: Findings, measure: Measure) -> int:
    """The length of the example."""
    text = "\n".join(example.texts)
    length = sum(measure.of_texts(example.texts))
    label = labels[example.label] if labels and isinstance(example.label, int) else str(example.label)
    survey.add(example.where, text, label, length)
    find_garbled(text, example.where, warnings)
    return length
