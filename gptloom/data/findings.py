"""What is wrong with the rows of a table: gathered kind by kind and told together, a few of each kind with a count."""

from __future__ import annotations

from collections import Counter

from gptloom.config.errors import Problem, UserError

SHOWN_OF_A_KIND = 3
SHOWN = 12


class Findings:
    """Problems of many rows. Every kind is kept and shown by its first few; a line counts the others."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[Problem]] = {}
        self._counts: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, kind: str, what: str, where: str | None, mend: str | None = None) -> None:
        """``kind`` completes the sentence "and 7 more: ..."."""
        self._counts[kind] += 1
        first = self._kinds.setdefault(kind, [])
        if len(first) < SHOWN_OF_A_KIND:
            first.append(Problem(what, where, mend))

    @property
    def count(self) -> int:
        """How many there are of all kinds."""
        return self._counts.total()

    def count_of(self, kind: str) -> int:
        """How many there are of one kind."""
        return self._counts[kind]

    def problems(self) -> list[Problem]:
        """At most a dozen, with lines that count what is not shown."""
        shown: list[Problem] = []
        left = 0  # of kinds that are not shown at all
        for kind, found in self._kinds.items():
            if len(shown) >= SHOWN:
                left += self._counts[kind]
                continue
            shown += found
            if more := self._counts[kind] - len(found):
                shown.append(Problem(f"and {more:,} more: {kind}"))
        return [*shown, Problem(f"and {counted(left, 'problem')} of other kinds")] if left else shown

    def check(self) -> None:
        """Raises ``UserError`` with all of them where there are any."""
        if self:
            raise UserError(*self.problems())


def first_few(places: list[str], limit: int = 3) -> str:
    """``a.tsv:3, a.tsv:9, a.tsv:12 and 4 more``."""
    rest = f" and {len(places) - limit:,} more" if len(places) > limit else ""
    return ", ".join(places[:limit]) + rest


def counted(n: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``1,200 rows``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
