"""One labelled (or unlabelled) example of a task, and a file's worth of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """What a model is asked about, and the answer.

    ``texts``: of a class or score (text,) or (text, second); of a pair both; of a choice the question and each choice;
    of a span the context and the question; of tokens the words.
    ``label``: class as an int, score as a float, number of the right choice from 0, the tag of each word, or the
    characters (first, one past the last) of the answer in the context; None where there is none.
    """

    where: str  # place for a person: train.tsv:17
    texts: tuple[str, ...]
    label: Any
    row: int  # in its table, from 0


@dataclass(frozen=True)
class Examples:
    """Examples of one or more files; ``labels`` are the names of the classes by number, () where there are none."""

    examples: list[Example]
    labels: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # how the labels were understood
