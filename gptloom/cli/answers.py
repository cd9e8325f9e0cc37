"""The part of ``gptloom evaluate`` that lets an instructed model answer, and prints how good its answers are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptloom.cli.output import Output
from gptloom.config.errors import UserError
from gptloom.config.evaluate import EvaluateOptions
from gptloom.config.excerpt import beginning
from gptloom.config.resolve import Resolved, idle
from gptloom.observe.glossary import interval_text, written
from gptloom.observe.terminal import printable

if TYPE_CHECKING:
    from gptloom.evaluation.answers import Answer, AnswersReport, TaskAnswers
    from gptloom.model.reference import Reference

OF_TEXT = ("stride", "text_column", "document_separator", "encoding", "untrained")
OF_ANSWERS = ("rows", "max_tokens", "samples", "seed")
LONGEST_TEXT = 300
"""Characters of a prompt or an answer that are shown."""


def evaluate_answers(resolved: Resolved[EvaluateOptions], reference: Reference) -> AnswersReport:
    """Reads the conversations of all files and scores what the model answers to each, task by task."""
    from gptloom.data.instruction_formats import read_conversations
    from gptloom.evaluation.answers import answer_report, check_answers
    from gptloom.interop.chat import open_chat
    from gptloom.train.precision import use_threads

    options = resolved.options
    if problems := idle(resolved, OF_TEXT, "answers are scored, not how text is predicted"):
        raise UserError(*problems)
    conversations = read_conversations(options.data).conversations
    check_answers(conversations)
    use_threads(options.threads)
    model = open_chat(reference, device=options.device, precision=options.precision)
    return answer_report(model, conversations, options.rows, options.seed, options.max_tokens)


def show_answers(report: AnswersReport, samples: int, out: Output) -> None:
    """A table of every task's figures beside their baseline, then some answers of each."""
    header = ("task", "answers", "metric", "score", "95 % interval", "without a model", "baseline")
    rows = [row for task in report.tasks.values() for row in _rows(task)]
    out.table(header, rows, right=("answers", "score", "95 % interval", "without a model"))
    for task in report.tasks.values():
        if task.too_long:
            out.say(f"{task.task}: {task.too_long:,} more do not fit the context and were not asked")
    for task in report.tasks.values():
        for answer in task.answers[:samples]:
            _show_sample(task.task, answer, out)


def _rows(task: TaskAnswers) -> list[tuple[str, ...]]:
    """A row for each figure, the one to look at first above; then how many answers end, and are of the right form."""
    figures = task.scores.figures
    names = sorted(figures, key=lambda name: name != task.first)
    shares = {"stopping": task.stopping, **({} if task.among is None else {"among": task.among})}
    rows: list[tuple[str, ...]] = []
    for name, value in [*((name, figures[name]) for name in names), *shares.items()]:
        known = task.baseline.figures.get(name)
        beside = ("", "") if known is None else (written(name, known), printable(task.baseline.answer[:40]))
        begin = (task.task, f"{task.n:,}") if not rows else ("", "")
        rows.append((*begin, name, written(name, value), interval_text(name, task.intervals.get(name)), *beside))
    return rows


def _show_sample(task: str, answer: Answer, out: Output) -> None:
    out.say(f"\n{task}, {answer.where}:")
    end = "" if answer.stopped else "  (did not end by itself)"
    for name, text in (("prompt", answer.prompt), ("right", answer.right), ("answer", answer.answer)):
        line = printable(" ".join(text.split()))
        out.say(f"  {name:<7} {beginning(line, LONGEST_TEXT)}{end if name == 'answer' else ''}")
