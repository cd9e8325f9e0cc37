"""The command ``gptloom``: finds the command a user named in a table and imports that command's module only.

How to write a command. Its module (third column of ``TABLE``) holds ``COMMANDS``, from the full name to a ``Command``::

    from gptloom.cli.framework import Command
    from gptloom.cli.output import Output
    from gptloom.config.options import POSITIONAL, JsonOption, QuietOption
    from gptloom.config.python import python_function
    from gptloom.config.resolve import Resolved

    class ShowOptions(JsonOption, QuietOption):
        tokenizer: Annotated[str, POSITIONAL] = Field(description="tokenizer folder, file, or gpt2")
        text: list[str] = Field([], description="texts whose tokens are shown")

    def show(resolved: Resolved[ShowOptions]) -> Shown:
        '''The work, also behind Python: returns the result, prints none of it; imports torch and the like inside.'''

    def run_show(resolved: Resolved[ShowOptions], out: Output) -> int | None:
        '''Shows a text as tokens.'''           # the docstring is the description in --help
        shown = show(resolved)                  # resolved.options.text, resolved.source("text"), .given("text")
        out.say(f"{len(shown.ids)} tokens")     # a message: stderr, nothing when --quiet
        out.result(shown.text)                  # what was asked for: stdout, even when --quiet; nothing under --json
        out.table(("id", "text"), rows, right=["id"])      # a table, as ``result``
        out.document({"ids": shown.ids})        # the one JSON document of --json (without --json: nothing)
        return None                             # the exit code; None is 0

    COMMANDS = {"tokenizer show": Command(ShowOptions, run_show)}
    tokenizer_show = python_function("tokenizer_show", ShowOptions, show)   # gptloom.tokenizer_show: gptloom/__init__

* At import a command's module loads pydantic at most: torch, numpy, tokenizers, stages are imported in functions.
* A command with ``JsonOption`` calls ``out.document`` exactly once on success. While it runs under ``--json``, stray
  prints go to stderr, and errors become ``{"error": [{"what", "where", "mend"}]}`` on stdout.
* Messages of the work itself go through ``gptloom.observe.terminal.say``, which ``--quiet`` silences too.
* User mistakes are ``UserError`` (exit 2), a guard's stop is ``GuardStop`` (3), Ctrl-C is 130, the rest is ours (1).
* ``out.ask("question?", resolved.options.yes)``: True with ``--yes``, asks at a terminal, else refuses.
* A recipe (``RecipeOptions``) is already merged into ``resolved`` when ``run`` is called. What the command derives
  itself it adds with ``resolved = resolved.derive("max_steps", 2000, "10 minutes at 3.3 steps/s")``.
* Options that are stored as a run's ``config.yaml`` are written with ``gptloom.config.resolve.write_config``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple


class Entry(NamedTuple):
    """One command: full name (two words in a group), line in the help, module in ``gptloom.cli``, heading."""

    name: str
    line: str
    module: str
    heading: str


TABLE = (
    Entry("quickstart", "see the whole pipeline work in minutes, without any download", "quickstart", "Start"),
    Entry("doctor", "what this machine can do, what is missing, what to install", "doctor", "Start"),
    Entry("pretrain", "train a GPT on text files, or go on training one", "pretrain", "Train"),
    Entry(
        "finetune", "teach a trained model a task: classes, pairs, choices, tags, answers, scores", "finetune", "Train"
    ),
    Entry("sft", "teach a trained model to follow instructions and to hold a conversation", "sft", "Train"),
    Entry("resume", "continue a run where it stopped, or extend a finished one", "pretrain", "Train"),
    Entry("rerun", "repeat a finished run, and prove that the same comes out", "verify", "Train"),
    Entry("verify-resume", "prove on this machine that a killed training goes on to the bit", "verify", "Train"),
    Entry("launch", "what to start on several machines: torchrun lines, or a Slurm script", "launch", "Train"),
    Entry("generate", "let a model write", "generate", "Use"),
    Entry("chat", "talk with a model in the terminal", "chat", "Use"),
    Entry("fill-mask", "which words a model expects where a text says [MASK]", "fill_mask", "Use"),
    Entry("attention", "a page that shows what each head of a model looks at in a text", "attention", "Use"),
    Entry("predict", "what a fine-tuned model answers, for a file's rows or a text", "predict", "Use"),
    Entry("compare", "fine-tuned models on the same rows: is the difference more than chance", "compare", "Use"),
    Entry("evaluate", "loss, perplexity and bits per byte of a model on text", "evaluate", "Use"),
    Entry("import", "bring in a model of transformers or the Hugging Face hub", "import_model", "Doors"),
    Entry("export", "write a model for transformers, llama.cpp, Ollama or your own program", "export", "Doors"),
    Entry("tokenizer train", "train a tokenizer on text", "tokenizer", "Prepare"),
    Entry("tokenizer show", "show a text as tokens", "tokenizer", "Prepare"),
    Entry("tokenizer report", "how well a tokenizer fits a text", "tokenizer", "Prepare"),
    Entry(
        "data prepare",
        "look through a file of examples, explain, repair, and write it for training",
        "prepare",
        "Prepare",
    ),
    Entry("data check", "every problem of a file at once, before a training finds it", "check", "Prepare"),
    Entry("data instruct", "turn a labelled set into instructions and answers", "instruct", "Prepare"),
    Entry("data build", "turn documents into token shards", "data", "Prepare"),
    Entry("data show", "show the batch of any step of a run, or examples as a model reads them", "data", "Prepare"),
    Entry("runs", "list runs and how they are doing", "runs", "Runs"),
    Entry("runs show", "everything about one run", "runs", "Runs"),
    Entry("follow", "replay a run's progress and watch it live", "runs", "Runs"),
    Entry("stop", "save and end a run from any terminal", "runs", "Runs"),
    Entry("report", "one self-contained HTML page about a run", "runs", "Runs"),
    Entry("lineage", "what a model was made from", "runs", "Runs"),
    Entry("config explain", "which layer set each option of a run, and by which rule", "config", "Look up"),
    Entry("models", "list the model presets and their sizes", "models", "Look up"),
    Entry("models show", "the whole configuration of a preset", "models", "Look up"),
    Entry("recipes list", "list the recipes", "recipes", "Look up"),
    Entry("recipes show", "print a recipe with its sources", "recipes", "Look up"),
    Entry("recipes copy", "copy a recipe to a file of your own", "recipes", "Look up"),
)

USAGE_END = """
gptloom COMMAND --help   the options of a command
gptloom --version        the version
"""


def entry() -> None:
    """The console script: runs the command line of this process and exits with its code."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs ``gptloom ARGUMENTS`` and returns the exit code; never raises and never exits."""
    first = arguments[0] if arguments else "--help"
    if first in ("--help", "-h", "help"):
        return _print_help(TABLE, "gptloom: your own GPT, from a text file to a model that writes\n\n", USAGE_END)
    if first == "--version":
        from gptloom import __version__

        print(f"gptloom {__version__}")
        return 0
    chosen = _find(arguments)
    from gptloom.cli import framework  # after the answers above, which need nothing

    if chosen is not None:
        return framework.run_command(
            chosen.name, chosen.line, f"gptloom.cli.{chosen.module}", arguments[len(chosen.name.split()) :]
        )
    group = [row for row in TABLE if row.name.split()[0] == first]
    if group and len(arguments) > 1 and arguments[1] in ("--help", "-h"):
        return _print_help(group, f"usage: gptloom {first} COMMAND\n\n", "")
    return framework.refuse_command(arguments, [row.name for row in TABLE])


def _find(arguments: Sequence[str]) -> Entry | None:
    """The longest name of the table that the arguments begin with."""
    by_name = {row.name: row for row in TABLE}
    return by_name.get(" ".join(arguments[:2])) or by_name.get(arguments[0])


def _print_help(rows: Sequence[Entry], head: str, foot: str) -> int:
    width = max(len(row.name) for row in rows)
    lines, heading = [head], ""
    for row in rows:
        if row.heading != heading and len(rows) == len(TABLE):
            heading = row.heading
            lines.append(f"{heading}\n")
        lines.append(f"  {row.name:<{width}}  {row.line}\n")
    print("".join(lines) + foot, end="")
    return 0
