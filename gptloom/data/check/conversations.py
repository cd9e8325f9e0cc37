"""Checks of what is to be answered: conversations for ``sft``, pairs of answers for ``dpo`` and ``reward``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from gptloom.config.errors import Problem, UserError
from gptloom.data.check.measure import Measure
from gptloom.data.check.report import CheckReport, FileFacts, Gathered
from gptloom.data.check.survey import Survey, find_garbled
from gptloom.data.conversation import Conversation, Message
from gptloom.data.findings import Findings
from gptloom.data.inputs import split_weight
from gptloom.data.instruction_formats import Format, conversations_of, format_of, task_of, unused_columns
from gptloom.data.room import too_many_left_out
from gptloom.data.rows import Row, RowFile, read_rows

AT_ONCE = 64  # examples that are measured together
_PROGRESS_ROWS = 5000
_TEMPLATE_ROWS = 1000  # by which a template is chosen

Progress = Callable[[str, int], None]
"""Takes a path and how many of its rows are read."""
Answers = tuple[Conversation, ...]
"""The conversations of an example: one, or the same prompt with the chosen and the rejected answer."""
Reader = Callable[[Row, Format, Findings, Findings, str], Iterable[Answers]]
Item = TypeVar("Item")


def check_conversations(
    paths: Sequence[str],
    valid: Sequence[str],
    measure: Measure,
    progress: Progress,
    format: str | None = None,
    base: str = "BASE",
) -> CheckReport:
    """Rows as ``gptloom sft`` reads them; a held-out prompt that is also trained on is a problem, as it is there."""
    check = _Check("sft", measure, progress, _conversations)
    check.read(paths, valid, format)
    held_out = f" --valid {' '.join(valid)}" if valid else ""
    return check.gathered.report(f"gptloom sft {base} --data {' '.join(paths)}{held_out}", leaks_are_fatal=True)


def check_preferences(
    paths: Sequence[str], valid: Sequence[str], measure: Measure, progress: Progress, stage: str
) -> CheckReport:
    """Rows as pairs: the same prompt with a chosen and a rejected answer."""
    check = _Check(stage, measure, progress, _pair)
    check.read(paths, valid, "preference")
    return check.gathered.report(f"{stage} (chosen and rejected answers to the same prompts)", leaks_are_fatal=True)


def _conversations(row: Row, format: Format, findings: Findings, warnings: Findings, task: str) -> Iterator[Answers]:
    for conversation in conversations_of(row, format, findings, warnings, task):
        last = conversation.messages[-1]
        if last.weight == 0:
            what = "the last answer has weight 0: where it ends is not learned"
            warnings.add("conversations whose end is not learned", what, row.where, '"weight": 1, or delete the turn')
        yield (conversation,)


def _pair(row: Row, format: Format, findings: Findings, warnings: Findings, task: str) -> Iterator[Answers]:
    assert format.rejected is not None
    turned = replace(format, answer=format.rejected, rejected=format.answer)
    for chosen in conversations_of(row, format, findings, warnings, task):
        for rejected in conversations_of(row, turned, findings, warnings, task):
            difference = _difference(chosen.prompt, rejected.prompt)
            if difference:
                what = f"chosen and rejected answer different prompts ({difference})"
                mend = "a pair is two answers to one prompt: the turns before the last must be the same"
                findings.add("pairs of different prompts", what, row.where, mend)
            elif chosen.answered == rejected.answered:
                what = "chosen and rejected are the same: nothing is preferred"
                warnings.add("pairs that are ties", what, row.where, "delete the row: nothing is learned from it")
            else:
                yield (chosen, rejected)


def _difference(asked: Sequence[Message], other: Sequence[Message]) -> str | None:
    """Where two prompts differ."""
    if len(asked) != len(other):
        return f"{len(asked)} and {len(other)} messages before the answer"
    for number, (a, b) in enumerate(zip(asked, other, strict=True), start=1):
        if (a.role, a.said) != (b.role, b.said):
            return f"message {number} differs"
    return None


class _Check:
    """One pass over all files; what is kept of a row is its hashes and its length."""

    def __init__(self, stage: str, measure: Measure, progress: Progress, reader: Reader) -> None:
        train, valid = (Survey(measure.unit, measure.limit) for _ in range(2))
        self.gathered = Gathered(stage, train, valid)
        self._measure = measure
        self._progress = progress
        self._reader = reader

    def read(self, paths: Sequence[str], valid: Sequence[str], format: str | None) -> None:
        gathered = self.gathered
        for side, survey, names in (("train", gathered.train, paths), ("valid", gathered.valid, valid)):
            survey.seen.prompts_too = bool(valid)
            if side == "valid":
                survey.seen.frame = gathered.train.seen.frame
            for path in names:
                self._file(path, side, survey, format)
        if not gathered.train.rows and not gathered.findings and not gathered.problems:
            what = "no message of the assistant is learned: all have weight 0"
            gathered.problems.append(Problem(what, ", ".join(paths), '"weight": 1 for what is to be learned'))
        elif gathered.train.rows and not self._measure.usable and not gathered.problems:
            what = f"not one answer ends within the {self._measure.limit:,} tokens that are read: nothing is learned"
            gathered.problems.append(Problem(what, ", ".join(paths), "a model with a longer context"))

    def _file(self, name: str, side: str, survey: Survey, format: str | None) -> None:
        """What is trained on may have a weight behind its name, as in a mix; every row is looked at once all the same."""
        gathered = self.gathered
        found_before = gathered.findings.count
        usable, left_out = self._measure.usable, self._measure.left_out
        try:
            path = split_weight(name)[0] if side == "train" else name
            rows = read_rows(path, gathered.findings)
            of_file = format_of(rows, format)
            facts = FileFacts(path, side, of_file.title)
            gathered.files.append(facts)
            examples = self._examples(rows, of_file, facts)
            while batch := list(islice(examples, AT_ONCE)):
                self._add(batch, survey, facts)
            facts.broken = gathered.findings.count - found_before
        except UserError as error:
            gathered.problems += error.problems
            return
        left_out = self._measure.left_out - left_out
        measured = self._measure.usable - usable + left_out
        if side == "train" and not self._measure.accepted and self._measure.limit is not None:
            refusal = too_many_left_out(path, left_out, measured, self._measure.limit, path)
            gathered.problems += [] if refusal is None else [refusal]
        if rows.note:
            gathered.notes.append(f"{path}: {rows.note}")
        if unused := unused_columns(of_file, rows.names):
            gathered.notes.append(f"{path}: not used: {', '.join(unused)}")

    def _examples(self, rows: RowFile, format: Format, facts: FileFacts) -> Iterator[Answers]:
        task = task_of(facts.path)
        for row in rows:
            facts.rows += 1
            if facts.rows % _PROGRESS_ROWS == 0:
                self._progress(facts.path, facts.rows)
            yield from self._reader(row, format, self.gathered.findings, self.gathered.warnings, task)

    def _add(self, batch: Sequence[Answers], survey: Survey, facts: FileFacts) -> None:
        gathered = self.gathered
        flat = [conversation for answers in batch for conversation in answers]
        lengths = iter(self._measure.lengths(flat, gathered.findings, gathered.warnings))
        for answers in batch:
            first = answers[0]
            length = max(next(lengths) for _ in answers)
            prompt = first.asked
            answer = "\n".join(conversation.answered for conversation in answers)
            if survey.seen.prompts_too:
                survey.beginnings.add(survey.rows, first)
            survey.add(first.where, prompt, answer, length, first.offered)
            find_garbled(f"{prompt}\n{answer}", first.where, gathered.warnings)
            facts.turns += sum(message.role == "assistant" for message in first.messages)
            facts.size += length


def first_conversations(paths: Sequence[str], format: str | None) -> list[Conversation]:
    """Conversations of the first rows, from which a template is chosen; what is wrong with them is told elsewhere."""
    found: list[Conversation] = []
    for path in paths:
        try:
            rows = read_rows(split_weight(path)[0], Findings())
            of_file = format_of(rows, format)
            for row in islice(rows, _TEMPLATE_ROWS - len(found)):
                found += conversations_of(row, of_file, Findings())
        except UserError:
            continue
    return found
