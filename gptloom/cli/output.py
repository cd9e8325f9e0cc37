"""What a command prints: lines and tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from gptloom.config.errors import Problem, UserError


class Output:
    """Where a command's words go. Under ``--json`` stdout is kept for the document and all else goes to stderr."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, stdout: TextIO | None = None) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.document_given = False
        self._stdout = stdout or sys.stdout

    def say(self, text: str = "") -> None:
        """A line of explanation or progress; dropped when quiet."""
        if not self.quiet:
            print(text, file=sys.stderr if self.as_json else self._stdout, flush=True)

    def result(self, text: str = "") -> None:
        """A line of what was asked for: printed even when quiet, replaced by the document under ``--json``."""
        if not self.as_json:
            print(text, file=self._stdout, flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Aligned columns; cells that read as numbers stand to the right."""
        right = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        for row in [header, *rows]:
            columns = zip(row, widths, right, strict=True)
            self.result(
                "  ".join(f"{cell:{'>' if to_right else '<'}{width}}" for cell, width, to_right in columns).rstrip()
            )

    def document(self, document: Any) -> None:
        """The one JSON document of ``--json``; without ``--json`` nothing. Not-a-number and infinity become null."""
        if not self.as_json:
            return
        assert not self.document_given, "a command prints one JSON document"
        self.document_given = True
        print(
            json.dumps(_finite(document), ensure_ascii=False, allow_nan=False, indent=2), file=self._stdout, flush=True
        )

    def ask(self, question: str, yes: bool) -> bool:
        """The answer of the person at the terminal; True with ``--yes``; ``UserError`` when nobody can be asked."""
        if yes:
            return True
        if self.as_json or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            raise UserError(Problem(f"{question} Nobody is at the terminal to answer", mend="--yes"))
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @property
    def live(self) -> bool:
        """Whether lines may move and have colours: a person's terminal, NO_COLOR (no-color.org) not set."""
        stream = sys.stderr if self.as_json else self._stdout
        return stream.isatty() and not self.quiet and not os.environ.get("NO_COLOR")


def _is_number(cell: str) -> bool:
    head = cell.replace(",", "").split(" ")[0].rstrip("MBKG%")
    return not cell or cell == "-" or head.replace(".", "", 1).lstrip("-").isdigit()


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: null stands for both."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
