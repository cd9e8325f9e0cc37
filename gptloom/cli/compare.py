"""``gptloom compare``: fine-tuned models on the same labelled rows, and whether their difference is more than chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import Problem, UserError
from gptloom.config.files import check_new_file, write_text
from gptloom.config.finetune import CompareOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import say

if TYPE_CHECKING:
    from gptloom.evaluation.compare_models import Comparison
    from gptloom.evaluation.task_metrics import TaskReport

ENDINGS = (".json", ".md")


def compare_models(resolved: Resolved[CompareOptions]) -> Comparison:
    """Scores each model on the same rows: ``.reports`` by model, and ``.pairs`` with their tests; ``out`` writes both."""
    from gptloom.evaluation.compare_models import check_same_task, compare_reports
    from gptloom.interop.classifiers import task_of
    from gptloom.train.precision import use_threads

    options = resolved.options
    out = None if options.out is None else Path(options.out)
    if out is not None:
        check_new_file(out, endings=ENDINGS)
    twice = sorted({name for name in options.models if options.models.count(name) > 1})
    if twice:
        raise UserError(*(Problem("it is named twice, and would be compared with itself", name) for name in twice))
    check_same_task({name: task_of(name) for name in options.models})
    use_threads(options.threads)
    answered = {name: _answered(name, options) for name in options.models}
    reports = {name: report for name, (report, _) in answered.items()}
    comparison = compare_reports(reports, options.seed, {name: cut for name, (_, cut) in answered.items()})
    if out is not None:
        as_json = out.suffix.lower() == ".json"
        document = json.dumps(comparison.as_dict(), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
        write_text(out, document if as_json else comparison.as_markdown())
    return comparison


def _answered(name: str, options: CompareOptions) -> tuple[TaskReport, dict[str, int] | None]:
    """One model's answers, scored, and what it did not read (``Predicted.cut``); it is let go before the next is opened."""
    from gptloom.evaluation.predictions import predict_tables, read_tables
    from gptloom.interop.classifiers import open_classifier

    classifier = open_classifier(name, device=options.device, precision=options.precision)
    tables = read_tables(classifier.task, options.data, options.columns, options.header)
    predicted = predict_tables(classifier, tables, options.columns)
    if predicted.report is None:
        label = classifier.task.columns.label
        raise UserError(
            Problem(f"no row has a label in column {label!r}", " ".join(options.data), "--columns label=COLUMN")
        )
    if predicted.report.n < len(predicted.rows):
        say(f"{name}: {predicted.report.n:,} of {len(predicted.rows):,} rows have a label")
    if predicted.cut_note is not None:
        say(f"{name}: {predicted.cut_note}")
    return predicted.report, predicted.cut


def run_compare(resolved: Resolved[CompareOptions], out: Output) -> None:
    """Compares fine-tuned models on the same labelled rows: scores with their intervals, and the test of each pair.

    Of classes it is McNemar's exact test of the answers that only one of two models got right; of scores a bootstrap of
    the difference over the same rows.
    """
    comparison = compare_models(resolved)
    out.result(f"{comparison.n:,} labelled rows; 95 % intervals in brackets")
    header, rows = comparison.table()
    out.table(header, rows, right=header[1:])
    out.result()
    header, rows = comparison.pair_table()
    out.table(header, rows, right=header[1:])
    out.result()
    for pair in comparison.pairs:
        out.result(pair.verdict)
    if resolved.options.out is not None:
        out.say(f"\nwritten to {resolved.options.out}")
    out.document(comparison.as_dict())


COMMANDS = {"compare": Command(CompareOptions, run_compare)}
compare = python_function("compare", CompareOptions, compare_models)
