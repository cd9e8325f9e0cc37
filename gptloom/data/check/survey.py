"""What all rows of one side amount to: how many, how long, which answers, what is garbled; without keeping a text."""

from __future__ import annotations

import heapq
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gptloom.data.beginnings import Beginnings
from gptloom.data.check.seen import Seen
from gptloom.data.findings import Findings
from gptloom.data.prepare.mojibake import LOST, repaired

LISTED_LONGEST = 3
MOST_ANSWERS = 200
"""Of more different answers none is a class."""
LONGEST_CLASS = 60  # characters

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass
class Lengths:
    """The length of every row in ``unit``, 8 bytes each, and where the longest ones are."""

    unit: str
    limit: int | None = None  # what a model reads
    too_long: int = 0
    _all: array[int] = field(default_factory=lambda: array("Q"))
    _longest: list[tuple[int, str]] = field(default_factory=list)

    def add(self, length: int, where: str) -> None:
        self._all.append(length)
        self.too_long += self.limit is not None and length > self.limit
        if len(self._longest) < LISTED_LONGEST:
            heapq.heappush(self._longest, (length, where))
        elif length > self._longest[0][0]:
            heapq.heapreplace(self._longest, (length, where))

    @property
    def longest(self) -> list[tuple[int, str]]:
        """(length, where) of the longest rows, longest first."""
        return sorted(self._longest, reverse=True)

    def as_dict(self) -> dict[str, Any]:
        lengths = np.asarray(self._all, np.uint64)
        if not len(lengths):
            return {"unit": self.unit, "total": 0}
        # lengths that rows have: the least that half of them, and 95 %, do not exceed
        median, high = map(int, np.percentile(lengths, [50, 95], method="inverted_cdf"))
        return {
            "unit": self.unit,
            "total": int(lengths.sum()),
            "median": median,
            "percentile_95": high,
            "longest": [{"length": length, "where": where} for length, where in self.longest],
            "limit": self.limit,
            "too_long": self.too_long if self.limit is not None else None,
        }


class Survey:
    """One side, training or validation."""

    def __init__(self, unit: str, limit: int | None = None) -> None:
        self.seen = Seen()
        self.beginnings = Beginnings()  # of conversations, where there is another side
        self.lengths = Lengths(unit, limit)
        self.rows = 0
        self._answers: Counter[str] | None = Counter()

    def add(self, where: str, prompt: str, answer: str, length: int, offered: str = "") -> None:
        """A row: what is asked ("" for nothing), what is answered, and which tools are there for it."""
        self.rows += 1
        self.seen.add(where, prompt, answer, offered)
        self.lengths.add(length, where)
        if self._answers is not None:
            short = answer.strip()
            self._answers[short[: LONGEST_CLASS + 1]] += 1
            if len(short) > LONGEST_CLASS or len(self._answers) > MOST_ANSWERS:
                self._answers = None

    @property
    def classes(self) -> dict[str, int]:
        """How often each answer comes, where so few different short ones come again and again that they are classes."""
        answers = self._answers
        return {} if answers is None or 3 * len(answers) >= self.rows else dict(answers.most_common())


def find_garbled(text: str, where: str, warnings: Findings) -> None:
    """Finds what went wrong with the encoding of a text before it came here."""
    if not text.isascii():
        if LOST in text:
            what = f"U+FFFD in {_around(text, text.index(LOST))}: a character was lost"
            warnings.add("rows with lost characters (U+FFFD)", what, where, "make the file again from its source")
        if (mended := repaired(text)) != text:
            place = next(i for i, (a, b) in enumerate(zip(text, mended, strict=False)) if a != b)
            what = f"{_around(text, place)} was read in a wrong encoding once: meant was {_around(mended, place)}"
            warnings.add(
                "rows with garbled characters",
                what,
                where,
                "make the file again; of prompts and answers, gptloom data prepare FILE mends it",
            )
    if (control := _CONTROL.search(text)) is not None:
        what = f"the control character U+{ord(control[0]):04X} in {_around(text, control.start())}"
        warnings.add("rows with control characters", what, where, "delete it")


def _around(text: str, place: int) -> str:
    return repr(text[max(0, place - 10) : place + 12])
