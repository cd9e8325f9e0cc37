"""From names and contents of columns to the part each plays in a task; nothing where that is not obvious."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptloom.config.task import Task
from gptloom.data.column_names import (
    CHOICE_PATTERN,
    CHOICES_NAMES,
    ID_NAMES,
    LABEL_NAMES,
    PAIR_NAMES,
    SECOND_NAMES,
    START_NAMES,
    TEXT_NAMES,
    plain,
)
from gptloom.data.header import number_of
from gptloom.data.tables import Table

LOOKED_AT = 5000  # rows from which a column is known
FEW_ROWS = 20


@dataclass(frozen=True)
class Facts:
    """What is known of a column from its first rows."""

    name: str
    sample: str  # a value of it
    full: bool  # no empty cell
    lists: bool  # lists or objects (JSON, Parquet)
    numeric: bool  # nearly all are numbers
    whole: bool  # all numbers are whole
    distinct: int
    filled: int
    words: float  # mean
    letters: float  # mean, of those that are not ASCII

    @classmethod
    def of(cls, name: str, table: Table) -> Facts:
        cells = [row[name] for row in table.rows[:LOOKED_AT]]
        filled = [cell for cell in cells if cell not in ("", None)]
        texts = [str(cell) for cell in filled]
        numbers = [number for cell in filled if (number := number_of(cell)) is not None]
        n = max(1, len(filled))
        return cls(
            name,
            sample=texts[0] if texts else "(empty)",
            full=len(filled) == len(cells),
            lists=bool(filled) and all(isinstance(cell, list | dict) for cell in filled),
            numeric=len(numbers) > 0.9 * n,
            whole=all(number.is_integer() for number in numbers if math.isfinite(number)),
            distinct=len(set(texts)),
            filled=len(filled),
            words=sum(len(text.split()) for text in texts) / n,
            letters=sum(not letter.isascii() for text in texts for letter in text) / n,
        )

    @property
    def is_text(self) -> bool:
        """Sentences: several words (or many letters of a script without spaces), many different ones."""
        many = self.distinct > FEW_ROWS or 2 * self.distinct > self.filled
        return not self.numeric and not self.lists and many and (self.words >= 2.5 or self.letters >= 8)

    @property
    def is_classes(self) -> bool:
        """A few values that come again and again."""
        again = 2 * self.distinct <= self.filled or self.filled < FEW_ROWS
        short = self.whole if self.numeric else self.words < 6
        return self.full and short and again and self.distinct > 1 and not self.lists and not self.is_key

    @property
    def is_score(self) -> bool:
        return self.numeric and self.distinct > 1 and not self.is_key

    @property
    def is_key(self) -> bool:
        """Row numbers and names of rows."""
        return plain(self.name) in ID_NAMES or (self.numeric and self.whole and self.distinct == self.filled)


def guess_roles(task: Task, declared: Mapping[str, Any], facts: Sequence[Facts]) -> dict[str, Any]:
    """The roles ``declared`` and those that the names of the other columns tell, else their contents.

    ``facts`` are of the columns that were not declared. A role that is not obvious is left out.
    """
    guess = _Guess(task, dict(declared), list(facts))
    if task == "choice":
        guess.choices()
    if task in ("entail", "similar", "regress"):
        guess.pair()
    guess.by_names()
    guess.by_contents()
    return guess.roles


def likely(task: Task, lacking: Sequence[str], facts: Sequence[Facts]) -> dict[str, Any]:
    """For an example in a message: the columns that might be meant by the roles that are ``lacking``."""
    free = sorted(facts, key=lambda fact: -fact.words)
    found: dict[str, Any] = {}
    for role in ("text", "second", "choices"):
        if role in lacking and free:
            found[role] = free.pop(0).name
            if role == "choices" and free:
                found[role] = (found[role], free.pop(0).name)
    if "label" in lacking and free:
        classes = [fact for fact in free if fact.is_classes and task != "regress"]
        best = min(classes, key=lambda fact: fact.distinct) if classes else free[-1]
        found["label"] = best.name
    return found


class _Guess:
    def __init__(self, task: Task, roles: dict[str, Any], free: list[Facts]) -> None:
        self.task = task
        self.roles = roles
        self.free = free  # columns without a role

    def _take(self, role: str, fact: Facts) -> None:
        self.roles[role] = fact.name
        self.free.remove(fact)

    def _named(self, names: Sequence[str], fits: Callable[[Facts], bool]) -> list[Facts]:
        """Free columns of one of the names, in the order of the names."""
        return [fact for name in names for fact in self.free if plain(fact.name) == name and fits(fact)]

    def choices(self) -> None:
        """``choice1``, ``choice2``, ...; or one column with lists."""
        if "choices" in self.roles:
            return
        numbered = [fact for fact in self.free if CHOICE_PATTERN.fullmatch(plain(fact.name))]
        if len(numbered) > 1 and len({plain(fact.name)[:-1] for fact in numbered}) == 1:
            self.roles["choices"] = tuple(fact.name for fact in numbered)
            self.free = [fact for fact in self.free if fact not in numbered]
            return
        lists = self._named(CHOICES_NAMES, lambda fact: not fact.numeric)
        if len(lists) == 1:
            self.free.remove(lists[0])
            self.roles["choices"] = (lists[0].name,)

    def pair(self) -> None:
        """Two texts whose names belong together, where no single text is asked for that has a name of its own."""
        if self.task == "regress" and ("text" in self.roles or self._named(TEXT_NAMES["regress"], self._may_be_text)):
            return
        by_name = {plain(fact.name): fact for fact in self.free}
        for names in PAIR_NAMES:
            pair = dict(zip(("text", "second"), names, strict=True))
            lacking = {role: name for role, name in pair.items() if role not in self.roles}
            given = {role: name for role, name in pair.items() if role in self.roles}
            fits = all(plain(self.roles[role]) == name for role, name in given.items())
            if fits and all(name in by_name for name in lacking.values()):
                for role, name in lacking.items():
                    self._take(role, by_name[name])
                return

    def by_names(self) -> None:
        if "text" not in self.roles:
            found = self._named(TEXT_NAMES[self.task], self._may_be_text)
            # a passage beside a question: what the text of a choice is would be a guess
            if len(found) == 1 or (found and self.task != "choice"):
                self._take("text", found[0])
        if self.task == "span" and "second" not in self.roles:
            for fact in self._named(SECOND_NAMES, lambda fact: not fact.numeric)[:1]:
                self._take("second", fact)
        if "label" not in self.roles:
            for fact in self._named(LABEL_NAMES[self.task], self._may_be_label)[:1]:
                self._take("label", fact)
        if self.task == "span" and "start" not in self.roles:
            for fact in self._named(START_NAMES, lambda fact: fact.numeric)[:1]:
                self._take("start", fact)

    def _may_be_text(self, fact: Facts) -> bool:
        if self.task == "tokens":
            return not fact.numeric
        if self.task == "choice":  # COPA's "question" is the word cause or effect
            return fact.is_text
        return not fact.numeric and not fact.lists

    def _may_be_label(self, fact: Facts) -> bool:
        if self.task == "regress":
            return fact.numeric
        return not fact.lists or self.task in ("tokens", "span")

    def by_contents(self) -> None:
        """Sentences are texts where there are just as many as are lacking; so is the only column of classes a label."""
        if self.task in ("span", "tokens"):
            return  # which column of sentences, or of lists, is which cannot be seen
        wanted = ("text", "second") if self.task in ("entail", "similar") else ("text",)
        lacking = [role for role in wanted if role not in self.roles]
        sentences = [fact for fact in self.free if fact.is_text]
        if len(sentences) == len(lacking):
            for role, fact in zip(lacking, sentences, strict=True):
                self._take(role, fact)
        if "label" in self.roles:
            return
        scores = [fact for fact in self.free if fact.is_score]
        labels = [fact for fact in self.free if fact.is_classes]
        if self.task == "regress" or (self.task == "similar" and len(scores) == 1):
            labels = scores
        if len(labels) == 1:
            self._take("label", labels[0])
