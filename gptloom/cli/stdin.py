"""Standard input, where an option takes ``-`` for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gptloom.config.errors import Problem, UserError

STDIN = "-"


def check_once(given: Sequence[str], flag: str) -> None:
    """UserError where ``-`` was given twice to the option ``flag``."""
    if given.count(STDIN) > 1:
        raise UserError(Problem(f"standard input can be read only once; two of {flag} are -"))


def texts_given(given: Sequence[str]) -> list[str]:
    """The texts of ``--text``, with the lines of standard input where ``-`` stands; blank lines are left out."""
    check_once(given, "--text")
    texts: list[str] = []
    for text in given:
        texts += [line for line in sys.stdin.read().splitlines() if line.strip()] if text == STDIN else [text]
    if given and not texts:
        raise UserError(Problem("there is no text in it", "standard input", "a text on each line"))
    return texts
