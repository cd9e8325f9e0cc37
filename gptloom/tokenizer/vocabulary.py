"""Reading published vocabulary files: a JSON of ids, a list of merges, a ``vocab.txt``; refused where damaged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from gptloom.config.errors import Problem, UserError

DOWNLOAD_AGAIN = "download the file again"
_LISTED = 3


def read_ids(path: Path) -> dict[str, int]:
    """Token → id of a ``vocab.json`` or ``encoder.json``.

    Raises:
        UserError: not UTF-8, not JSON, or not one object of ids.
    """
    try:
        vocab = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8 or not JSON
        raise UserError(Problem(f"not a JSON file: {error}", where=str(path), mend=DOWNLOAD_AGAIN)) from error
    if not isinstance(vocab, dict) or not vocab or not all(isinstance(token_id, int) for token_id in vocab.values()):
        raise UserError(Problem('expected one JSON object, {"token": id, …}', where=str(path), mend=DOWNLOAD_AGAIN))
    return vocab


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The merges of a ``merges.txt`` or ``vocab.bpe``, first learnt first.

    Raises:
        UserError: not UTF-8, or a line that is not two tokens; it names the line.
    """
    merges = []
    for number, line in enumerate(_lines(path), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            what = f"expected two tokens with one space between, found {line[:60]!r}"
            raise UserError(Problem(what, where=f"{path}:{number}", mend=DOWNLOAD_AGAIN))
        merges.append((pair[0], pair[1]))
    return merges


def read_lines(path: Path) -> dict[str, int]:
    """Token → id of a ``vocab.txt``, where the id of a token is the number of its line, counted from 0.

    Raises:
        UserError: not UTF-8, empty, or lines that are empty or stand there twice; all of them at once.
    """
    lines = _lines(path)
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(Problem("is empty", where=str(path), mend=DOWNLOAD_AGAIN))
    problems = []
    counts = Counter(line for line in lines if line)
    twice = [token for token, count in counts.items() if count > 1]
    if twice:
        first = ", ".join(f"{token!r} (lines {_places(lines, token)})" for token in twice[:_LISTED])
        more = f" and {len(twice) - _LISTED:,} more" if len(twice) > _LISTED else ""
        what = f"a token stands on one line only, but these stand on several: {first}{more}"
        problems.append(Problem(what, where=str(path), mend=DOWNLOAD_AGAIN))
    if "" in lines:
        what = "the line is empty; each line is one token, its number the id"
        problems.append(Problem(what, where=f"{path}:{lines.index('') + 1}", mend=DOWNLOAD_AGAIN))
    if problems:
        raise UserError(*problems)
    return {token: number for number, token in enumerate(lines)}


def _places(lines: list[str], token: str) -> str:
    return ", ".join(str(number) for number, line in enumerate(lines, start=1) if line == token)


def _lines(path: Path) -> list[str]:
    """Split at line feeds alone (with Windows' return before): tokens may hold what else ends a line."""
    try:
        return [line.removesuffix("\r") for line in path.read_bytes().decode("utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(Problem(f"not UTF-8: {error}", where=str(path), mend=DOWNLOAD_AGAIN)) from error
