"""The result of a check: what the files hold, what is wrong with them, and what they are fine for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gptloom.config.errors import Problem
from gptloom.data.check.seen import SKETCHED_ROWS, Leaked, Pairs, Repeated
from gptloom.data.check.survey import Survey
from gptloom.data.findings import Findings, counted
from gptloom.data.instruction_formats import OTHER_FORMAT
from gptloom.data.lines import LOST_ROWS
from gptloom.data.prepare.load import MOST_BROKEN

MOST_OF_ONE_CLASS = 0.9
_LISTED_CLASSES = 12


@dataclass
class FileFacts:
    """One file: what it was taken for, and how much it holds."""

    path: str
    side: str  # "train" or "valid"
    format: str
    rows: int = 0
    turns: int = 0  # answers, of all rows
    size: int = 0  # in the report's unit
    broken: int = 0  # problems of its rows


@dataclass(frozen=True)
class CheckReport:
    """What ``gptloom data check`` found. ``problems`` stop a training; ``warnings`` do not."""

    stage: str
    files: list[FileFacts]
    problems: list[Problem]  # the first of each kind, and lines that count the others
    n_problems: int
    warnings: list[Problem]
    notes: list[str]
    lengths: dict[str, Any]
    repeated: Repeated | None
    leaked: Leaked | None
    classes: dict[str, int]
    next: str  # the command that uses the files
    advice: str = ""  # what mends most of the problems at once

    @property
    def is_fine(self) -> bool:
        """Whether a training would take the files."""
        return not self.problems

    @property
    def verdict(self) -> str:
        """The last line for a person."""
        if self.is_fine:
            return f"fine for: {self.next}"
        advice = f" ({self.advice})" if self.advice else ""
        return f"not yet fit for {self.stage}: {counted(self.n_problems, 'problem')} to mend{advice}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "fine": self.is_fine, "verdict": self.verdict}


@dataclass
class Gathered:
    """What a check of some stage has gathered from the files."""

    stage: str
    train: Survey
    valid: Survey
    files: list[FileFacts] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    warnings: Findings = field(default_factory=Findings)
    problems: list[Problem] = field(default_factory=list)  # of whole files
    notes: list[str] = field(default_factory=list)

    def report(self, next: str, *, leaks_are_fatal: bool = False) -> CheckReport:
        """The report, with what only all rows together tell."""
        repeated = Repeated.of(self.train.seen) if self.train.rows else None
        leaked = self._leaked() if self.train.rows and self.valid.rows else None
        problems = [*self.problems, *self.findings.problems()]
        warnings = [*_of_repeats(repeated), *_of_classes(self.train.classes, self.train.rows)]
        if leaked is not None:
            told = _of_leaks(leaked, self.valid.rows)
            problems += told[:1] if leaks_are_fatal and leaked.exact.count else []
            warnings += told[1:] if leaks_are_fatal and leaked.exact.count else told
        if too_long := self.train.lengths.too_long + self.valid.lengths.too_long:
            limit = self.train.lengths.limit or 0
            what = f"{counted(too_long, 'row')} longer than the {limit:,} tokens that the model reads"
            longest = [*self.train.lengths.longest, *self.valid.lengths.longest]
            where = ", ".join(where for length, where in longest if length > limit)
            warnings.append(Problem(what, where or None, "what is beyond it is not learned"))
        if max(self.train.rows, self.valid.rows) > SKETCHED_ROWS:
            self.notes.append(f"near duplicates were looked for in the first {SKETCHED_ROWS:,} rows of each side")
        return CheckReport(
            self.stage,
            self.files,
            problems,
            self.findings.count + len(problems) - len(self.findings.problems()),
            [*warnings, *self.warnings.problems()],
            self.notes,
            self.train.lengths.as_dict(),
            repeated,
            leaked,
            self.train.classes,
            next,
            self._advice(),
        )

    def _leaked(self) -> Leaked:
        """Of conversations by the rule of ``gptloom sft``, which knows every answer; else by the prompts."""
        train, valid = self.train, self.valid
        exact = valid.beginnings.seen_in(train.beginnings) if len(valid.beginnings) else None
        return Leaked.of(train.seen, valid.seen, exact)

    def _advice(self) -> str:
        """``data prepare`` where it takes the files and leaves something out of them, by the rules of its ``load``."""
        if self.stage != "sft":
            return ""
        if self.findings.count_of(OTHER_FORMAT):
            return "split by format: rows of each in a file of their own"
        broken = [facts for facts in self.files if facts.broken]
        refused = any("preference" in facts.format or facts.broken > MOST_BROKEN * facts.rows for facts in broken)
        refused = refused or self.findings.count_of(LOST_ROWS) > 0
        if refused or not broken or len(self.train.classes) == 1 or self.train.seen.asks_one_thing:
            return ""
        name = broken[0].path if len(broken) == 1 else "FILE"
        return f"gptloom data prepare {name} leaves out the rows that are broken"


def _of_repeats(repeated: Repeated | None) -> list[Problem]:
    if repeated is None:
        return []
    told = (
        (
            repeated.exact,
            "repeats an earlier one",
            "repeat earlier ones",
            "delete the copies, unless they are to count more",
        ),
        (
            repeated.near,
            "is nearly an earlier one",
            "are nearly earlier ones",
            "look at them: what comes again counts more",
        ),
        (
            repeated.other_answers,
            "has the prompt of an earlier one and another answer",
            "have the prompts of earlier ones and other answers",
            "fine where many answers are right",
        ),
    )
    return [_pairs_problem(pairs, "row", one, many, mend) for pairs, one, many, mend in told if pairs.count]


def _of_leaks(leaked: Leaked, rows: int) -> list[Problem]:
    told = (
        (leaked.exact, "is also trained on", "are also trained on"),
        (leaked.near, "is nearly one that is trained on", "are nearly ones that are trained on"),
    )
    mend = "take them out of one side: their loss says nothing about new prompts"
    of = f" (of {rows:,})"
    return [
        _pairs_problem(pairs, "held-out prompt", one + of, many + of, mend) for pairs, one, many in told if pairs.count
    ]


def _pairs_problem(pairs: Pairs, noun: str, one: str, many: str, mend: str) -> Problem:
    rest = pairs.count - len(pairs.examples)
    more = f" and {rest:,} more" if rest else ""
    what = counted(pairs.count, f"{noun} {one}", f"{noun}s {many}")
    return Problem(f"{what}: {', '.join(pairs.examples)}{more}", mend=mend)


def _of_classes(classes: dict[str, int], rows: int) -> list[Problem]:
    if not classes:
        return []
    answer, count = next(iter(classes.items()))
    if len(classes) == 1:
        mend = "a model that says nothing else would be perfect: are the right columns read?"
        return [Problem(f"every answer is {answer!r}", mend=mend)]
    if count > MOST_OF_ONE_CLASS * rows:
        mend = "a model that says nothing else is right as often: more of the others"
        return [Problem(f"{count / rows:.0%} of the answers are {answer!r}", mend=mend)]
    return []


def class_lines(classes: dict[str, int]) -> list[Sequence[object]]:
    """Rows of a table: answer, how often, share."""
    total = sum(classes.values())
    shown = list(classes.items())[:_LISTED_CLASSES]
    lines: list[Sequence[object]] = [(answer, f"{n:,}", f"{n / total:.1%}") for answer, n in shown]
    if rest := len(classes) - len(shown):
        lines.append((f"and {rest:,} more", "", ""))
    return lines
