"""A labelled row before it is worded: the texts that are put into a wording, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gptloom.data.cells import no_text, spelled
from gptloom.data.findings import Findings


@dataclass(frozen=True)
class Asked:
    """One row. ``parts`` go into a wording by name; ``options`` are what the answer is one of, () where it is free."""

    where: str
    parts: Mapping[str, str]
    answer: str
    options: tuple[str, ...] = ()
    source: str = ""  # the text that is to be translated or shortened


@dataclass(frozen=True)
class AskedRows:
    """The rows of all files, and how they may be asked."""

    rows: Sequence[Asked]
    wordings: Sequence[str]
    metric: str  # by which answers are to be looked at first: exact, f1, bleu or rouge
    sentences: Sequence[str]  # how each file was understood
    warnings: Sequence[str] = field(default_factory=list)


def text_cell(cell: object, column: str, where: str, findings: Findings) -> str:
    """A cell's text without spaces around it; "" for one that is empty or none, which is found."""
    kind = no_text(cell)
    text = "" if kind else spelled(cell).strip()
    if not text:
        what = f"{column!r} holds {kind}, not text" if kind else f"{column!r} is empty"
        findings.add("rows with an empty text", what, where, "delete the row or fill it in")
    return text
