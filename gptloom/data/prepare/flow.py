"""The course of ``data prepare``: read, look, say, ask, repair, write; the input itself is never touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol

from gptloom.config.errors import Problem, UserError
from gptloom.data.check.seen import Leaked
from gptloom.data.findings import counted
from gptloom.data.prepare import affixes, general, pairs
from gptloom.data.prepare.finding import Finding, Level, RowsT
from gptloom.data.prepare.load import load
from gptloom.data.prepare.next_steps import Next, next_steps
from gptloom.data.prepare.reader import Reader
from gptloom.data.prepare.rows import Chats, Kind, Pairs, Rows
from gptloom.data.prepare.write import Sides, check_out, free_paths, split, write

PAIR_CHECKS: tuple[Callable[[Pairs, Reader], list[Finding[Pairs]]], ...] = (
    general.number,
    pairs.empty,
    pairs.unasked,
    pairs.alike,
    general.encoding,
    pairs.classes,
    general.duplicates,
    general.near_duplicates,
    general.long,
    pairs.capitals,
    affixes.separator,
    affixes.prompt_prefix,
    affixes.completion_prefix,
    affixes.stop,
    affixes.leading_space,
)
"""In the order of OpenAI's tool, which is also the order in which what they advise is done."""
CHAT_CHECKS: tuple[Callable[[Chats, Reader], list[Finding[Chats]]], ...] = (
    general.number,
    general.encoding,
    general.duplicates,
    general.near_duplicates,
    general.long,
)

TAGS: dict[Level, tuple[str, str]] = {
    "necessary": ("[Necessary]", ""),
    "recommended": ("[Recommended]", "[Y/n]"),
    "possible": ("[Possible]", "[y/N]"),
}


class Desk(Protocol):
    """Who is told and asked."""

    def say(self, text: str = "") -> None:
        """A message."""

    def ask(self, question: str, default: bool) -> bool:
        """The answer to a question whose ``[Y/n]`` or ``[y/N]`` it ends in."""


@dataclass(frozen=True)
class Prepared:
    """What was found and done.

    Attributes:
        paths: the files written; empty where nothing was.
        rows: how many rows each of them has.
        findings: everything that was found, in order.
        applied: whether the remedy of each finding was applied.
        next: what to do with the files, or with the input where nothing had to be done; None where the answer was no.
    """

    data: str
    kind: Kind
    paths: list[Path]
    rows: list[int]
    findings: list[Finding[Any]]
    applied: list[bool]
    next: Next | None

    def as_dict(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "data": self.data,
            "kind": self.kind,
            "paths": [str(path) for path in self.paths],
            "rows": self.rows,
            "findings": [one.as_dict(done) for one, done in zip(self.findings, self.applied, strict=True)],
            "next": None if self.next is None else self.next.as_dict(),
        }


def prepare(path: str, reader: Reader, desk: Desk, out: str | None = None) -> Prepared:
    """Looks through a file of examples, asks what is to be repaired, and writes what is left beside it.

    Raises ``UserError``: the file cannot be understood, says too little, changed meanwhile, or nothing can be written;
    and whatever ``desk.ask`` raises. Nothing is written then.
    """
    check_out(out)
    desk.say("Analyzing...")
    before = _state(path)
    loaded = load(path)
    if isinstance(loaded.rows, Chats):
        seen: _Seen[Any] = _Seen(loaded.rows, loaded.findings).examined(CHAT_CHECKS, reader, desk)
    else:
        seen = _Seen(loaded.rows, loaded.findings).examined(PAIR_CHECKS, reader, desk)
    seen.repair(desk)
    return _finish(path, before, seen, reader, desk, out)


@dataclass
class _Seen(Generic[RowsT]):
    """Rows on their way, and what was found about them."""

    rows: RowsT
    findings: list[Finding[RowsT]]
    applied: list[bool] = field(default_factory=list)
    fewer: bool = False  # rows than before the remedies, were it for an answer that was no

    def examined(
        self, checks: Sequence[Callable[[RowsT, Reader], list[Finding[RowsT]]]], reader: Reader, desk: Desk
    ) -> _Seen[RowsT]:
        """Every check, one after another: each says what it found, and does at once what is necessary."""
        for one in self.findings:
            desk.say(f"- {one.text}")
        for check in checks:
            for one in check(self.rows, reader):
                desk.say(f"- {one.text}")
                self.findings.append(one)
                if one.remedy is not None and one.remedy.level == "necessary":
                    self.rows = one.remedy.apply(self.rows)
            if not len(self.rows):
                raise UserError(Problem("no row is left to learn from", mend="write completions into the rows"))
        return self

    def repair(self, desk: Desk) -> None:
        """Asks for each remedy, then applies what was agreed to, in order."""
        remedies = [one.remedy for one in self.findings if one.remedy is not None]
        if not remedies:
            desk.say("\nNo remediations found.")
        else:
            desk.say("\nBased on the analysis we will perform the following actions:")
        agreed = []
        for one in self.findings:
            agreed.append(one.remedy is not None and _agreed(one.remedy.level, one.remedy.what, desk))
        before = len(self.rows)
        for one, yes in zip(self.findings, agreed, strict=True):
            if one.remedy is not None and one.remedy.level != "necessary":
                self.rows = one.remedy.apply(self.rows) if yes else one.remedy.otherwise(self.rows)
        self.applied = agreed
        self.fewer = len(self.rows) < before


def _agreed(level: Level, what: str, desk: Desk) -> bool:
    tag, answers = TAGS[level]
    if level == "necessary":
        desk.say(f"- {tag} {what}")
        return True
    return desk.ask(f"- {tag} {what} {answers}", level == "recommended")


def _finish(
    path: str, before: tuple[int, int], seen: _Seen[Any], reader: Reader, desk: Desk, out: str | None
) -> Prepared:
    """Splits where there are classes, asks for the last time, and writes."""
    rows: Rows = seen.rows
    sides = _sides(rows, seen, desk) if isinstance(rows, Pairs) and rows.kind == "classification" else None
    files: list[tuple[Path, Rows]] = []
    next = None
    if not (seen.fewer or any(seen.applied)):
        next = next_steps(rows, [(Path(path), rows)], reader)
    elif desk.ask("\nYour data will be written to a new JSONL file. Proceed [Y/n]", True):
        if _state(path) != before:
            what = "the file changed while it was looked through; nothing was written"
            raise UserError(Problem(what, path, "the same command again"))
        parts = {"": rows} if sides is None else {"_train": sides.train, "_valid": sides.valid}
        files = list(zip(free_paths(Path(path), out, list(parts)), parts.values(), strict=True))
        write(files)
        next = next_steps(rows, files, reader)
    else:
        desk.say("Nothing was written.")
    paths, counts = [name for name, _ in files], [len(some) for _, some in files]
    return Prepared(path, rows.kind, paths, counts, seen.findings, seen.applied, next)


def _sides(rows: Pairs, seen: _Seen[Pairs], desk: Desk) -> Sides | None:
    """The rows split in two, where that is wanted and leaves something to validate on."""
    sides = split(rows)
    if not len(sides.valid):
        desk.say("- No split into training and validation: every prompt that would validate is also trained on")
        return None
    question = "Split into a training and a validation set, so that classes are judged by other rows [Y/n]"
    if not desk.ask(f"- [Recommended] {question}", True):
        return None
    text = f"{len(sides.train):,} rows to train on, {len(sides.valid):,} to validate"
    if sides.moved:
        text += f"; {counted(sides.moved, 'row')} drawn for validation went to training, which has their prompt"
    near = Leaked.of(general.seen_of(sides.train), general.seen_of(sides.valid)).near
    if near.count:
        nearly = f"{counted(near.count, 'prompt')} to validate on nearly like one that is trained on"
        text += f"; {nearly}: {', '.join(near.examples)}"
    desk.say(f"  {text}")
    seen.findings.append(Finding("split", text))
    seen.applied.append(True)
    return sides


def _state(path: str) -> tuple[int, int]:
    """What changes when a file does; (0, 0) where there is none, which reading tells."""
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
