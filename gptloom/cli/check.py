"""``gptloom data check``: every problem of a file at once, and what it holds, before a training finds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.data_tools import CheckOptions
from gptloom.config.errors import Problem, UserError
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved, idle
from gptloom.observe.terminal import terminal

if TYPE_CHECKING:
    from gptloom.data.check.measure import Measure
    from gptloom.data.check.report import CheckReport

MOST_FILES = 20
RENDERED = ("sft", "dpo", "reward")
USED_BY = {"template": RENDERED, "max_length": RENDERED, "format": ("sft",), "task": ("finetune",)}
FATAL = 2
"""Exit code where a training would not start."""


def check(resolved: Resolved[CheckOptions]) -> CheckReport:
    """Everything that is wrong or odd in files of examples, and what they hold: ``.problems``, ``.warnings``, ``.is_fine``.

    What is wrong with the files is in the report; ``UserError`` is raised only for options and a model that make no sense.
    """
    options = resolved.options
    _refuse_idle(resolved)
    measure = _measure(options)
    files = (options.data, options.valid, measure)
    base = options.model or "BASE"
    try:
        if options.stage == "finetune":
            from gptloom.data.check.labelled import check_labelled

            return check_labelled(*files, options.task, base)
        if options.stage == "pretrain":
            from gptloom.data.check.documents import check_documents

            return check_documents(*files)
        from gptloom.data.check.conversations import check_conversations, check_preferences

        if options.stage == "sft":
            return check_conversations(*files, _show_progress, options.format, base)
        return check_preferences(*files, _show_progress, options.stage)
    finally:
        terminal.end_live()


def _show_progress(path: str, rows: int) -> None:
    terminal.show_live(f"{path}: {rows:,} rows")


def _refuse_idle(resolved: Resolved[CheckOptions]) -> None:
    """Refuses options that would do nothing."""
    options = resolved.options
    unused = [name for name, stages in USED_BY.items() if options.stage not in stages]
    problems = idle(resolved, unused, f"--stage {options.stage}")
    if options.stage in RENDERED and options.model is None:
        problems += idle(resolved, ("template", "max_length"), "no --model")
    if problems:
        raise UserError(*problems)


def _measure(options: CheckOptions) -> Measure:
    """Counts tokens as the model would read them; without a model, characters."""
    if options.model is None:
        from gptloom.data.check.measure import Characters

        return Characters()
    from gptloom.config.sft import SftOptions
    from gptloom.data.check.conversations import first_conversations
    from gptloom.data.check.tokens import Tokens
    from gptloom.interop.bodies import is_foreign
    from gptloom.interop.open import trained
    from gptloom.model.store import read_chat, read_config
    from gptloom.stages.sft.template import choose_template

    folder, tokenizer = trained(options.model, "a run, a model folder, or hf:NAME")
    if options.stage not in RENDERED:
        return Tokens(tokenizer, None, None if is_foreign(folder) else read_config(folder).context)
    context = read_config(folder).context
    data = first_conversations(options.data, options.format if options.stage == "sft" else "preference")
    as_trained = SftOptions(base=options.model, data=options.data, template=options.template)
    format, tokenizer = choose_template(as_trained, tokenizer, read_chat(folder), data, embeds=True)
    accepted = options.max_length is not None
    return Tokens(tokenizer, format, min(context, options.max_length or context), accepted=accepted)


def run_check(resolved: Resolved[CheckOptions], out: Output) -> int:
    """Reads files of examples as a training would, and says all that is wrong or odd with them, and what they hold.

    Problems stop a training (exit code 2); warnings are worth a look: rows that repeat, held-out prompts that are also
    trained on, garbled characters, rows longer than the model's context, answers that are nearly all the same.
    """
    report = check(resolved)
    _show_files(report, out)
    for note in report.notes:
        out.result(note)
    _show_problems("problem", report.problems, out)
    _show_problems("warning", report.warnings, out)
    out.result()
    out.result(report.verdict)
    out.document(report.as_dict())
    return 0 if report.is_fine else FATAL


def _show_files(report: CheckReport, out: Output) -> None:
    from gptloom.data.check.report import class_lines

    unit = report.lengths["unit"]
    names = ("file", "for", "format", "rows", *(("turns",) if any(facts.turns for facts in report.files) else ()), unit)
    rows = [
        [facts.path, facts.side, facts.format, f"{facts.rows:,}", f"{facts.turns:,}", f"{facts.size:,}"]
        for facts in report.files[:MOST_FILES]
    ]
    if rows:
        out.table(names, rows if "turns" in names else [[*row[:4], row[5]] for row in rows], right=names[3:])
    if more := len(report.files) - len(rows):
        out.result(f"and {more:,} more files")
    if "median" in report.lengths:
        longest = ", ".join(f"{one['length']:,} ({one['where']})" for one in report.lengths["longest"])
        out.result(
            f"{unit} of a row: half have up to {report.lengths['median']:,}, 95 % up to "
            f"{report.lengths['percentile_95']:,}; longest: {longest}"
        )
    if report.classes:
        out.result()
        out.table(("answer", "rows", "share"), class_lines(report.classes), right=("rows", "share"))


def _show_problems(name: str, problems: Sequence[Problem], out: Output) -> None:
    if not problems:
        return
    out.result()
    out.result(f"{name}s:")
    for problem in problems:
        out.result("  " + str(problem).replace("\n", "\n  "))


COMMANDS = {"data check": Command(CheckOptions, run_check)}
data_check = python_function("data_check", CheckOptions, check)
