"""Rows that come twice: within a file, between training and validation or test data, or with another label."""

from __future__ import annotations

from collections.abc import Sequence

from gptloom.config.errors import Problem
from gptloom.data.example import Example
from gptloom.data.findings import counted, first_few

Key = tuple[str, ...]


def check_splits(
    train: Sequence[Example], valid: Sequence[Example] = (), test: Sequence[Example] = ()
) -> tuple[list[Problem], list[str]]:
    """A test set that is the training set (a problem), and rows that come twice (warnings, with the first few places).

    Texts count as the same where only capitals and white space differ.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    for name, examples in (("training", train), ("validation", valid), ("test", test)):
        warnings += _repeated(name, examples)
    by_key = {name: _first(examples) for name, examples in (("training", train), ("validation", valid))}
    if test and set(map(text_key, test)) == by_key["training"].keys():
        mend = "hold rows out that training has not seen: --test OTHER, or none"
        what = f"the test rows are the training rows ({counted(len(test), 'row')}): their figures would say nothing"
        problems.append(Problem(what, where=test[0].where, mend=mend))
    else:
        warnings += _leaks("test", test, "training", by_key["training"])
    warnings += _leaks("validation", valid, "training", by_key["training"])
    warnings += _leaks("test", test, "validation", by_key["validation"])
    return problems, warnings


def text_key(example: Example) -> Key:
    """Equal for rows with the same texts; whoever holds rows out keeps those of one key together."""
    return tuple(" ".join(text.split()).casefold() for text in example.texts)


def _first(examples: Sequence[Example]) -> dict[Key, Example]:
    first: dict[Key, Example] = {}
    for example in examples:
        first.setdefault(text_key(example), example)
    return first


def _repeated(name: str, examples: Sequence[Example]) -> list[str]:
    """Rows whose texts came before in the same split: with the same label, or with another."""
    first: dict[Key, Example] = {}
    same: list[str] = []
    other: list[str] = []
    for example in examples:
        before = first.setdefault(text_key(example), example)
        if before is not example:
            (same if before.label == example.label else other).append(f"{example.where} = {before.where}")
    warnings = []
    if same:
        warnings.append(
            f"{counted(len(same), f'{name} row repeats', f'{name} rows repeat')} an earlier one: {first_few(same)}"
        )
    if other:
        rows = counted(len(other), f"{name} row has", f"{name} rows have")
        warnings.append(f"{rows} the text of an earlier one and another label: {first_few(other)}")
    return warnings


def _leaks(name: str, examples: Sequence[Example], source: str, seen: dict[Key, Example]) -> list[str]:
    found = [f"{example.where} = {seen[key].where}" for example in examples if (key := text_key(example)) in seen]
    if not found:
        return []
    rows = counted(len(found), f"{name} row is", f"{name} rows are")
    share = len(found) / len(examples)
    return [f"{rows} also in the {source} data ({share:.1%}), so that its score flatters: {first_few(found)}"]
