"""Prompts in, answers out: the files of ``gptloom generate``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import check_new_file
from gptloom.data.reading import read_lines
from gptloom.generation.language_model import Completion, NextToken

JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and the other fields of its line."""

    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a model wrote after a prompt, or with ``show_choices`` what it could go on with."""

    prompt: Prompt
    model: str
    completions: tuple[Completion, ...] = ()
    choices: tuple[NextToken, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """A line of an answers file: the fields of the prompt's line, the model, and the completions or choices."""
        line = {"prompt": self.prompt.text, **self.prompt.fields, "model": self.model}
        if self.choices:
            return {**line, "choices": [choice._asdict() for choice in self.choices]}
        return {**line, "completions": [_as_dict(completion) for completion in self.completions]}


def _as_dict(completion: Completion) -> dict[str, Any]:
    told = {name: getattr(completion, name) for name in ("text", "finish_reason", "tokens", "logprob")}
    if completion.alternatives:
        told["logprobs"] = [
            [{"id": token_id, "logprob": logprob} for token_id, logprob in place] for place in completion.alternatives
        ]
    return told


def read_prompts(lines: Iterable[str], name: str) -> list[Prompt]:
    """The prompts of a file called ``name``; blank lines are left out.

    JSON lines (by the name's end, or for standard input, ``-``, when the first line is a JSON object) have the prompt in
    ``prompt``. ``UserError`` names every line that is wrong, or says that there is none.
    """
    numbered = [(number, line.rstrip("\r\n")) for number, line in enumerate(lines, start=1) if line.strip()]
    shown = "standard input" if name == "-" else name
    if not numbered:
        raise UserError(Problem("there is no prompt in it", shown, "a prompt on each line"))
    as_json = name.lower().endswith(JSON_LINES) or (name == "-" and _is_object(numbered[0][1]))
    if not as_json:
        return [Prompt(line) for _, line in numbered]
    prompts: list[Prompt] = []
    problems: list[Problem] = []
    for number, line in numbered:
        found = _read_object(line, f"{shown}:{number}")
        (prompts if isinstance(found, Prompt) else problems).append(found)  # type: ignore[arg-type]
    if problems:
        raise UserError(*problems)
    return prompts


def read_prompts_file(path: Path) -> list[Prompt]:
    """``read_prompts`` of a UTF-8 file, compressed or not. ``UserError`` when it is missing or not text."""
    if not path.is_file():
        raise UserError(Problem("there is no such file", str(path)))
    return read_prompts(read_lines(path, "utf-8"), str(path))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _read_object(line: str, where: str) -> Prompt | Problem:
    expected = 'a line such as {"prompt": "Once upon a time"}'
    try:
        fields = json.loads(line)
    except ValueError as error:
        return Problem(f"not JSON: {error}", where, expected)
    if not isinstance(fields, dict):
        return Problem("not a JSON object", where, expected)
    if "messages" in fields:
        return Problem(
            "it has messages, a conversation; generate continues texts, and adds nothing to them",
            where,
            "gptloom.load(MODEL).chat(messages) in Python, or gptloom chat; a text goes in the field prompt",
        )
    if not isinstance(fields.get("prompt"), str):
        return Problem("it has no text in the field prompt", where, expected)
    return Prompt(fields.pop("prompt"), fields)


@contextmanager
def answers_file(path: Path, overwrite: bool) -> Iterator[IO[str]]:
    """A file to write answers to, line by line: first ``PATH.part``, which stays when writing breaks off, in the end PATH.

    ``UserError`` when PATH exists and is not to be overwritten, or its folder does not exist or can't be written to.
    """
    check_new_file(path, overwrite)
    partial = path.with_name(path.name + ".part")
    try:
        file = partial.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(Problem(f"it can't be written: {error.strerror}", str(path))) from None
    with file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
