"""Standard input, where an option takes ``-`` for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from gptloom.config.errors import Problem, UserError

STDIN = "-"


def check_once(given: Sequence[str], flag: str) -> None:
    """UserError where ``-`` was given twice to the option ``flag``."""
    if given.count(STDIN) > 1:
        raise UserError(Problem(f"standard input can be read only once; two of {flag} are -"))


def stdin_lines() -> Iterator[str]:
    """The lines of standard input without their ends; blank ones are left out. ``UserError`` where one is not UTF-8."""
    for number, raw in enumerate(getattr(sys.stdin, "buffer", sys.stdin), start=1):
        try:
            line = raw.decode() if isinstance(raw, bytes) else raw
        except UnicodeDecodeError as error:
            what = f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1:,} of the line"
            mend = "iconv -f latin1 -t utf-8 FILE | gptloom ... (cp1252 for files of Windows)"
            raise UserError(Problem(what, f"standard input:{number}", mend)) from None
        if line.strip():
            yield line.rstrip("\r\n")


def texts_given(given: Sequence[str]) -> list[str]:
    """The texts of ``--text``, with the lines of standard input where ``-`` stands; blank lines are left out."""
    check_once(given, "--text")
    texts: list[str] = []
    for text in given:
        texts += list(stdin_lines()) if text == STDIN else [text]
    if given and not texts:
        raise UserError(Problem("there is no text in it", "standard input", "a text on each line"))
    return texts
