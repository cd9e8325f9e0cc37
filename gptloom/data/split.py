"""Which documents are trained on and which validate: a rule on lengths and hashes, applied before tokenizing.

The rule: a validation file where one is given; else, with at least 200 documents, a part of them chosen by a hash of
their text, so that a document is on the same side in every run; else the last part of each file, cut at a line end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gptloom.config.errors import Problem, UserError

SplitChoice = Literal["auto", "tail", "hash", "none"]

TRAIN, VALID, LEFT_OUT = 0, 1, 2
DOCUMENTS_FOR_HASH = 200  # from here on a tenth of the documents is a fair sample of them


@dataclass(frozen=True)
class Contents:
    """What a survey of one file found: for each document its UTF-8 bytes and a 64-bit hash of its text, [documents]."""

    n_bytes: NDArray[np.uint64]
    hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class Cut:
    """The document of a file that belongs to both sides, and how many of its bytes come before the border."""

    document: int
    byte: int


@dataclass(frozen=True)
class Sides:
    """The side of each document of one file, uint8 [documents], and the document that is cut in two."""

    sides: NDArray[np.uint8]
    cut: Cut | None = None


@dataclass(frozen=True)
class Split:
    """The decision: the rule in words, and the sides in each file, those of ``--valid`` last."""

    rule: str
    files: list[Sides]


def split_documents(
    files: Sequence[Contents], choice: SplitChoice, fraction: float, valid: Sequence[Contents] = ()
) -> Split:
    """Applies the rule to the surveyed ``files``; ``valid`` are the surveyed files of ``--valid``.

    Raises ``UserError`` when a document of ``valid`` is also one of ``files``, or when options contradict each other.
    """
    n_documents = sum(len(file.hashes) for file in files)
    if valid:
        if choice != "auto":
            raise UserError(
                Problem(f"--split {choice} decides nothing where --valid is given", mend="leave one of them out")
            )
        refuse_overlap(files, valid)
        sides = [_all(file, TRAIN) for file in files] + [_all(file, VALID) for file in valid]
        return Split("validation: the files given by --valid", sides)
    if choice == "none":
        return Split("validation: none (--split none)", [_all(file, TRAIN) for file in files])
    if not 0 < fraction < 1:
        raise UserError(
            Problem(f"{fraction} is no part of the text", where="--valid-fraction", mend="between 0 and 1, e.g. 0.1")
        )
    if choice == "hash" or (choice == "auto" and n_documents >= DOCUMENTS_FOR_HASH):
        limit = np.uint64(min(int(fraction * 2**64), 2**64 - 1))
        sides = [Sides(np.where(file.hashes < limit, VALID, TRAIN).astype(np.uint8)) for file in files]
        return Split(
            f"validation: {100 * fraction:.3g} % of the {n_documents:,} documents, chosen by a hash of their text",
            sides,
        )
    return _tails(files, fraction)


def refuse_overlap(files: Sequence[Contents], valid: Sequence[Contents]) -> None:
    """Raises ``UserError`` when documents of ``valid`` are training documents too: they would measure memory."""
    held_out = np.concatenate([file.hashes for file in valid])
    shared = int(np.isin(held_out, np.concatenate([file.hashes for file in files])).sum())
    if shared:
        raise UserError(
            Problem(
                f"{shared:,} of its {len(held_out):,} documents are also in --data, so the loss would measure memory",
                where="--valid",
                mend="take them out of one of the two, or leave --valid out",
            )
        )


def _all(file: Contents, side: int) -> Sides:
    return Sides(np.full(len(file.hashes), side, dtype=np.uint8))


def _tails(files: Sequence[Contents], fraction: float) -> Split:
    """The last part of each file, without the whole documents there that are copies of training documents."""
    tails = [_tail(file, fraction) for file in files]
    kept = [file.hashes[(tail.sides == TRAIN) & ~_is_cut(tail)] for file, tail in zip(files, tails, strict=True)]
    trained = np.unique(np.concatenate(kept)) if kept else np.empty(0, dtype=np.uint64)
    n_copies = 0
    for file, tail in zip(files, tails, strict=True):
        copies = (tail.sides == VALID) & np.isin(file.hashes, trained)
        tail.sides[copies] = LEFT_OUT
        n_copies += int(copies.sum())
    of = f"each of the {len(files):,} files" if len(files) > 1 else "the file"
    left_out = f"; {n_copies:,} copies of training documents left out" if n_copies else ""
    return Split(f"validation: the last {100 * fraction:.3g} % of {of}, cut at a line end{left_out}", tails)


def _tail(file: Contents, fraction: float) -> Sides:
    ends = np.cumsum(file.n_bytes)
    border = round(int(ends[-1]) * (1 - fraction)) if len(ends) else 0
    starts = ends - file.n_bytes
    sides = np.where(starts < border, TRAIN, VALID).astype(np.uint8)
    last = int((sides == TRAIN).sum()) - 1
    inside = last >= 0 and border < int(ends[last])
    return Sides(sides, Cut(last, border - int(starts[last])) if inside else None)


def _is_cut(sides: Sides) -> NDArray[np.bool_]:
    marks = np.zeros(len(sides.sides), dtype=bool)
    if sides.cut is not None:
        marks[sides.cut.document] = True
    return marks


def border_in(text: str, n_bytes: int, *, begun: bool) -> int:
    """Where, in characters, ``text`` is cut with at most ``n_bytes`` of its UTF-8 before: after the last line end.

    Without a line end there: at 0 when training text has ``begun`` before this text, else after a space, else anywhere.
    """
    head = text.encode("utf-8")[:n_bytes].decode("utf-8", errors="ignore")
    line_end = head.rfind("\n") + 1
    if line_end or begun:
        return line_end
    return head.rfind(" ") + 1 or len(head)
