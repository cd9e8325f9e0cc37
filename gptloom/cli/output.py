"""What a command prints: messages on stderr, results on stdout, and one JSON document in their place for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from typing import Any, TextIO

from gptloom.config.errors import Problem, UserError
from gptloom.observe.events import finite
from gptloom.observe.terminal import print_table, terminal


class Output:
    """Where a command's words go. ``stdout`` is the process's own: under ``--json`` only the document reaches it."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.document_given = False
        self.stdout: TextIO = sys.stdout

    def say(self, text: str = "") -> None:
        """A message on stderr; dropped when ``--quiet``."""
        terminal.say(text)

    def result(self, text: str = "") -> None:
        """A line of what was asked for, on stdout: also when quiet, but not under ``--json``, which has the document."""
        if not self.as_json:
            print(text, file=self.stdout, flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], right: Collection[str] = ()) -> None:
        """A table as ``result``; ``right`` names the columns of numbers."""
        if not self.as_json:
            print_table(header, rows, right=right, file=self.stdout)

    def document(self, document: Any) -> None:
        """The one JSON document of ``--json``; without ``--json`` nothing. Not-a-number and infinity become null."""
        if not self.as_json:
            return
        assert not self.document_given, "a command prints one JSON document"
        self.document_given = True
        text = json.dumps(finite(document), ensure_ascii=False, allow_nan=False, indent=2)
        print(text, file=self.stdout, flush=True)

    @property
    def at_terminal(self) -> bool:
        """Whether a person can be asked."""
        return not self.as_json and bool(sys.stdin) and sys.stdin.isatty() and sys.stderr.isatty()

    def ask(self, question: str, yes: bool) -> bool:
        """The answer of the person at the terminal; True with ``--yes``; ``UserError`` when nobody can be asked."""
        if yes:
            return True
        if not self.at_terminal:
            raise UserError(Problem(f"{question} Nobody is at the terminal to answer", mend="--yes"))
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
