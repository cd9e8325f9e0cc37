"""``gptloom chat``: talk with a model in the terminal, or ask it from a pipe, a script, Python."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.generate import gap, warnings_said
from gptloom.cli.output import Output
from gptloom.cli.stdin import STDIN, check_once, stdin_lines
from gptloom.config.chat import ChatOptions
from gptloom.config.errors import Problem, UserError
from gptloom.config.generate import SamplingOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import Terminal

if TYPE_CHECKING:
    from gptloom.cli.chat_session import Session

DRAWN_BY = ("max_tokens", "temperature", "top_p", "repetition_penalty")


def open_session(options: ChatOptions, at_terminal: bool = False) -> Session:
    """A conversation with the model that has just begun. ``UserError`` when it cannot be opened, or takes no system
    message. ``at_terminal``: nothing is compiled unasked, for which a person would have to wait in the middle of it."""
    from gptloom.cli.chat_session import Session
    from gptloom.interop.open import load
    from gptloom.train.precision import use_threads

    use_threads(options.threads)
    compile = False if at_terminal and options.compile is None else options.compile
    model = load(options.model, device=options.device, precision=options.precision, compile=compile, slots=1)
    seed = secrets.randbits(31) if options.seed is None else options.seed
    sampling = SamplingOptions(seed=seed, **{name: getattr(options, name) for name in DRAWN_BY})
    session = Session(model, sampling)
    if options.system is not None:
        session.set_system(options.system)
    return session


def messages_given(given: list[str]) -> Iterator[str]:
    """The messages of ``--message``, with the lines of standard input where ``-`` stands; blank lines are left out."""
    check_once(given, "--message")
    return (line for text in given for line in (stdin_lines() if text == STDIN else [text]))


def answers(session: Session, messages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(message, answer) one after another, in one conversation. ``UserError`` when there is no message, or at one that
    cannot be answered."""
    number = 0
    for number, message in enumerate(messages, start=1):
        try:
            yield message, "".join(event.text for event in session.ask(message))
        except UserError as error:
            raise UserError(*(Problem(one.what, f"message {number}", one.mend) for one in error.problems)) from None
    if not number:
        raise UserError(Problem("there is no message in it", "standard input", "a message on each line, or --message"))


def chat_all(resolved: Resolved[ChatOptions]) -> list[str]:
    """Asks a model one message after another, in one conversation: the list of its answers.

    For more than that, ``gptloom.load(MODEL).chat(messages)``.
    """
    options = resolved.options
    if not options.message:
        raise UserError(Problem("there is no message", mend='message=["Hello"], or gptloom.load(MODEL).chat(messages)'))
    return [answer for _, answer in answers(open_session(options), messages_given(options.message))]


def run_chat(resolved: Resolved[ChatOptions], out: Output) -> None:
    """Talks with a model: type a message, and it answers.

    /help in the chat lists what else can be typed. Where standard input is no terminal each line of it is a message. A
    base model, which was never taught to answer, continues what is typed.
    """
    options = resolved.options
    at_terminal = not options.message and sys.stdin.isatty() and out.stdout.isatty()
    with warnings_said(out):
        session = open_session(options, at_terminal)
        if at_terminal:
            from gptloom.cli.chat_terminal import ChatTerminal

            ChatTerminal(session, out, colours=Terminal(out.stdout).moves).talk()
            return
        if session.chat is None:
            out.say(session.nature)
        for number, (message, answer) in enumerate(answers(session, messages_given(options.message or [STDIN]))):
            if number:
                out.result()  # an answer may have several lines
            out.result(answer if session.chat is not None else message + gap(message, session.model) + answer)


COMMANDS = {"chat": Command(ChatOptions, run_chat)}
chat = python_function("chat", ChatOptions, chat_all)
