"""Checks of rows of either form: how many, misread, twice, nearly twice, too long."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from gptloom.data.check.seen import Repeated, Seen
from gptloom.data.findings import counted
from gptloom.data.prepare.finding import Finding, Remedy, RowsT, places
from gptloom.data.prepare.mojibake import LOST, repaired
from gptloom.data.prepare.reader import Reader
from gptloom.data.prepare.rows import KIND_NAMES, Rows

FEW = 100
SHOWN_LONG = 3
EXCERPT = 60  # characters of a word that are shown


def number(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """How many rows, what they teach, and whether that is much."""
    text = f"{counted(len(rows), 'example')} of {KIND_NAMES[rows.kind]}"
    if len(rows) < FEW:
        text += ". That is few: some hundred are usual, and each doubling helps"
    return [Finding("number", text)]


def encoding(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """Characters that come from reading a file in the wrong encoding."""
    found: list[Finding[RowsT]] = []
    words = ((where, _garbled_word(parts)) for where, parts in zip(rows.wheres, rows.parts(), strict=True))
    garbled = [(where, word) for where, word in words if word is not None]
    if garbled:
        word, lines = garbled[0][1], [where for where, _ in garbled]
        text = f"{counted(len(garbled), 'row')} read in the wrong encoding before: {word!r} ({places(lines)})"
        what = f"Put the encoding right, as {repaired(word)!r}"
        found.append(Finding("encoding", text, Remedy[RowsT](what, lambda rows: rows.rewritten(repaired))))
    lost = [where for where, text in zip(rows.wheres, rows.texts(), strict=True) if LOST in text]
    if lost:
        text = f"{counted(len(lost), 'row')} with {LOST}, a character lost in an earlier conversion ({places(lost)})"
        found.append(Finding("encoding", text))
    return found


def _garbled_word(parts: Sequence[str]) -> str | None:
    """The first word that would be repaired."""
    part = next((part for part in parts if repaired(part) != part), "")
    return next((word[:EXCERPT] for word in part.split() if repaired(word) != word), None)


def duplicates(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """Rows that stand there more than once."""
    later = _later_copies(rows.keys())
    if not later:
        return []
    lines = [rows.wheres[place] for place in later]
    text = f"{counted(len(later), 'row')} word for word as an earlier one ({places(lines)})"
    remedy = Remedy[RowsT](f"Remove {counted(len(later), 'duplicate row')}", _without_copies)
    return [Finding("duplicates", text, remedy)]


def _later_copies(keys: Sequence[Hashable]) -> list[int]:
    first: dict[Hashable, int] = {}
    return [place for place, key in enumerate(keys) if first.setdefault(key, place) != place]


def _without_copies(rows: RowsT) -> RowsT:
    later = set(_later_copies(rows.keys()))
    return rows.keep([place for place in range(len(rows)) if place not in later])


def near_duplicates(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """Rows that are nearly the same, and prompts that are answered in several ways: only told, either may be meant."""
    repeated = Repeated.of(seen_of(rows))
    found: list[Finding[RowsT]] = []
    if repeated.near.count:
        text = f"{counted(repeated.near.count, 'row')} nearly like an earlier one: {', '.join(repeated.near.examples)}"
        found.append(Finding("near duplicates", text))
    other = repeated.other_answers
    if other.count and rows.kind != "open-ended":
        text = f"{counted(other.count, 'row')} with another answer to an earlier prompt: {', '.join(other.examples)}"
        found.append(Finding("other answers", text))
    return found


def seen_of(rows: Rows) -> Seen:
    """The rows as those look at them who search for repetitions."""
    seen = Seen(prompts_too=True)
    for where, (prompt, answer), offered in zip(rows.wheres, rows.asked_and_answered(), rows.offered(), strict=True):
        seen.add(where, prompt, answer, offered)
    return seen


def long(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """Tokens in all, the longest rows, and those that no model of the context can take whole."""
    counts = reader.counts(rows.texts())
    order = sorted(range(len(rows)), key=lambda place: -counts[place])[:SHOWN_LONG]
    longest = ", ".join(f"{rows.wheres[place]} ({counts[place]:,})" for place in order)
    text = f"{sum(counts):,} tokens ({reader.basis}); the longest: {longest}"
    too_long = reader.too_long(rows.texts())
    remedy = None
    if too_long:
        text += f". {counted(len(too_long), 'row')} of more than {reader.limit}"
        if rows.kind == "open-ended":
            text += "; they are cut there in training"
        else:
            remedy = Remedy[RowsT](
                f"Remove {counted(len(too_long), 'long example')}", lambda rows: _without_long(rows, reader)
            )
    return [Finding("length", text, remedy)]


def _without_long(rows: RowsT, reader: Reader) -> RowsT:
    gone = set(reader.too_long(rows.texts()))
    return rows.keep([place for place in range(len(rows)) if place not in gone])
