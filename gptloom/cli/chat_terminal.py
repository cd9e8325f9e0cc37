"""The terminal of ``gptloom chat``: reads messages, shows answers as they are written."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable

from gptloom.cli.chat_commands import run_command
from gptloom.cli.chat_session import Answer, Session
from gptloom.cli.generate import gap
from gptloom.cli.output import Output
from gptloom.config.errors import UserError
from gptloom.observe.terminal import printable

QUOTES = '"""'


class ChatTerminal:
    """A person at a terminal and a model. ``read`` shows a prompt and gives a line, as ``input`` does."""

    def __init__(self, session: Session, out: Output, *, colours: bool, read: Callable[[str], str] = input) -> None:
        self.session = session
        self.out = out
        self._colours = colours
        self._read = read
        self._prompt = "> "
        if _edits_lines() and colours:  # between \1 and \2 is what takes no room
            self._prompt = "\1\x1b[1m\2> \1\x1b[0m\2"

    def talk(self) -> None:
        """Until Ctrl-D, /exit, or a second Ctrl-C. One Ctrl-C stops an answer, and gives up a line that was begun."""
        self.out.say(self.session.nature)
        self.out.say(self._dim("/help lists the commands, Ctrl-D leaves"))
        going, about_to_leave = True, False
        while going:
            try:
                text = self._read_message()
                about_to_leave = False
                going = self._act(text)
            except EOFError:
                self.out.result()
                return
            except KeyboardInterrupt:
                self.out.result()
                going, about_to_leave = not about_to_leave, True
                if going:
                    self.out.say(self._dim("Ctrl-C once more leaves"))
            except UserError as error:
                self.out.result("\n".join(map(str, error.problems)))

    def _read_message(self) -> str:
        """One line, or several: after a line that ends in a backslash, or between triple quotes."""
        line = self._read(self._prompt)
        if line.lstrip().startswith(QUOTES):
            return self._read_block(line.lstrip().removeprefix(QUOTES))
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = self._read("  ")
        return "\n".join([*lines, line])

    def _read_block(self, line: str) -> str:
        lines = []
        while QUOTES not in line:
            lines.append(line)
            line = self._read("  ")
        lines.append(line.partition(QUOTES)[0])
        return "\n".join(lines).strip("\n")

    def _act(self, text: str) -> bool:
        """Answers a message, or does what a command says; False when that is to leave."""
        text = text if self.session.chat is None else text.strip()  # a base model goes on from exactly what it is given
        if text.startswith("/") and not text.startswith("//"):
            outcome = run_command(self.session, text.strip())
            if isinstance(outcome, str):
                self.out.result(_shown(outcome))
            elif outcome is not None:
                self._show(outcome, self.session.messages[-1].content)
            return outcome is not None
        if text.strip():
            text = text.removeprefix("/")
            self._show(self.session.ask(text), text)
        return True

    def _show(self, events: Answer, question: str) -> None:
        """Prints an answer while it is written; a base model's goes on right behind what was typed."""
        if self.session.chat is None:
            self._write(self._dim(_shown(question)) + gap(question, self.session.model))
        begun, tokens, reason, written = time.perf_counter(), 0, "stopped here", self.session.chat is None
        with contextlib.closing(events), contextlib.suppress(KeyboardInterrupt):
            for event in events:
                piece = event.text if written else event.text.lstrip()
                written = written or bool(piece)
                self._write(_shown(piece))
                tokens += 1
                reason = event.finish_reason or reason
        self.out.result()
        rate = tokens / max(time.perf_counter() - begun, 1e-9)
        notes = [f"{tokens:,} tokens", f"{rate:,.0f} tok/s", *self._endings(reason, tokens, written)]
        self.out.say(self._dim(" · ".join(notes)) + "\n")

    def _endings(self, reason: str, tokens: int, written: bool) -> list[str]:
        """What is to be said about how an answer ended, where it did not end by itself."""
        if reason == "stop":
            return [] if written else ["the answer is empty (/retry asks again)"]
        if reason == "length":
            limit = self.session.sampling.max_tokens
            return [f"cut at max_tokens {limit:,}" if tokens >= limit else "the context is full"]
        return [reason]

    def _write(self, text: str) -> None:
        print(text, end="", file=self.out.stdout, flush=True)

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._colours and text else text


def _shown(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _edits_lines() -> bool:
    """Arrow keys and a history of lines, where Python was built with readline (not on Windows)."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # input() uses it once it is there
        return True
    return False
