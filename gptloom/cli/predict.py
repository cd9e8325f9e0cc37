"""``gptloom predict``: what a fine-tuned model says of a file's rows or of texts, and how good that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.cli.stdin import texts_given
from gptloom.config.errors import Problem, UserError
from gptloom.config.excerpt import beginning
from gptloom.config.files import check_new_file
from gptloom.config.finetune import PredictOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved, idle
from gptloom.observe.glossary import written
from gptloom.observe.task_section import commonest_confusions
from gptloom.observe.terminal import printable

if TYPE_CHECKING:
    from gptloom.evaluation.predictions import Predicted
    from gptloom.evaluation.task_metrics import TaskReport

MOST_CLASSES = 12
"""Of more classes the commonest confusions are printed instead of a matrix."""
MOST_PROBABILITIES = 6
"""Of more classes the probabilities of --text are left to --out and --json."""
LONGEST_TEXT = 70


def predict_rows(resolved: Resolved[PredictOptions]) -> Predicted:
    """Answers texts, or the rows of tables: ``.predictions``, ``.table()``, and, where rows have labels, ``.report``.

    With ``out`` the table is also written to that file.
    """
    from gptloom.evaluation.predictions import ENDINGS, predict_tables, predict_texts, read_tables, write_predictions
    from gptloom.interop.classifiers import open_classifier
    from gptloom.train.precision import use_threads

    options = resolved.options
    _check(resolved)
    if options.out is not None:
        check_new_file(Path(options.out), options.overwrite, ENDINGS)
    texts = texts_given(options.text)
    use_threads(options.threads)
    classifier = open_classifier(options.model, device=options.device, precision=options.precision)
    if options.data:
        tables = read_tables(classifier.task, options.data, options.columns, options.header)
        predicted = predict_tables(classifier, tables, options.columns)
    else:
        predicted = predict_texts(classifier, texts, options.second, options.choices)
    if options.out is not None:
        write_predictions(Path(options.out), predicted)
    return predicted


def _check(resolved: Resolved[PredictOptions]) -> None:
    """Refuses options that would do nothing."""
    options, problems = resolved.options, []
    if bool(options.data) == bool(options.text):
        what = "both --data and --text are given" if options.data else "there is nothing to answer"
        problems.append(Problem(what, mend="--data FILE, or --text TEXT"))
    problems += [] if options.text else idle(resolved, ("second", "choices"), "it is for --text")
    problems += [] if options.data else idle(resolved, ("columns", "header", "mistakes"), "it is for --data")
    if options.out is not None:
        problems += idle(resolved, ("rows",), "--out has all rows")
    elif options.overwrite:
        problems += idle(resolved, ("overwrite",), "it is for --out")
    if options.choices and len(options.text) > 1:
        problems.append(Problem("--choices are of a single --text", mend="several questions: --data FILE"))
    if problems:
        raise UserError(*problems)


def run_predict(resolved: Resolved[PredictOptions], out: Output) -> None:
    """Says what a fine-tuned model answers: classes, scores, choices, tags or answers, and how sure it is.

    Rows of --data keep their columns in --out, which gets prediction, confidence and the probability of each class. Where
    they have the label column, the answers are scored beside what the most frequent class alone would reach.
    """
    options = resolved.options
    predicted = predict_rows(resolved)
    if predicted.cut_note is not None:
        out.say(predicted.cut_note)
    if options.out is not None:
        out.say(f"{len(predicted.rows):,} rows written to {options.out}")
    else:
        _show_rows(predicted, len(predicted.rows) if options.text else options.rows, out)
    report = predicted.report
    if report is not None:
        if report.n < len(predicted.rows):
            out.say(f"{report.n:,} of {len(predicted.rows):,} rows have a label")
        if options.out is None:
            out.result()
        show_report(report, options.mistakes, out)
    out.document(
        {
            "model": options.model,
            "n": len(predicted.rows),
            "cut": predicted.cut,
            **({"rows": predicted.table()} if options.out is None else {"out": options.out}),
            "report": None if report is None else report.as_dict(),
        }
    )


def _show_rows(predicted: Predicted, rows: int, out: Output) -> None:
    """The first rows: what was read, the right answer where it is known, the answer, and how sure the model is."""
    table, task = predicted.table()[:rows], predicted.task
    if not table:
        return
    label = task.columns.label if any(row.get(task.columns.label or "") is not None for row in table) else None
    answers = [name for name in predicted.columns if name not in predicted.names]
    if len(answers) > MOST_PROBABILITIES + 2 or predicted.report is not None:
        answers = [name for name in answers if not name.startswith("p(")]
    header = ["text", *([label] if label else []), *answers]
    cells = [
        [_short(" / ".join(_texts_of(predicted, place))), *(_cell(row.get(name)) for name in header[1:])]
        for place, row in enumerate(table)
    ]
    out.table(header, cells, right=[name for name in answers if name != "prediction" or task.is_score])
    if rows < len(predicted.rows):
        out.say(f"... of {len(predicted.rows):,} rows; --out FILE.csv writes all")


def _texts_of(predicted: Predicted, place: int) -> tuple[str, ...]:
    texts = predicted.examples[place].texts
    return (" ".join(texts),) if predicted.task.task == "tokens" else texts


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return _short(" ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value))


def _short(text: str) -> str:
    return beginning(printable(" ".join(text.split())), LONGEST_TEXT)


# ---- how good the answers are ----------------------------------------------------------------------------------------


def show_report(report: TaskReport, mistakes: int, out: Output) -> None:
    """Prints scores beside their interval and their baseline, classes, confusions and the most confident mistakes."""
    header = ["metric", "score", "95 % interval", f"baseline: {report.baseline_answer}"]
    rows = []
    for name, value in report.metrics.items():
        spread = " to ".join(written(name, edge) for edge in report.intervals.get(name, ()))
        known = written(name, report.baseline[name]) if name in report.baseline else ""
        rows.append([name, written(name, value), spread, known])
    out.result(f"{report.n:,} labelled rows")
    out.table(header, rows, right=header[1:])
    _show_classes(report, out)
    _show_confusion(report, out)
    found = report.mistakes(mistakes)
    if found:
        out.result(f"\n{'farthest off' if report.task.is_score else 'the most confident mistakes'} ({len(found)}):")
    for mistake in found:
        surely = "" if mistake.confidence is None else f" ({written('accuracy', mistake.confidence)} sure)"
        out.result(printable(f"  {mistake.where}: {mistake.answer}{surely}, right is {mistake.truth}"))
        for text in mistake.texts:
            out.result(f"    {printable(' '.join(text.split()))}")


def _show_classes(report: TaskReport, out: Output) -> None:
    if not report.per_class:
        return
    figures = ("precision", "recall", "f1")
    rows = [
        [row["label"], *(written(name, row[name]) for name in figures), f"{row['support']:,}", f"{row['predicted']:,}"]
        for row in report.per_class
    ]
    header = ["class", *figures, "there", "answered"]
    out.result()
    out.table(header, rows, right=header[1:])


def _show_confusion(report: TaskReport, out: Output) -> None:
    labels, matrix = report.task.labels, report.confusion
    if matrix is None:
        return
    out.result()
    if len(labels) > MOST_CLASSES:
        pairs = commonest_confusions(labels, matrix, 10)
        out.table(["right", "answered", "how often"], pairs, right=["how often"])
        return
    corner = "right ↓  answered →"
    rows = [[label, *(f"{count:,}" for count in row)] for label, row in zip(labels, matrix, strict=True)]
    out.table([corner, *labels], rows, right=labels)


COMMANDS = {"predict": Command(PredictOptions, run_predict)}
predict = python_function("predict", PredictOptions, predict_rows)
