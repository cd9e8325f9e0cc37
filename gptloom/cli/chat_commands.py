"""What can be typed in a chat beside messages: ``/help``, ``/undo``, ``/save FILE`` and so on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gptloom.cli.chat_session import Answer, Session
from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.excerpt import beginning
from gptloom.data.findings import counted
from gptloom.observe.terminal import printable

Outcome = str | Answer | None


class ChatCommand(NamedTuple):
    """How it is typed, what it does in a few words, and the function that does it and says what it did."""

    usage: str
    line: str
    run: Callable[[Session, str], Outcome]


def run_command(session: Session, line: str) -> Outcome:
    """Does what ``/name argument`` asks for; the text to show, a new answer, or None when the chat is to end.

    Raises:
        UserError: no such command, or something is wrong with what it was given.
    """
    name, _, argument = line.removeprefix("/").partition(" ")
    command = COMMANDS.get(name.lower())
    if command is None:
        known = [f"/{known}" for known in COMMANDS]
        mend = f"{nearest(f'/{name.lower()}', known)}  (/help; a message that begins with / is typed with //)"
        raise UserError(Problem(f"there is no command /{name}", mend=mend))
    return command.run(session, argument.strip())


def _help(session: Session, argument: str) -> str:
    width = max(len(command.usage) for command in COMMANDS.values())
    shown = {command.usage: command.line for command in COMMANDS.values()}  # each once, under its first name
    lines = [f"  {usage:<{width}}  {line}" for usage, line in shown.items()]
    ends = 'a \\ at its end continues a line; """ begins and ends several lines; Ctrl-C stops an answer, Ctrl-D leaves'
    return "\n".join([*lines, ends])


def _system(session: Session, argument: str) -> str:
    if argument:
        session.set_system(None if argument in ('""', "''") else argument)
    return "no system message" if session.system is None else f"system: {session.system}"


def _setting(name: str) -> Callable[[Session, str], str]:
    def run(session: Session, argument: str) -> str:
        if argument:
            session.set_option(name, _number(argument))
        return f"{name} {getattr(session.sampling, name)}"

    return run


def _number(text: str) -> float | str:
    """What was typed as a number; another text as it is, for the option to refuse."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _undo(session: Session, argument: str) -> str:
    taken = session.undo().content
    return f"taken back: {printable(beginning(taken, 60))}"


def _retry(session: Session, argument: str) -> Outcome:
    return session.retry()


def _history(session: Session, argument: str) -> str:
    system = [] if session.system is None else [f"system: {session.system}"]
    return "\n".join([*system, *(f"{one.role}: {one.content}" for one in session.messages)]) or "nothing was said yet"


def _save(session: Session, argument: str) -> str:
    path = _path(argument, "/save talk.jsonl")
    written = session.save(path)
    return f"{counted(written, 'line')} in {path}, which gptloom sft reads as --data"


def _load(session: Session, argument: str) -> str:
    name, _, last = argument.rpartition(" ")
    number = int(last) if name and last.isdigit() else 1
    path = _path(name if name and last.isdigit() else argument, "/load talk.jsonl")
    there = session.load(path, number)
    others = f" {number:,} of {there:,} (/load {path} N takes another)" if there > 1 else ""
    return f"{counted(len(session.messages), 'message')} of conversation{others}; /history shows them"


def _path(argument: str, example: str) -> Path:
    if not argument:
        raise UserError(Problem("a file is missing", mend=example))
    return Path(argument).expanduser()


def _reset(session: Session, argument: str) -> str:
    session.reset()
    return "a new conversation"


def _exit(session: Session, argument: str) -> None:
    return None


_LEAVE = ChatCommand("/exit", "leave", _exit)

COMMANDS = {
    "help": ChatCommand("/help", "this list", _help),
    "system": ChatCommand("/system [TEXT]", 'set or show the system message; /system "" takes it away', _system),
    "temperature": ChatCommand("/temperature [X]", "0 always takes the likeliest token", _setting("temperature")),
    "top_p": ChatCommand("/top_p [X]", "draw from the fewest tokens of this probability", _setting("top_p")),
    "repetition_penalty": ChatCommand(
        "/repetition_penalty [X]", "above 1 weakens tokens that are there already", _setting("repetition_penalty")
    ),
    "max_tokens": ChatCommand("/max_tokens [N]", "longest answer", _setting("max_tokens")),
    "seed": ChatCommand("/seed [N]", "the same seed and messages give the same answers", _setting("seed")),
    "undo": ChatCommand("/undo", "take back the last message and its answer", _undo),
    "retry": ChatCommand("/retry", "another answer to the last message", _retry),
    "history": ChatCommand("/history", "what was said", _history),
    "save": ChatCommand("/save FILE", "write it as JSONL that gptloom sft reads", _save),
    "load": ChatCommand("/load FILE [N]", "go on with conversation N of a file", _load),
    "reset": ChatCommand("/reset", "begin anew; system message and settings stay", _reset),
    "exit": _LEAVE,
    "quit": _LEAVE,
}
