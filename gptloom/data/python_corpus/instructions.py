"""Questions about Python with their answers, to tune a base model that has read this corpus on.

"What does textwrap.dedent do?" is answered by the first sentence of its docstring, "What does Python print for 7 + 5?"
by 12. Three things are held out: names in modules that pretraining has read, names in modules that it has not, and
pairs of operands. A question is held out by a hash that no seed changes.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from gptloom.data.python_corpus.examples import is_held_out, pair_is_held_out
from gptloom.data.python_corpus.first_sentence import first_sentence
from gptloom.data.python_corpus.holdout import PageSplit
from gptloom.data.python_corpus.pages import Page

Part = Literal["names", "arithmetic", "heldout_read", "heldout_unread", "heldout_arithmetic"]

NAME_QUESTIONS = (
    "What does {} do?",
    "What is {} for?",
    "Tell me what {} does.",
    "Explain {} in one sentence.",
    "Describe {}.",
)
ARITHMETIC_QUESTIONS = (
    "What does Python print for {}?",
    "What is {}?",
    "Compute {}.",
    "How much is {}?",
)
OPERANDS = range(21)
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass(frozen=True)
class Pair:
    """A question and the one right answer."""

    question: str
    answer: str


def make_instructions(split: PageSplit) -> dict[Part, list[Pair]]:
    """All questions that the pages of both parts answer, no two about names with the same answer.

    ``names`` and ``arithmetic`` are to learn from. ``heldout_read``: names that pretraining has read, a seventh of them;
    ``heldout_unread``: names in modules that it has not read, all of them; ``heldout_arithmetic``: operands that neither
    ``arithmetic`` nor a session of pretraining has. The held-out parts are in the order of their hashes, so that the
    first of them are a fair sample.
    """
    answered: set[str] = set()
    read = list(_name_pairs(split.train, answered))
    unread = list(_name_pairs(split.valid, answered))
    sums = list(_arithmetic_pairs())
    return {
        "names": [pair for name, pair in read if not is_held_out("name", name)],
        "arithmetic": [pair for held_out, pair in sums if not held_out],
        "heldout_read": _shuffled(pair for name, pair in read if is_held_out("name", name)),
        "heldout_unread": _shuffled(pair for _, pair in unread),
        "heldout_arithmetic": _shuffled(pair for held_out, pair in sums if held_out),
    }


def as_conversations(pairs: Sequence[Pair]) -> str:
    """A line of JSON for each pair, as ``gptloom sft --data`` reads it: OpenAI's messages."""
    lines = []
    for pair in pairs:
        messages = [{"role": "user", "content": pair.question}, {"role": "assistant", "content": pair.answer}]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return "".join(lines)


# ---- names -----------------------------------------------------------------------------------------------------------


def _name_pairs(pages: Sequence[Page], answered: set[str]) -> Iterator[tuple[str, Pair]]:
    """Dotted names with their pairs. Leaves out answers that ``answered`` has, and adds the others to it."""
    for page in pages:
        for name, called, text in _documented(page):
            answer = first_sentence(text)
            if answer is not None and answer.lower() not in answered:
                answered.add(answer.lower())
                yield name, Pair(_worded(NAME_QUESTIONS, name).format(called), answer)


def _documented(page: Page) -> Iterator[tuple[str, str, str]]:
    """Of everything that has a public name: the name, how a question calls it, and the docstring."""
    for entry in page.entries if page.kind != "topic" else ():
        kind = "class " if entry.heading.startswith("class ") else ""
        name = entry.heading.removeprefix("class ").removeprefix("async ").partition("(")[0]
        if not entry.heading:
            kind, name = "module ", page.heading.removeprefix("Help on module ").removesuffix(":")
        if not any(part.startswith("_") for part in name.split(".")):
            yield name, f"the {kind}{name}" if kind else name, entry.text


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def _arithmetic_pairs() -> Iterator[tuple[bool, Pair]]:
    """Pairs, and whether their operands are held out: by the rule of the interactive sessions, for all signs alike."""
    for left in OPERANDS:
        for right in OPERANDS:
            for sign, compute in SIGNS.items():
                asked = f"{left} {sign} {right}"
                question = _worded(ARITHMETIC_QUESTIONS, asked).format(asked)
                yield pair_is_held_out(left, right), Pair(question, str(compute(left, right)))


# ---- draws that no seed changes ----------------------------------------------------------------------------------------


def _worded(wordings: Sequence[str], about: str) -> str:
    return wordings[_hash(f"wording {about}") % len(wordings)]


def _shuffled(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: _hash(f"order {pair.question}"))


def _hash(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")
