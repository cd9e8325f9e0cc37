"""How often a docstring's module family is told right: by a model, by always the same answer, by counts of words."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptloom.evaluation.significance import wilson

COMMONEST, WORDS = "always the commonest family", "word counts, no network"


@dataclass(frozen=True)
class Row:
    """A docstring, the family of its module, and the module."""

    text: str
    family: str
    module: str


@dataclass(frozen=True)
class Accuracy:
    """Of one way to tell, on docstrings of modules that were held out."""

    name: str
    share: float
    low: float  # of its 95 % interval
    high: float
    unread: float | None  # of those of modules that were held out of pretraining too; None where there are none
    run: str | None = None  # its folder
    seconds: float | None = None  # of training


def read_rows(table: Path) -> list[Row]:
    """The rows of a table of docstrings as the corpus has it."""
    with table.open(encoding="utf-8", newline="") as file:
        found = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Row(row["text"], row["family"], row["module"]) for row in found]


def measure(
    name: str,
    answers: Sequence[str],
    rows: Sequence[Row],
    unread: Collection[str],
    run: str | None = None,
    seconds: float | None = None,
) -> Accuracy:
    """Holds the families that were told against the right ones. ``unread``: modules held out of pretraining."""
    right = [answer == row.family for answer, row in zip(answers, rows, strict=True)]
    new = [hit for hit, row in zip(right, rows, strict=True) if row.module in unread]
    low, high = wilson(sum(right), len(right))
    return Accuracy(name, sum(right) / len(right), low, high, sum(new) / len(new) if new else None, run, seconds)


def without_network(train: Sequence[Row], held_out: Sequence[Row], unread: Collection[str]) -> list[Accuracy]:
    """What a network has to beat: the family that most rows of the training have, and logistic regression on TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # half a second: only for those who come here
    from sklearn.linear_model import LogisticRegression

    [(commonest, _)] = Counter(row.family for row in train).most_common(1)
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    counts = vectorizer.fit_transform([row.text for row in train])
    fitted = LogisticRegression(C=10, max_iter=1000).fit(counts, [row.family for row in train])
    told = fitted.predict(vectorizer.transform([row.text for row in held_out])).tolist()
    return [
        measure(COMMONEST, [commonest] * len(held_out), held_out, unread),
        measure(WORDS, told, held_out, unread),
    ]
