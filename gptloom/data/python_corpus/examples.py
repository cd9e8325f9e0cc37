"""What an interactive example can be about: sums, differences, words, and functions seen only through what they answer.

A seventh of everything is held out for validation, by a hash that no seed changes: pairs of operands (with their mirror
image), words, and functions. An answer is what Python computed; no text is ever executed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from operator import itemgetter
from typing import Literal

ExampleKind = Literal["sum", "difference", "word", "function"]
KINDS: tuple[ExampleKind, ...] = ("sum", "difference", "word", "function")

OPERANDS = range(100)
_HELD_OUT_ONE_IN = 7
_MOST_WORDS = 1500


@dataclass(frozen=True)
class Example:
    """One line typed at the ``>>>`` prompt and what Python answered."""

    expression: str
    answer: str

    @property
    def prompt(self) -> str:
        return f">>> {self.expression}\n"

    @property
    def text(self) -> str:
        return f"{self.prompt}{self.answer}\n"


@dataclass(frozen=True)
class Function:
    """A function that a session calls ``f`` and never shows. ``source`` is its body, a Python expression in ``x``."""

    source: str
    takes: Literal["number", "word"]
    apply: Callable[..., object]

    def example(self, argument: int | str) -> Example:
        return Example(f"f({argument!r})", repr(self.apply(argument)))


def is_held_out(kind: str, name: str) -> bool:
    """Whether the thing of this name belongs to validation: the same answer in every process, version and seed."""
    return int.from_bytes(sha256(f"{kind} {name}".encode()).digest()[:8], "big") % _HELD_OUT_ONE_IN == 0


def pair_is_held_out(left: int, right: int) -> bool:
    """A pair goes with its mirror image and for both operations: 3 + 5 would give 5 + 3 away."""
    return is_held_out("pair", f"{min(left, right)} {max(left, right)}")


def sum_example(left: int, right: int) -> Example:
    return Example(f"{left} + {right}", repr(left + right))


def difference_example(left: int, right: int) -> Example:
    return Example(f"{left} - {right}", repr(left - right))


# What is asked about a word: the expression as typed, with WORD in the place of the quoted word, and its meaning.
WORD_QUESTIONS: dict[str, Callable[[str], object]] = {
    "len(WORD)": len,
    "WORD[0]": itemgetter(0),
    "WORD[1]": itemgetter(1),
    "WORD[-1]": itemgetter(-1),
    "WORD[:2]": itemgetter(slice(2)),
    "WORD[1:]": itemgetter(slice(1, None)),
    "WORD[::-1]": itemgetter(slice(None, None, -1)),
    "WORD.upper()": str.upper,
    "WORD.capitalize()": str.capitalize,
    "WORD + 's'": lambda word: word + "s",
    "WORD.count('e')": lambda word: word.count("e"),
    "'a' in WORD": lambda word: "a" in word,
    "list(WORD)": list,
    "'-'.join(WORD)": "-".join,
}


def word_example(question: str, word: str) -> Example:
    return Example(question.replace("WORD", repr(word)), repr(WORD_QUESTIONS[question](word)))


def common_words(texts: Iterable[str]) -> list[str]:
    """The up to 1,500 most frequent words of 3 to 9 small letters, in alphabetical order."""
    counts = Counter(word for text in texts for word in re.findall(r"\b[a-z]{3,9}\b", text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return sorted(ranked[:_MOST_WORDS])


def function_family() -> list[Function]:
    """Every function that ``f`` can be, on numbers and on words; no two of them answer alike."""
    by_behaviour: dict[str, Function] = {}
    for function in [*_number_functions(), *_word_functions()]:
        probes: Sequence[int | str] = OPERANDS if function.takes == "number" else ("probe", "answer", "Xylophone")
        by_behaviour.setdefault(repr([function.apply(probe) for probe in probes]), function)
    return list(by_behaviour.values())


def _number_functions() -> Iterator[Function]:
    for factor in (1, 2, 3, 5, 10, -1):
        for term in range(-12, 13):
            yield Function(f"{factor} * x + {term}", "number", _affine(factor, term))
    for divisor in range(2, 12):
        yield Function(f"x % {divisor}", "number", lambda x, by=divisor: x % by)
        yield Function(f"x // {divisor}", "number", lambda x, by=divisor: x // by)
    for limit in range(20, 81, 5):
        yield Function(f"x > {limit}", "number", lambda x, limit=limit: x > limit)


def _affine(factor: int, term: int) -> Callable[[int], int]:
    return lambda x: factor * x + term


def _joined(word: str, *, before: str = "", after: str = "") -> str:
    return before + word + after


_ENDINGS = ("s", "ed", "ing", "er", "ly", "ness", "less", "able", "!", "?", "_", "1")
_BEGINNINGS = ("un", "re", "pre", "non", "sub", "over", "get_", "set_", "is_", "the ", "a ", "no ")
_CHANGES: dict[str, Callable[[str], str]] = {
    "{}": str,
    "{}.upper()": str.upper,
    "{}.capitalize()": str.capitalize,
    "{}[::-1]": itemgetter(slice(None, None, -1)),
    "({0} + {0})": lambda x: x + x,
}
_FINISHES: dict[str, Callable[[str], object]] = {
    "{}": str,
    "len({})": len,
    "{}[0]": itemgetter(0),
    "{}[-1]": itemgetter(-1),
    "{}[:2]": itemgetter(slice(2)),
    "{}[:3]": itemgetter(slice(3)),
    "{}[1:]": itemgetter(slice(1, None)),
    "{}[2:]": itemgetter(slice(2, None)),
    **{f"{{}} + {ending!r}": partial(_joined, after=ending) for ending in _ENDINGS},
    **{f"{beginning!r} + {{}}": partial(_joined, before=beginning) for beginning in _BEGINNINGS},
}


def _word_functions() -> Iterator[Function]:
    """A change of the word, then another: ``x[::-1]`` and ``+ 's'`` give ``x[::-1] + 's'``."""
    for inner, change in _CHANGES.items():
        for outer, finish in _FINISHES.items():
            yield Function(outer.format(inner.format("x")), "word", _chain(change, finish))


def _chain(first: Callable[[str], str], then: Callable[[str], object]) -> Callable[[str], object]:
    return lambda x: then(first(x))
