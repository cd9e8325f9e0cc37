"""The signals that a user may name to save and end a run: ``USR1`` as Slurm's ``--signal`` has it, or ``SIGUSR1``."""

from __future__ import annotations

import signal

from gptloom.config.errors import Problem, UserError, nearest

DEAF = ("SIGKILL", "SIGSTOP")
FAULTS = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")


def signals_named(names: list[str]) -> list[signal.Signals]:
    """The signals called ``names``. UserError for all that this system does not have, or that nobody can act on."""
    problems = [problem for name in names if (problem := _problem(name)) is not None]
    if problems:
        raise UserError(*problems)
    return [signal.Signals[_full(name)] for name in names]


def _problem(name: str) -> Problem | None:
    full = _full(name)
    useful = [known.name for known in signal.Signals if known.name not in (*DEAF, *FAULTS)]
    if full in useful:
        return None
    said = f"--save-on-signal {name}"
    if full in DEAF:
        return Problem(f"{said}: the system ends or halts the process itself, nothing can be saved", mend="USR1")
    if full in FAULTS:
        return Problem(f"{said}: it means that the process is broken, and what it would save may be too", mend="USR1")
    wanted = nearest(full, useful).replace("SIG", "")
    return Problem(f"{said}: this system has no such signal", mend=wanted)


def _full(name: str) -> str:
    return f"SIG{name.upper().removeprefix('SIG')}"
