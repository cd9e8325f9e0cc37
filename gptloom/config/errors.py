"""How gptloom says no: a user's mistake is a list of problems, each with its place and its mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what was found, where (``file:line``), and the command or change that mends it."""

    what: str
    where: str | None = None
    mend: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.mend:
            lines.append(f"  try: {self.mend}")
        return "\n".join(lines)


class UserError(Exception):
    """A mistake in what the user gave. The command line prints every problem, without a traceback, and exits with 2."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = [problem if isinstance(problem, Problem) else Problem(problem) for problem in problems]
        assert self.problems, "a UserError needs at least one problem"
        super().__init__("\n".join(str(problem) for problem in self.problems))


class GuardStop(Exception):
    """A guard ended the run (diverged, repeated bad updates). The command line prints the diagnosis and exits with 3."""


class VerificationError(Exception):
    """A result differs from what it was made from: our fault. The command line prints the problems and exits with 1."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class EndedElsewhere(Exception):
    """Another process of this training failed and says why; this one ends with the same exit ``code``, silently."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process of this training ended it (exit code {code})")
        self.code = code


def nearest(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """A sentence that helps someone who mistyped ``name``: the nearest of ``choices``, or all of them when none is near."""
    known = sorted(set(choices))
    close = difflib.get_close_matches(name, known, n=limit, cutoff=0.55)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(known)
