"""``gptloom data prepare``: looks through a file of examples, explains, repairs, and writes it for training."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.data_tools import PrepareOptions
from gptloom.config.errors import Problem, UserError
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import say

if TYPE_CHECKING:
    from gptloom.data.prepare import Prepared, Reader


class Terminal:
    """The person at the terminal, or what is piped in their place."""

    def __init__(self, yes: bool) -> None:
        self._yes = yes

    def say(self, text: str = "") -> None:
        say(text)

    def ask(self, question: str, default: bool) -> bool:
        """What was answered; nothing is the default, and so is every answer with ``--yes``.

        Raises ``UserError`` where the input ends instead.
        """
        if self._yes:
            say(f"{question}: {'yes' if default else 'no'}")
            return default
        print(f"{question}: ", end="", file=sys.stderr, flush=True)
        answer = _line()
        if not answer:
            print(file=sys.stderr)
            what = "the input ended where an answer was expected; nothing was written"
            raise UserError(Problem(what, "standard input", "--yes does what is recommended without asking"))
        said = answer.strip().lower()
        return not said.startswith("n") if default else said.startswith("y")


def _line() -> str:
    """A line of standard input; "" where it has ended, or there is none."""
    try:
        return sys.stdin.readline() if sys.stdin else ""
    except (OSError, ValueError):  # closed, or not to be read
        return ""


def prepare(resolved: Resolved[PrepareOptions]) -> Prepared:
    """Looks through a file of examples, repairs it and writes it beside: ``.paths``, ``.findings``, ``.as_dict()``.

    With ``yes`` what is recommended is done; without, each repair is asked for on standard error.
    """
    from gptloom.data.prepare import prepare as prepare_file

    options = resolved.options
    return prepare_file(options.data, _reader(options.model), Terminal(options.yes), options.out)


def _reader(model: str | None) -> Reader:
    from gptloom.data.prepare import Reader

    if model is None:
        return Reader()
    from gptloom.interop.bodies import is_foreign
    from gptloom.interop.hub import resolve_model
    from gptloom.interop.open import trained
    from gptloom.model.store import read_config
    from gptloom.observe.runs import read_run

    found = resolve_model(model)
    folder, tokenizer = trained(found, "a run, a model folder, or hf:NAME")
    context = None if is_foreign(folder) else read_config(folder).context
    speed = None if found.run is None else read_run(found.run).last("train", "tokens_per_second")
    return Reader(model, tokenizer, context, speed)


def run_prepare(resolved: Resolved[PrepareOptions], out: Output) -> None:
    """Looks through a file of examples, says what is wrong or could be better, repairs it, and writes it anew.

    csv, tsv, xlsx, txt, json, jsonl or parquet; prompts and completions under any usual names, or conversations. What is
    necessary is done, what is recommended is asked for (Enter is the answer in capitals), and the rows go to
    FILE_prepared.jsonl, or to _prepared_train and _prepared_valid. The input stays as it is.
    """
    prepared = prepare(resolved)
    if prepared.next is not None:
        what = (
            "Wrote " + " and ".join(f"`{path}`" for path in prepared.paths) if prepared.paths else "Nothing to repair"
        )
        out.say(f"\n{what}. Next:")
        for command in prepared.next.commands:
            out.result(f"  {command}")
        for sentence in prepared.next.reminders:
            out.say(sentence)
    out.document(prepared.as_dict())


COMMANDS = {"data prepare": Command(PrepareOptions, run_prepare)}
data_prepare = python_function("data_prepare", PrepareOptions, prepare)
