"""Checks of rows of either form: how many, empty, misread, twice, nearly twice, too long."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from gptloom.data.findings import counted, first_few
from gptloom.data.prepare.finding import Finding, Remedy, RowsT
from gptloom.data.prepare.mojibake import LOST, repaired
from gptloom.data.prepare.reader import Reader
from gptloom.data.prepare.rows import KIND_NAMES

FEW = 100
SHOWN_LONG = 3
EXCERPT = 60  # characters of a row that are shown


def number(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """How many rows, what they teach, and whether that is much."""
    text = f"{counted(len(rows), 'example')} of {KIND_NAMES[rows.kind]}"
    if len(rows) < FEW:
        text += ". That is few: some hundred are usual, and each doubling helps"
    return [Finding("number", text)]


def encoding(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """Characters that come from reading a file in the wrong encoding."""
    found: list[Finding[RowsT]] = []
    texts = rows.texts()
    garbled = [(where, text) for where, text in zip(rows.wheres, texts, strict=True) if repaired(text) != text]
    if garbled:
        places = first_few([where for where, _ in garbled])
        text = f"{counted(len(garbled), 'row')} in the wrong encoding, e.g. {_mended_word(garbled[0][1])} ({places})"
        remedy = Remedy[RowsT]("Put the encoding right", lambda rows: rows.rewritten(repaired))
        found.append(Finding("encoding", text, remedy))
    lost = [where for where, text in zip(rows.wheres, texts, strict=True) if LOST in text]
    if lost:
        text = f"{counted(len(lost), 'row')} with {LOST}, a character lost in an earlier conversion ({first_few(lost)})"
        found.append(Finding("encoding", text))
    return found


def duplicates(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """Rows that stand there more than once."""
    later = _later_copies(rows.keys())
    if not later:
        return []
    places = first_few([rows.wheres[place] for place in later])
    text = f"{counted(len(later), 'row')} stand there before, word for word ({places})"
    remedy = Remedy[RowsT](f"Remove {counted(len(later), 'duplicate row')}", _without_copies)
    return [Finding("duplicates", text, remedy)]


def _later_copies(keys: Sequence[Hashable]) -> list[int]:
    first: dict[Hashable, int] = {}
    return [place for place, key in enumerate(keys) if first.setdefault(key, place) != place]


def _without_copies(rows: RowsT) -> RowsT:
    later = set(_later_copies(rows.keys()))
    return rows.keep([place for place in range(len(rows)) if place not in later])


def long(rows: RowsT, reader: Reader) -> list[Finding[RowsT]]:
    """Tokens in all, the longest rows, and those that no model of the context can take whole."""
    counts = reader.counts(rows.texts())
    order = sorted(range(len(rows)), key=lambda place: -counts[place])[:SHOWN_LONG]
    longest = ", ".join(f"{rows.wheres[place]} ({counts[place]:,})" for place in order)
    text = f"{sum(counts):,} tokens ({reader.basis}); the longest: {longest}"
    too_long = _too_long(rows, reader)
    remedy = None
    if too_long:
        text += f". {counted(len(too_long), 'row')} of more than {reader.longest:,}, {reader.limit}"
        if rows.kind == "open-ended":
            text += "; they are cut there in training"
        else:
            remedy = Remedy[RowsT](
                f"Remove {counted(len(too_long), 'long example')}", lambda rows: _without_long(rows, reader)
            )
    return [Finding("length", text, remedy)]


def _too_long(rows: RowsT, reader: Reader) -> list[int]:
    return [place for place, count in enumerate(reader.counts(rows.texts())) if count > reader.longest]


def _without_long(rows: RowsT, reader: Reader) -> RowsT:
    gone = set(_too_long(rows, reader))
    return rows.keep([place for place in range(len(rows)) if place not in gone])


def _mended_word(text: str) -> str:
    """The first word that is repaired, before and after."""
    word = next(word for word in text.split() if repaired(word) != word)[:EXCERPT]
    return f"{word!r} for {repaired(word)!r}"
