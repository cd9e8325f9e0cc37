"""``gptloom data instruct``: a labelled set as instructions and answers, for a mix of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.data_tools import InstructOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import printable

if TYPE_CHECKING:
    from gptloom.data.instruct.mix import Instructed

MOST_ANSWERS = 12
LONGEST_EXAMPLE = 1000
"""Characters of the example that is shown."""


def instruct_rows(resolved: Resolved[InstructOptions]) -> Instructed:
    """Turns labelled rows into conversations: several wordings, answers in words, ``.conversations`` and ``.valid``."""
    from gptloom.data.instruct.mix import instruct

    return instruct(resolved.options)


def run_instruct(resolved: Resolved[InstructOptions], out: Output) -> None:
    """Turns a labelled set into instructions and answers, for gptloom sft: every task becomes text to text.

    Each row is asked in one of several wordings, chosen by --seed. The file keeps the name of the task and the metric by
    which gptloom evaluate scores its answers. Several such files are a mix: gptloom sft BASE --data a.jsonl b.jsonl
    """
    made = instruct_rows(resolved)
    for sentence in made.sentences:
        out.say(sentence)
    for warning in made.warnings:
        out.say(f"warning: {warning}")
    _show(made, out)
    first = made.conversations[0]
    out.document(
        {
            "out": str(made.out),
            "valid_out": None if made.valid_out is None else str(made.valid_out),
            "rows": len(made.conversations),
            "valid_rows": len(made.valid),
            "task": first.task,
            "metric": made.metric,
            "wordings": made.wordings,
            "answers": dict(made.answers.most_common(MOST_ANSWERS)),
            "example": [message.as_dict() for message in first.messages],
            "sentences": list(made.sentences),
            "warnings": list(made.warnings),
        }
    )


def _show(made: Instructed, out: Output) -> None:
    """The first conversation, what the answers are, and what to do next."""
    first = made.conversations[0]
    for message in first.messages:
        lines = [printable(line) for line in message.content[:LONGEST_EXAMPLE].split("\n")]
        out.say("\n".join([f"\n{message.role}:", *lines]))
    out.say()
    answers = made.answers
    if len(answers) <= MOST_ANSWERS:
        each = ", ".join(f"{answer} {count:,}" for answer, count in answers.items())
        out.say(f"answers: {each}")
    wordings = f"in {made.wordings} wordings, to be scored by {made.metric}"
    out.result(f"{made.out}: {len(made.conversations):,} conversations {wordings}")
    if made.valid_out is not None:
        out.result(f"{made.valid_out}: {len(made.valid):,} held back")
    valid = "" if made.valid_out is None else f" --valid {made.valid_out}"
    out.say(f"\nnext:  gptloom sft BASE --data {made.out}{valid}")


COMMANDS = {"data instruct": Command(InstructOptions, run_instruct)}
data_instruct = python_function("data_instruct", InstructOptions, instruct_rows)
