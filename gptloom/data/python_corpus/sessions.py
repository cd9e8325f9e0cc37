"""Interactive sessions: several examples of one kind in a row, so that the first ones tell what is asked next."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gptloom.data.python_corpus.examples import (
    KINDS,
    OPERANDS,
    WORD_QUESTIONS,
    Example,
    ExampleKind,
    Function,
    difference_example,
    function_family,
    is_held_out,
    pair_is_held_out,
    sum_example,
    word_example,
)

SHORTEST, LONGEST = 5, 12  # examples in a session
SHOTS = 8  # demonstrations that come with a held-out example


@dataclass(frozen=True)
class HeldoutExample:
    """A question that validation may ask: its operands, word or function never stood in a training session.

    The demonstrations are of the same kind: with operands and words of the training part, or, where the function itself
    is what is held out, the same function called with other arguments.
    """

    kind: ExampleKind
    prompt: str
    answer: str
    demonstrations: tuple[str, ...]

    def text(self, shots: int) -> str:
        """The prompt after the last ``shots`` (0 to 8) demonstrations; the model's next line should be ``answer``."""
        if not 0 <= shots <= len(self.demonstrations):
            raise ValueError(f"shots is {shots}; this example has {len(self.demonstrations)} demonstrations")
        return "".join(self.demonstrations[len(self.demonstrations) - shots :]) + self.prompt


@dataclass(frozen=True)
class Material:
    """What one part of the corpus, training or validation, may draw its examples from."""

    pairs: Sequence[tuple[int, int]]
    words: Sequence[str]
    functions: Sequence[Function]

    def session(self, kind: ExampleKind, rng: random.Random, length: int) -> list[Example]:
        """``length`` different examples of one kind: of one operation, one question about words, or one function."""
        if kind == "word":
            question = rng.choice(list(WORD_QUESTIONS))
            return [word_example(question, word) for word in rng.sample(self.words, length)]
        if kind == "function":
            return self._function_session(rng.choice(self.functions), rng, length)
        make = sum_example if kind == "sum" else difference_example
        return [make(*pair) for pair in rng.sample(self.pairs, length)]

    def _function_session(self, function: Function, rng: random.Random, length: int) -> list[Example]:
        arguments: Sequence[int | str] = OPERANDS if function.takes == "number" else self.words
        return [function.example(argument) for argument in rng.sample(arguments, length)]


def split_material(words: Sequence[str]) -> tuple[Material, Material]:
    """What training may use, and what is held out. No pair, word or function is in both."""
    pairs = [(left, right) for left in OPERANDS for right in OPERANDS]
    functions = function_family()

    def part(held_out: bool) -> Material:
        return Material(
            pairs=[pair for pair in pairs if pair_is_held_out(*pair) == held_out],
            words=[word for word in words if is_held_out("word", word) == held_out],
            functions=[function for function in functions if is_held_out("function", function.source) == held_out],
        )

    return part(False), part(True)


def write_sessions(material: Material, n_bytes: int, rng: random.Random) -> list[str]:
    """Sessions of all kinds in turn until they fill ``n_bytes`` of UTF-8, each one document."""
    documents: list[str] = []
    written = 0
    while written < n_bytes:
        kind = KINDS[len(documents) % len(KINDS)]
        examples = material.session(kind, rng, rng.randint(SHORTEST, LONGEST))
        documents.append("".join(example.text for example in examples).rstrip("\n"))
        written += len(documents[-1].encode())
    return documents


def draw_questions(train: Material, heldout: Material, per_kind: int, rng: random.Random) -> list[HeldoutExample]:
    """``per_kind`` questions of every kind, asked with held-out operands, words and functions."""
    return [_heldout_example(kind, train, heldout, rng) for kind in KINDS for _ in range(per_kind)]


def _heldout_example(kind: ExampleKind, train: Material, heldout: Material, rng: random.Random) -> HeldoutExample:
    if kind == "word":
        question = rng.choice(list(WORD_QUESTIONS))
        shown = [word_example(question, word) for word in rng.sample(train.words, SHOTS)]
        asked = word_example(question, rng.choice(heldout.words))
    elif kind == "function":
        *shown, asked = heldout.session(kind, rng, SHOTS + 1)
    else:
        shown = train.session(kind, rng, SHOTS)
        (asked,) = heldout.session(kind, rng, 1)
    return HeldoutExample(kind, asked.prompt, asked.answer, tuple(example.text for example in shown))
