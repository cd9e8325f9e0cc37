"""The first sentence of a docstring, as an answer to a question about what it documents."""

from __future__ import annotations

import re

from gptloom.data.sentences import split_sentences

FEWEST_WORDS, MOST_WORDS = 3, 25

_CALL = re.compile(r"[\w.]+\(")  # "S.find(sub[, start]) -> int": how C code writes its signatures
_NEW_ITEM = re.compile(r"\s|>>>|[-*+•@:] ?\S|\d+[.)] ")  # an indented line, a doctest, a point of a list, a field
_MARKUP = re.compile(r"(:[a-z]+(:[a-z]+)?:)?`+~?")  # of reStructuredText: :func:`~os.walk` and ``None``
_CLOSED = re.compile(r"[\w'\")\]]$")


def first_sentence(docstring: str) -> str | None:
    """The sentence on one line, ending in a period, of 3 to 25 words; None where there is none of this kind.

    Signatures above it are passed over. A docstring that begins with code, a list or a question has none.
    """
    for paragraph in docstring.strip().split("\n\n"):
        line = _MARKUP.sub("", _running_text(paragraph))
        if not _CALL.match(line):
            return _sentence(line)
    return None


def is_sentence(text: str) -> bool:
    """Whether the text is a single sentence on one line, of three words or more, that ends in a period."""
    one = text == text.strip() and "\n" not in text and len(split_sentences(text)) == 1
    return one and text.endswith(".") and len(text.split()) >= FEWEST_WORDS


def _running_text(paragraph: str) -> str:
    """Its lines up to the first that begins something else, put together."""
    lines = paragraph.split("\n")
    end = next((number for number, line in enumerate(lines) if number and _NEW_ITEM.match(line)), len(lines))
    return " ".join(" ".join(lines[:end]).split())


def _sentence(line: str) -> str | None:
    sentence = split_sentences(line)[0].strip() if line else ""
    if _CLOSED.search(sentence):
        sentence += "."  # a heading, or a sentence that someone forgot to end
    fits = FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS
    code = ">>>" in sentence or "->" in sentence
    return sentence if fits and not code and is_sentence(sentence) else None
