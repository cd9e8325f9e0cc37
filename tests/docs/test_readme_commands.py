"""Every ``gptloom`` command in the README and the docs exists, and takes the options that are shown.

Nothing is run: the words go through the same reader and the same option models as on the command line.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gptloom.cli.arguments import HelpPrinted, given_on_command_line
from gptloom.cli.main import TABLE
from gptloom.config.problems import COMMAND_LINE
from gptloom.config.recipes import recipe_names, resolve_with_recipe
from gptloom.config.resolve import resolve

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {row.name: row.module for row in TABLE}


class Shown(NamedTuple):
    """A command as a page shows it; ``whole`` in blocks and tables, where it must be complete, not inside a sentence."""

    place: str
    words: tuple[str, ...]
    whole: bool


def commands() -> list[Shown]:
    """Every command of every page, once."""
    return list({(shown.words, shown.whole): shown for page in PAGES for shown in commands_of(page)}.values())


def commands_of(page: Path) -> Iterator[Shown]:
    block, continued = False, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        place = f"{page.relative_to(ROOT)}:{number}"
        if line.lstrip().startswith("```"):
            block = not block
        elif block and line.endswith("\\"):
            continued += line[:-1]
        elif block:
            yield from (Shown(place, words, True) for words in commands_in(continued + line))
            continued = ""
        else:
            for quoted in re.findall(r"`([^`]*)`", line):
                for words in commands_in(quoted):
                    with_arguments = len(words) > len((name_of(words) or "").split())
                    yield Shown(place, words, line.startswith("|") and with_arguments)


def commands_in(line: str) -> Iterator[tuple[str, ...]]:
    """The words after ``gptloom`` of each command in a line of shell; ``|``, ``;`` and ``&&`` part commands."""
    if not re.match(r"(\$ )?gptloom ", line) and not re.search(r"[|;&] *gptloom ", line):
        return
    reader = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|;&")
    reader.whitespace_split = True
    words = list(reader)
    while words:
        end = next((place for place, word in enumerate(words) if word in ("|", ";", "&&", "&", ">")), len(words))
        if words[0] == "gptloom":
            yield tuple(words[1:end])
        words = words[end + 1 :]


def name_of(words: tuple[str, ...]) -> str | None:
    """The command that the words begin with, as ``gptloom`` finds it."""
    return next((name for name in (" ".join(words[:2]), words[0]) if name in NAMES), None)


def test_pages_show_commands() -> None:
    seen = {name_of(shown.words) for shown in commands() if shown.whole}
    assert seen >= {
        "quickstart",
        "pretrain",
        "resume",
        "generate",
        "evaluate",
        "tokenizer train",
        "data build",
        "report",
    }


@pytest.mark.parametrize("shown", commands(), ids=lambda shown: f"{shown.place} {' '.join(shown.words)}")
def test_the_command_is_real(shown: Shown) -> None:
    if shown.words[0] in ("COMMAND", "--help", "--version"):
        return
    name = name_of(shown.words)
    if name is None:
        groups = {name.split()[0] for name in NAMES}
        assert not shown.whole and len(shown.words) == 1 and shown.words[0] in groups, "there is no such command"
        return
    options = importlib.import_module(f"gptloom.cli.{NAMES[name]}").COMMANDS[name].options
    arguments = shown.words[len(name.split()) :]
    try:
        given = given_on_command_line(name, "", options, arguments)
    except HelpPrinted:
        return
    if not shown.whole:
        return
    if given.get("recipe") in (None, *recipe_names()):
        resolve_with_recipe(options, given, COMMAND_LINE)
    else:  # a file of the reader's
        resolve(options, given, given_source=COMMAND_LINE)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gptloom runs", [("runs",)]),
        ("$ gptloom generate m --prompt 'a; b'  # why", [("generate", "m", "--prompt", "a; b")]),
        ("gptloom runs ; gptloom doctor && echo no", [("runs",), ("doctor",)]),
        ('cat x | gptloom generate m --prompt "<|endoftext|>"', [("generate", "m", "--prompt", "<|endoftext|>")]),
        ("pip install gptloom", []),
    ],
)
def test_commands_are_found_in_lines(line: str, expected: list[tuple[str, ...]]) -> None:
    assert list(commands_in(line)) == expected
