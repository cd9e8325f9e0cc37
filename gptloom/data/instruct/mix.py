"""Rows of a labelled set become conversations: each in one of several wordings, some held back, written as messages.

Every choice is a pure function of the seed and the row: the wording, the order of the options, which rows are taken and
which are held back. Rows of one text stay on one side.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptloom.config.data_tools import InstructOptions, InstructTask
from gptloom.config.errors import Problem, UserError
from gptloom.config.files import new_file_problems, write_named
from gptloom.config.problems import flag
from gptloom.data.conversation import Conversation, Message
from gptloom.data.instruct.asked import Asked, AskedRows
from gptloom.data.instruct.calculations import arithmetic_rows
from gptloom.data.instruct.labelled import choice_rows, labelled_rows
from gptloom.data.instruct.questions import question_rows
from gptloom.data.instruct.texts import summary_rows, translation_rows
from gptloom.data.order import hash_words

READERS: dict[InstructTask, Callable[[InstructOptions], AskedRows]] = {
    "classify": labelled_rows,
    "entail": labelled_rows,
    "similar": labelled_rows,
    "choice": choice_rows,
    "qa": question_rows,
    "arithmetic": arithmetic_rows,
    "translate": translation_rows,
    "summarize": summary_rows,
}
_WORDING, _ORDER = 0, 1  # independent draws for a row


@dataclass(frozen=True)
class Instructed:
    """What ``gptloom.data_instruct`` returns: the conversations, and where they were written."""

    out: Path
    valid_out: Path | None
    conversations: Sequence[Conversation]
    valid: Sequence[Conversation]  # those held back
    metric: str
    wordings: int  # in how many ways the rows are asked
    sentences: Sequence[str]  # how each file was understood
    warnings: Sequence[str]

    @property
    def answers(self) -> Counter[str]:
        """How often each answer is right, the commonest first."""
        return Counter(dict(Counter(conversation.answer for conversation in self.conversations).most_common()))


def instruct(options: InstructOptions) -> Instructed:
    """Reads the rows, words them, and writes ``options.out``, with ``valid_rows`` also ``OUT_valid``.

    UserError, before anything is written, for rows that cannot be asked and for options that do nothing; and where
    nothing can be written.
    """
    out = Path(options.out)
    valid_out = out.with_name(f"{out.stem}_valid{out.suffix}") if options.valid_rows else None
    _check(options, [path for path in (out, valid_out) if path is not None])
    asked = READERS[options.task](options)
    if not asked.rows:
        raise UserError(Problem("no row has both something to ask and an answer", ", ".join(options.data)))
    if options.templates is not None and options.templates > len(asked.wordings):
        what = f"--templates {options.templates}: there are {len(asked.wordings)} wordings for --task {options.task}"
        raise UserError(Problem(what, mend=f"--templates {len(asked.wordings)}"))
    wordings = asked.wordings[: options.templates]
    train, valid = _chosen(asked.rows, options)

    def worded(places: Sequence[int]) -> list[Conversation]:
        return [conversation_of(asked, wordings, place, options.seed, out.name.split(".")[0]) for place in places]

    made = Instructed(
        out, valid_out, worded(train), worded(valid), asked.metric, len(wordings), asked.sentences, asked.warnings
    )
    write_conversations(out, made.conversations)
    if valid_out is not None:
        write_conversations(valid_out, made.valid)
    return made


def conversation_of(asked: AskedRows, wordings: Sequence[str], place: int, seed: int, task: str) -> Conversation:
    """Row ``place`` in the wording, and with its options in the order, that the seed and the place give."""
    row = asked.rows[place]
    wording = wordings[int(hash_words(seed, _WORDING, place)[0]) % len(wordings)]
    order = sorted(range(len(row.options)), key=lambda option: int(hash_words(seed, _ORDER, place, option)[0]))
    options = [row.options[option] for option in order]
    spelled = {"options": either(options), "listed": "\n".join(f"- {option}" for option in options)}
    messages = (Message("user", wording.format(**row.parts, **spelled)), Message("assistant", row.answer))
    return Conversation(messages, row.where, task, metric=asked.metric, source=row.source)


def either(options: Sequence[str]) -> str:
    """``red, green or blue``; "" for none."""
    return " or ".join([", ".join(options[:-1]), options[-1]] if len(options) > 1 else options)


def write_conversations(path: Path, conversations: Sequence[Conversation]) -> None:
    """One JSON object with ``messages`` on each line, the keys that a conversation has beside them where it has them."""
    write_named(path, "".join(json.dumps(one.as_row(), ensure_ascii=False) + "\n" for one in conversations))


# ---- which rows ------------------------------------------------------------------------------------------------------


def _chosen(rows: Sequence[Asked], options: InstructOptions) -> tuple[list[int], list[int]]:
    """Numbers of the rows to train on and of those held back, each in the order of the files."""
    drawn = sorted(range(len(rows)), key=lambda place: _key(rows[place], options.seed))
    held = options.valid_rows or 0
    while 0 < held < len(drawn) and _same(rows, drawn[held - 1], drawn[held]):
        held += 1  # rows of one text stay together
    left = drawn[held:]
    if not left or (options.rows is not None and options.rows > len(left)):
        many = f"--rows {options.rows} and --valid-rows {held}" if options.rows else f"--valid-rows {held}"
        what = f"{many if held else f'--rows {options.rows}'}, and there are {len(rows):,} rows"
        raise UserError(Problem(what, options.data[0], "ask for fewer"))
    return sorted(left[: options.rows]), sorted(drawn[:held])


def _key(row: Asked, seed: int) -> bytes:
    """A draw for the texts of a row, the same wherever it stands."""
    texts = json.dumps([seed, *row.parts.values(), *row.options])
    return hashlib.blake2b(texts.encode(), digest_size=16).digest()


def _same(rows: Sequence[Asked], one: int, other: int) -> bool:
    return (rows[one].parts, rows[one].options) == (rows[other].parts, rows[other].options)


# ---- what is asked of the options ------------------------------------------------------------------------------------


def _check(options: InstructOptions, written: Sequence[Path]) -> None:
    """Refuses a place that cannot be written, and options that would do nothing for the task."""
    first, *others = written
    problems = new_file_problems(first, options.overwrite, (".jsonl",))
    problems += [problem for path in others for problem in new_file_problems(path, options.overwrite)]
    for name, tasks in USED_BY.items():
        if getattr(options, name) not in (None, [], False) and options.task not in tasks:
            what = f"{flag(name)} does nothing for --task {options.task}"
            problems.append(Problem(what, mend=f"leave it out; it is for {', '.join(tasks)}"))
    if problems:
        raise UserError(*problems)


_TABLES = ("classify", "entail", "similar", "choice", "qa", "arithmetic", "summarize")
USED_BY: dict[str, Sequence[str]] = {
    "text": _TABLES,
    "second": ("entail", "similar", "choice", "qa"),
    "label": _TABLES,
    "choices": ("choice",),
    "header": _TABLES,
    "labels": ("classify", "entail", "similar"),
    "languages": ("translate",),
    "about": ("classify", "summarize"),
    "wanted": ("classify", "summarize"),
    "reasoning": ("qa",),
}
"""Which tasks an option does something for; those that are not here serve all."""
