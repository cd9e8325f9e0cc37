"""What a check of ``data prepare`` says: something to know, and what could be done about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from gptloom.data.prepare.rows import Rows

Level = Literal["necessary", "recommended", "possible"]
RowsT = TypeVar("RowsT", bound=Rows)
LONGEST_QUOTED = 70  # characters
SHOWN = 3  # places


@dataclass(frozen=True)
class Remedy(Generic[RowsT]):
    """A repair. What is necessary is done at once; what is recommended is asked with yes, what is possible with no."""

    what: str  # a command: "Remove 3 duplicate rows"
    apply: Callable[[RowsT], RowsT]  # counts and looks anew: other repairs may have come before it
    level: Level = "recommended"
    otherwise: Callable[[RowsT], RowsT] = lambda rows: rows  # what has to be done where the answer is no


@dataclass(frozen=True)
class Finding(Generic[RowsT]):
    """What one check has to say. A finding without a remedy is only told."""

    check: str  # its name, for programs
    text: str = ""
    remedy: Remedy[RowsT] | None = None

    def as_dict(self, applied: bool) -> dict[str, Any]:
        """For ``--json``; ``applied``: whether the remedy was."""
        remedy = None if self.remedy is None else {"what": self.remedy.what, "level": self.remedy.level}
        return {"check": self.check, "text": self.text, "remedy": remedy, "applied": applied}


def done(check: str, text: str, what: str) -> Finding[Any]:
    """What was repaired in reading."""
    return Finding(check, text, Remedy(what, lambda rows: rows, "necessary"))


def places(wheres: Sequence[str]) -> str:
    """``kant.csv:3, 9, 12 and 4 more``: the file is named once."""
    first, *others = wheres[:SHOWN]
    file = first.rstrip("0123456789")
    rest = f" and {len(wheres) - SHOWN:,} more" if len(wheres) > SHOWN else ""
    return ", ".join([first, *(place.removeprefix(file) for place in others)]) + rest


def quoted(text: str) -> str:
    """As Python spells it, the middle of a long one left out."""
    spelled = repr(text)
    return spelled if len(spelled) <= LONGEST_QUOTED else f"{spelled[:40]} … {spelled[-20:]}"
