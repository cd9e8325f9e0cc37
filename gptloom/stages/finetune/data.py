"""The labelled rows of a fine-tuning: read, checked against each other, and split where nobody has split them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.task import Columns
from gptloom.data.columns import declared_names, guess_columns
from gptloom.data.example import Example, Examples
from gptloom.data.preprocess import NOTE
from gptloom.data.splits import check_splits, text_key
from gptloom.data.tables import Table, read_table
from gptloom.data.task_examples import read_examples
from gptloom.observe.terminal import say
from gptloom.stages.tuning.body import files_hash

SIDES = ("data", "valid", "test")


@dataclass(frozen=True)
class TaskData:
    """Examples with settled labels; ``labels`` are the classes' names, () for numbers, choices and spans."""

    train: list[Example]
    valid: list[Example]
    test: list[Example]
    labels: tuple[str, ...]
    columns: Columns
    hash: str  # of the files' bytes, in order

    @property
    def is_score(self) -> bool:
        """Whether each label is a number to be predicted."""
        return isinstance(self.train[0].label, float)


def read_task_data(options: FinetuneOptions) -> TaskData:
    """All rows of --data, --valid and --test. Says what it took for what, and what is odd.

    Raises:
        UserError: every problem of every file at once.
    """
    tables = _tables(options)
    columns, sentence = guess_columns(tables["data"][0], options.task, options)
    say(sentence)
    if options.preprocess:
        say(NOTE)
    found: dict[str, Examples] = {}
    problems: list[Problem] = []
    for side in SIDES:
        if tables[side]:
            labels = found["data"].labels if "data" in found else None
            try:
                found[side] = read_examples(tables[side], options.task, columns, labels, options.preprocess)
            except UserError as error:
                problems += error.problems
    if problems:
        raise UserError(*problems)
    sides = [found[side].examples if side in found else [] for side in SIDES]
    problems, leaks = check_splits(*sides)
    for note in dict.fromkeys([*(note for side in found.values() for note in (*side.notes, *side.warnings)), *leaks]):
        say(note)
    if problems:
        raise UserError(*problems)
    train, valid, test = sides
    if not valid:
        train, valid = hold_out(train, options.valid_share, by_class=bool(found["data"].labels))
        say(f"validation: {len(valid):,} of the rows, by a hash of their texts: the same whatever the seed")
    if not train or not valid:
        what = f"{len(train)} rows to train on and {len(valid)} for validation"
        raise UserError(Problem(what, ", ".join(options.data), "more rows, or --valid FILE"))
    check_classes(train, found["data"].labels, ", ".join(options.data))
    paths = [path for side in SIDES for path in getattr(options, side)]
    return TaskData(train, valid, test, found["data"].labels, columns, files_hash(paths))


def _tables(options: FinetuneOptions) -> dict[str, list[Table]]:
    """The tables of each side; UserError with what is wrong with any of the files."""
    tables: dict[str, list[Table]] = {side: [] for side in SIDES}
    problems: list[Problem] = []
    for side in SIDES:
        for path in getattr(options, side):
            try:
                tables[side].append(read_table(path, options.header, declared_names(options)))
            except UserError as error:
                problems += error.problems
    if problems:
        raise UserError(*problems)
    return tables


def hold_out(examples: Sequence[Example], share: float, *, by_class: bool) -> tuple[list[Example], list[Example]]:
    """(training, validation): ``share`` of the different texts, at least one, by a hash; equal ones stay together.

    ``by_class``: each class gives its share (a text of several counts with the first of them), and the last text of a
    class, or with a tag, stays in training. The seed of a run has no say: runs of several seeds, and their resumption,
    are measured on the same rows.
    """
    hashes = [_text_hash(example) for example in examples]
    classes: dict[bytes, set[Any]] = {own: set() for own in sorted(hashes)}  # of each text
    strata: dict[bytes, Any] = {}
    for own, example in zip(hashes, examples, strict=True):
        tags = isinstance(example.label, tuple)
        classes[own] |= set(example.label) if by_class and tags else {example.label if by_class else None}
        strata.setdefault(own, example.label if by_class and not tags else None)
    held = _held(classes, strata, max(1, round(share * len(classes))))
    sides = [own in held for own in hashes]
    return (
        [example for example, out in zip(examples, sides, strict=True) if not out],
        [example for example, out in zip(examples, sides, strict=True) if out],
    )


def _held(classes: Mapping[bytes, set[Any]], strata: Mapping[bytes, Any], wanted: int) -> set[bytes]:
    """Up to ``wanted`` texts, those that come first in their stratum; never the last one of a class."""
    sizes, seen = Counter(strata.values()), Counter[Any]()
    ranks: dict[bytes, float] = {}
    for own in classes:  # in the order of the hashes
        seen[strata[own]] += 1
        ranks[own] = (seen[strata[own]] - 0.5) / sizes[strata[own]]
    left = Counter(one for several in classes.values() for one in several)
    held: set[bytes] = set()
    for own in sorted(ranks, key=lambda own: (ranks[own], own)):
        if len(held) < wanted and all(left[one] > 1 for one in classes[own]):
            held.add(own)
            left.subtract(classes[own])
    return held


def check_classes(train: Sequence[Example], labels: Sequence[str], where: str) -> None:
    """UserError where a class, or a tag, has no training row: nothing could be learned of it."""
    found: set[Any] = set()
    for example in train:
        found |= set(example.label) if isinstance(example.label, tuple) else {example.label}
    if missing := [repr(name) for index, name in enumerate(labels) if index not in found]:
        what = f"no training row is of the class {', '.join(missing)}"
        raise UserError(Problem(what, where, "rows of every class in --data"))


def _text_hash(example: Example) -> bytes:
    text = "\x1f".join(text_key(example))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
