"""``gptloom quickstart``: the whole pipeline in minutes, and a last screen that says what came of it."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.python import python_function
from gptloom.config.quickstart import QuickstartOptions
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.stages.quickstart import Quickstart


DOCSTRING = "Return the square root of a number."  # to try a classifier on


def run_stages(resolved: Resolved[QuickstartOptions]) -> Quickstart:
    """Runs every stage of a GPT's life on one small text, and returns what was measured and the last stage's model."""
    from gptloom.stages.quickstart import quickstart

    return quickstart(resolved)


def run_quickstart(resolved: Resolved[QuickstartOptions], out: Output) -> None:
    """Trains a small GPT on text that every Python carries, in minutes, and shows what it learns as it learns.

    Needs no account and no download. A broken-off quickstart goes on when the same command is given again.
    """
    result = run_stages(resolved)
    out.document(result.as_dict())
    if not result.done:
        out.say("\nstopped; the same command goes on from here")
        return
    _show_pipeline(result, out)
    _show_next(result, out)


def _show_pipeline(result: Quickstart, out: Output) -> None:
    from gptloom.observe.numbers import human_time

    out.say()
    out.table(
        ("stage", "data", "objective", "model", "time", "what got better"),
        [
            (stage.name, stage.data, stage.objective, made.model, human_time(made.seconds), made.better)
            for stage, made in result.stages
        ],
        right=("time",),
    )


def _show_next(result: Quickstart, out: Output) -> None:
    commands = {"gptloom pretrain --data yourfile.txt": "a GPT of your own text"}
    if result.writer is not None:
        run = result.folder / result.writer.run
        prompt = _quoted(result.record.corpus["prompts"][-1])
        commands[f"gptloom generate {run} --prompt {prompt}"] = "let this one write"
        commands[f"gptloom report {run}"] = "its curves and samples on a page"
    for stage, made in result.stages:
        run = result.folder / made.run
        if stage.use == "predict":
            commands[f'gptloom predict {run} --text "{DOCSTRING}"'] = "let this one tell where a docstring is from"
        elif stage.use == "chat":
            commands[f"gptloom chat {run}"] = "ask this one what something does"
    width = max(map(len, commands))
    out.result("\nTry next:")
    for command, what in commands.items():
        out.result(f"  {command:<{width}}   {what}")


def _quoted(text: str) -> str:
    """Double quotes work in every shell, as long as there is nothing in them that a shell would read."""
    return f'"{text}"' if re.fullmatch(r"[\w .,:;()]+", text) else shlex.quote(text)


COMMANDS = {"quickstart": Command(QuickstartOptions, run_quickstart)}
quickstart = python_function("quickstart", QuickstartOptions, run_stages)
