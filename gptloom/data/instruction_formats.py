"""Instruction data of every format become conversations; what is wrong with a row is found, all files at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.data.conversation import Conversation, Message
from gptloom.data.findings import Findings, counted
from gptloom.data.instruction_detection import (
    FORMATS,
    Format,
    FormatName,
    detect,
    format_of,
    looks_like_instructions,
    plain_name,
)
from gptloom.data.instruction_names import ABOUT_ROWS, HISTORIES, INPUTS, INSTRUCTIONS, SYSTEMS, TOOLS
from gptloom.data.rows import Row, read_rows
from gptloom.data.transcripts import is_transcript, transcript_messages
from gptloom.data.turns import Notes, are_messages, check_turns, listed, message_of, messages_of, text_of

__all__ = [
    "FORMATS",
    "Conversations",
    "Format",
    "conversations_of",
    "detect",
    "format_of",
    "looks_like_instructions",
    "read_conversations",
]

OTHER_FORMAT = "rows of another format"
"""A kind of findings."""
METRICS = ("exact", "f1", "bleu", "rouge")


def conversations_of(
    row: Row, format: Format, findings: Findings, warnings: Findings | None = None, task: str = ""
) -> list[Conversation]:
    """All conversations of a row: one, but Self-Instruct's seeds have several instances of an instruction."""
    about_answer = f"{format.answer}: " if format.name == "preference" else ""
    notes = Notes(row.where, findings, Findings() if warnings is None else warnings, about_answer)
    if not _has_columns(row, format, notes):
        return []
    about = {plain_name(name): value for name, value in row.values.items()}
    system = _first(about, SYSTEMS)
    tools = _tools(_first(about, TOOLS))
    metric, source = about.get("metric"), about.get("source")
    known = metric in METRICS
    found = []
    for messages in _READERS[format.name](row.values, format, about, notes):
        if system and isinstance(system, str) and messages and messages[0].role != "system":
            messages = [Message("system", system), *messages]
        if not notes.is_wrong:
            check_turns(messages, notes)
        if notes.is_wrong or not any(message.weight for message in messages if message.role == "assistant"):
            continue
        found.append(
            Conversation(
                tuple(messages),
                row.where,
                str(about.get("task") or task),
                tools,
                metric=str(metric) if known else "",
                source=str(source) if known and source else "",
            )
        )
    return [] if notes.is_wrong else found


def _has_columns(row: Row, format: Format, notes: Notes) -> bool:
    other = detect(list(row.values), [row])
    read = [] if other is None else [name for name in other.columns if name not in format.columns]
    lacks = any(name not in row.values for name in format.columns)
    if lacks and other is not None and read:  # it has what only another format has
        what = f"{other.title} in a file of {format.title}"
        mend = "one format in a file: write these rows to a file of their own, and give both files"
        notes.wrong(OTHER_FORMAT, what, mend)
        return False
    return has_columns(row, format.columns, notes)


def has_columns(row: Row, columns: Sequence[str], notes: Notes) -> bool:
    """Whether a row has them all, were their cells empty; what it lacks is found, with the key that may be meant."""
    lacking = next((name for name in columns if name not in row.values), None)
    if lacking is None:
        return True
    keys = ", ".join(row.values) or "none"
    mend = f"write {lacking!r}, or delete the row"
    free = [name for name in row.values if name not in columns]
    if free and (near := nearest(lacking, free)).startswith("did"):
        mend = near.replace("did you mean", "is it called").replace("?", f"? rename it to {lacking}")
    notes.wrong(f"rows without {lacking}", f"no {lacking!r} (its keys: {keys})", mend)
    return False


Values = Mapping[str, Any]
Reader = Callable[[Values, Format, Values, Notes], list[list[Message]]]


def _read_messages(values: Values, format: Format, about: Values, notes: Notes) -> list[list[Message]]:
    return [messages_of(values[format.answer], format.answer, notes)]


def _read_transcript(values: Values, format: Format, about: Values, notes: Notes) -> list[list[Message]]:
    return [transcript_messages(text_of(values[format.answer], format.answer, notes), notes)]


def _read_text(values: Values, format: Format, about: Values, notes: Notes) -> list[list[Message]]:
    return [[Message("assistant", text_of(values[format.answer], format.answer, notes))]]


def _read_pair(values: Values, format: Format, about: Values, notes: Notes) -> list[list[Message]]:
    assert format.prompt is not None
    return [[*_asked(values, format, about, notes), *_answered(values[format.answer], format.answer, notes)]]


def _read_instruction(values: Values, format: Format, about: Values, notes: Notes) -> list[list[Message]]:
    answer = values[format.answer]
    if not (isinstance(answer, list) and answer and isinstance(answer[0], dict) and "output" in answer[0]):
        return [[*_asked(values, format, about, notes), *_answered(answer, format.answer, notes)]]
    return [  # Self-Instruct: instances of one instruction
        [*_asked(values, format, instance, notes), *_answered(instance.get("output"), "output", notes)]
        for instance in answer
    ]


def _read_preference(values: Values, format: Format, about: Values, notes: Notes) -> list[list[Message]]:
    return [preferred(values, format, format.answer, about, notes)]


def preferred(values: Values, format: Format, column: str, about: Values, notes: Notes) -> list[Message]:
    """The conversation that ends in the answer in ``column``, chosen or rejected."""
    answer = values[column]
    if format.prompt is None:
        return transcript_messages(answer, notes) if is_transcript(answer) else messages_of(answer, column, notes)
    prompt = values[format.prompt]
    if is_transcript(prompt) or (isinstance(prompt, str) and prompt.rstrip().endswith("\n\nAssistant:")):
        return transcript_messages(prompt + text_of(answer, column, notes), notes)
    asked, answered = _asked(values, format, about, notes), _answered(answer, column, notes)
    return answered if _begins_with(answered, asked) else [*asked, *answered]


def _begins_with(answered: Sequence[Message], asked: Sequence[Message]) -> bool:
    """Whether an answer repeats what was asked, as UltraFeedback's lists do."""
    said = [[(message.role, message.content.strip()) for message in messages] for messages in (answered, asked)]
    return said[0][: len(asked)] == said[1]


_READERS: dict[FormatName, Reader] = {
    "messages": _read_messages,
    "sharegpt": _read_messages,
    "transcript": _read_transcript,
    "text": _read_text,
    "prompt-completion": _read_pair,
    "instruction": _read_instruction,
    "preference": _read_preference,
}


def _asked(values: Values, format: Format, about: Values, notes: Notes) -> list[Message]:
    """What is asked: messages, or a text, behind earlier turns where there are any. An empty text asks nothing."""
    assert format.prompt is not None
    cell = values[format.prompt]
    if are_messages(cell):
        return messages_of(cell, format.prompt, notes)
    text, extra = text_of(cell, format.prompt, notes), {}
    if plain_name(format.prompt) in INSTRUCTIONS:
        about_what = text_of(_first(about, INPUTS), "input", notes)
        extra = {"instruction": text, "input": about_what}
        text = f"{text}\n\n{about_what}" if about_what.strip() else text
    earlier = _history(_first(about, HISTORIES), notes)
    return [*earlier, Message("user", text, extra=extra)] if text.strip() else earlier


def _answered(cell: Any, name: str, notes: Notes) -> list[Message]:
    if isinstance(cell, list):
        return messages_of(cell, name, notes)
    if isinstance(cell, dict):
        message = message_of(cell, 1, notes, "assistant")
        return [] if message is None else [message]
    return [Message("assistant", text_of(cell, name, notes))]


def _history(cell: Any, notes: Notes) -> list[Message]:
    """Earlier turns as LLaMA-Factory writes them: a list of [question, answer]."""
    turns = listed(cell) or []
    if not isinstance(turns, list) or any(not isinstance(turn, list) or len(turn) != 2 for turn in turns):
        notes.wrong(
            "histories that are none", "'history' is no list of [question, answer]", "[[question, answer], ...]"
        )
        return []
    found = []
    for asked, answered in turns:
        found += [Message("user", text_of(asked, "history", notes))]
        found += [Message("assistant", text_of(answered, "history", notes))]
    return found


def _tools(cell: Any) -> tuple[Mapping[str, Any], ...]:
    found = listed(cell)
    return tuple(tool for tool in found if isinstance(tool, dict)) if isinstance(found, list) else ()


def _first(about: Values, names: Sequence[str]) -> Any:
    return next((about[name] for name in names if about.get(name) not in (None, "")), None)


# ---- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conversations:
    """All conversations of some files, a sentence about each, and what is odd in them."""

    conversations: list[Conversation]
    sentences: list[str]
    warnings: list[str]


def task_of(path: str) -> str:
    """What a file is an example of: its name before the first dot."""
    return Path(path).name.split(".", 1)[0]


def unused_columns(format: Format, names: Sequence[str]) -> list[str]:
    """Columns of a file that play no part in its conversations."""
    used = {*SYSTEMS, *TOOLS, *ABOUT_ROWS, *map(plain_name, format.columns)}
    if format.name in ("instruction", "prompt-completion", "preference"):
        used |= {*HISTORIES}
    if format.prompt is not None and plain_name(format.prompt) in INSTRUCTIONS:
        used |= {*INPUTS}
    return [name for name in names if plain_name(name) not in used]


def read_conversations(paths: Sequence[str], format: str | None = None) -> Conversations:
    """The conversations of all files. Raises ``UserError`` with all that is wrong in any of them."""
    findings, warnings = Findings(), Findings()
    problems: list[Problem] = []
    conversations: list[Conversation] = []
    sentences: list[str] = []
    notes: list[str] = []
    for path in paths:
        try:
            rows = read_rows(path, findings)
            of_file = format_of(rows, format)
            n_rows = 0
            for row in rows:
                conversations += conversations_of(row, of_file, findings, warnings, task_of(path))
                n_rows += 1
        except UserError as error:
            problems += error.problems
            continue
        note = f"; {rows.note}" if rows.note else ""
        sentences.append(f"{path}: {of_file.title}, {counted(n_rows, 'row')}{note}")
        if unused := unused_columns(of_file, rows.names):
            notes.append(f"{path}: not used: {', '.join(unused)}")
    problems += findings.problems()
    if problems:
        raise UserError(*problems)
    if not conversations:
        mend = '"weight": 1 for the messages that are to be learned'
        raise UserError(Problem("no message of the assistant is learned", ", ".join(paths), mend))
    return Conversations(conversations, sentences, [*notes, *map(str, warnings.problems())])
