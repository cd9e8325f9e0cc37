"""Runs one command: reads and resolves its options, and turns whatever happens into output and an exit code."""

from __future__ import annotations

import contextlib
import errno
import importlib
import inspect
import io
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gptloom.cli.arguments import HelpPrinted, given_on_command_line
from gptloom.cli.output import Output
from gptloom.config.errors import EndedElsewhere, GuardStop, Problem, UserError, VerificationError, nearest
from gptloom.config.options import Options
from gptloom.config.problems import COMMAND_LINE
from gptloom.config.recipes import resolve_with_recipe
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import speaker, terminal

DONE, OUR_FAULT, USER_INPUT, GUARD, BROKEN_OFF = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Command:
    """A command: the model of its options and what it does with them (returns the exit code; None is 0)."""

    options: type[Options]
    run: Callable[[Resolved[Any], Output], int | None]


def run_command(name: str, line: str, module: str, arguments: Sequence[str]) -> int:
    """Imports ``module``, runs its command ``name`` with the rest of the command line, and returns the exit code."""

    def work(out: Output) -> int:
        command: Command = importlib.import_module(module).COMMANDS[name]
        description = inspect.getdoc(command.run) or line
        given = given_on_command_line(name, description, command.options, arguments)
        resolved = resolve_with_recipe(command.options, given, COMMAND_LINE)
        code = command.run(resolved, out) or DONE
        assert code != DONE or not out.as_json or out.document_given, f"gptloom {name} --json printed no document"
        return code

    return _guarded(f"gptloom {name}", work, arguments)


def refuse_command(arguments: Sequence[str], names: Sequence[str]) -> int:
    """Says that there is no such command, with the nearest names, and returns exit code 2."""

    def work(out: Output) -> int:
        first = arguments[0]
        group = [name for name in names if name.split()[0] == first]
        if first.startswith("-"):
            raise UserError(Problem(f"a command comes first, not {first}", mend="gptloom --help"))
        if group and len(arguments) > 1 and not arguments[1].startswith("-"):
            what = f"gptloom {first} has no command {arguments[1]!r}"
            raise UserError(Problem(what, mend=nearest(arguments[1], [name.split()[1] for name in group])))
        if group:
            raise UserError(Problem(f"gptloom {first} needs a command: {', '.join(n.split()[1] for n in group)}"))
        known = [*names, *(name.split()[0] for name in names)]
        raise UserError(Problem(f"there is no command {first!r}", mend=f"{nearest(first, known)}  (gptloom --help)"))

    return _guarded("gptloom", work, arguments)


def _guarded(program: str, work: Callable[[Output], int], arguments: Sequence[str]) -> int:
    """Runs ``work`` and answers every way it can end as the exit codes promise."""
    _use_utf8()
    # Looked up by hand, because mistakes in the options themselves are answered in JSON too.
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    out = Output(as_json="--json" in options)
    was_quiet, terminal.quiet = terminal.quiet, "--quiet" in options
    stray = contextlib.redirect_stdout(sys.stderr) if out.as_json else contextlib.nullcontext()
    try:
        with stray:
            return work(out)
    except HelpPrinted as help_text:
        print(help_text, end="")
        return DONE
    except UserError as error:
        return _fail(out, error.problems, USER_INPUT)
    except VerificationError as error:
        return _fail(out, error.problems, OUR_FAULT)
    except GuardStop as stop:
        return _fail(out, [Problem(str(stop))], GUARD, label="stopped")
    except EndedElsewhere as end:
        return end.code
    except KeyboardInterrupt:
        return _fail(out, [Problem("broken off")], BROKEN_OFF, label="stopped")
    except BrokenPipeError:
        _discard_stdout()
        return DONE
    except Exception as error:
        if _disk_is_full(error):
            mend = "make room, then the same command again; a training goes on with gptloom resume RUN"
            return _fail(out, [Problem("the disk is full", getattr(error, "filename", None), mend)], USER_INPUT)
        traceback.print_exc()
        return _fail(out, [_our_fault(program, error)], OUR_FAULT)
    finally:
        terminal.end_live()
        terminal.quiet = was_quiet


def _disk_is_full(error: Exception) -> bool:
    """Also when a library wrote: safetensors has the system's words in an error of its own."""
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)


def _use_utf8() -> None:
    """Pipes and files get UTF-8 on every system (Windows would write its code page); terminals know their own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors="replace")


def _discard_stdout() -> None:
    """The reader (head, less) has seen enough: what Python still flushes at exit must not fail once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(out: Output, problems: Sequence[Problem], code: int, label: str = "error") -> int:
    if who := speaker():
        label = f"{label} ({who})"
    for problem in problems:
        print(f"{label}: {problem.what}", file=sys.stderr)
        if problem.where:
            print(f"  {problem.where}", file=sys.stderr)
        if problem.mend:
            print(f"  try: {problem.mend}", file=sys.stderr)
    if not out.document_given:
        out.document({"error": [{"what": p.what, "where": p.where, "mend": p.mend} for p in problems]})
    return code


def _our_fault(program: str, error: Exception) -> Problem:
    from gptloom import __version__

    what = f"{type(error).__name__} in {program}: this is a fault of gptloom, not yours"
    system = f"gptloom {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return Problem(what, mend=f"report it with the lines above, the whole command, and: {system}")
