"""Instruction data broken in every usual way: what ``data check`` and ``sft`` say of it is what, where and the mend.

Neither writes anything then, neither shows a traceback, and both end with exit code 2.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gptloom.cli.main import main
from gptloom.data.instruction_formats import read_conversations

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}


def chat(*messages: object) -> str:
    return json.dumps({"messages": messages})


GOOD, OTHER = chat(USER, ANSWER), chat({**USER, "content": "How are you?"}, ANSWER)
PAIR = json.dumps({"prompt": "Hi", "completion": "Hello"})


class Bad(NamedTuple):
    lines: tuple[str | bytes, ...]  # of a file, of which the second is broken
    what: str
    mend: str


CASES = {
    "broken JSON": Bad(
        (GOOD, '{"messages": [{"role": "user"', OTHER),
        "not JSON: Expecting ',' delimiter at column 30",
        "the line or file is cut off: copy it again, or end it with the missing quote, ] or }",
    ),
    "Python instead of JSON": Bad(
        (PAIR, "{'prompt': 'Hi', 'completion': 'Hello'}"),
        "not JSON: Expecting property name enclosed in double quotes",
        "Python writes it with json.dumps(row), not str(row)",
    ),
    "a missing role": Bad(
        (GOOD, chat({"content": "Hi"}, ANSWER)),
        "message 1 has no role (its keys: content)",
        '"role": "system", "user", "assistant" or "tool"',
    ),
    "an unknown role": Bad(
        (GOOD, chat(USER, {**ANSWER, "role": "asistant"})),
        "message 2 has the role 'asistant'",
        "did you mean assistant?",
    ),
    "two questions": Bad(
        (GOOD, chat(USER, USER, ANSWER)),
        "messages 1 and 2 are both the user's: an answer between them is missing",
        "join the two, or write what is missing",
    ),
    "a late system message": Bad(
        (GOOD, chat(USER, ANSWER, SYSTEM, USER, ANSWER)),
        "message 3 is the system's, which must come first",
        "move it to the front, or delete it",
    ),
    "no answer": Bad(
        (GOOD, chat(USER, ANSWER, USER)),
        "the last message is the user's: nothing is answered",
        "write the assistant's answer to it, or delete the message",
    ),
    "an empty answer": Bad(
        (GOOD, chat(USER, {**ANSWER, "content": ""})),
        "the answer is empty",
        "write an answer, or delete the row",
    ),
    "an empty answer among others": Bad(
        (GOOD, chat(USER, {**ANSWER, "content": "\n"}, USER, ANSWER)),
        "message 2, the assistant's, is white space only",
        "write an answer, or delete the row",
    ),
    "a completion of white space": Bad(
        (PAIR, json.dumps({"prompt": "Ho", "completion": " \t\r\n"})),
        "the answer is white space only",
        "write an answer, or delete the row",
    ),
    "a key mistyped": Bad(
        (PAIR, json.dumps({"prompt": "Ho", "completon": "Hello"})),
        "no 'completion' (its keys: prompt, completon)",
        "rename it to completion",
    ),
    "another encoding": Bad(
        (GOOD, OTHER.replace("Hello", "Caf#").encode().replace(b"#", b"\xe9")),
        "not UTF-8: byte 0xe9 ('é' in latin-1) at byte 97 of the line",
        "iconv -f latin1 -t utf-8",
    ),
    "bytes of a binary file": Bad(
        (GOOD, GOOD.replace("Hello", "Hel\0lo")),
        "a NUL byte, at byte 87 of the line",
        "is it a text file, and whole? copy or convert it again",
    ),
    "no object": Bad(
        (GOOD, '["Hi", "Hello"]'),
        "a JSON list, not an object",
        '{"messages": [...]}',
    ),
    "another format": Bad(
        (PAIR, GOOD, PAIR),
        "messages (OpenAI) in a file of prompt/completion",
        "write these rows to a file of their own, and give both files",
    ),
}  # fmt: skip


def put(path: Path, *lines: str | bytes, end: bytes = b"\n", begin: bytes = b"") -> Path:
    whole = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(begin + end.join([*whole, b""]))
    return path


@pytest.mark.parametrize("name", CASES)
def test_each_is_told_before_anything_is_done(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, what, mend = CASES[name]
    path = put(tmp_path / "rows.jsonl", *lines)

    assert main(["data", "check", str(path)]) == 2
    out, err = capsys.readouterr()
    problems = out.split("\nproblems:\n")[1].split("\nwarnings:\n")[0]
    told = next(one for one in problems.split(f"  {path}:") if one.startswith(f"2: {what}"))
    assert mend in told and "\n    try: " in told
    assert "not yet fit for sft: 1 problem to mend" in out and "Traceback" not in out + err

    assert main(["sft", "runs/base", "--data", str(path), "--out", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    first, where, tried = err.removeprefix("\n").splitlines()[:3]
    assert first.startswith(f"error: {what}") and where == f"  {path}:2"
    assert tried.startswith("  try: ") and mend in tried and "Traceback" not in out + err
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"]


def test_all_of_them_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file's problems come in one go, held-out files too, a few of each kind with a count."""
    wrong = chat(USER)
    train = put(tmp_path / "train.jsonl", GOOD, chat(USER, {**ANSWER, "content": ""}), "{", *[wrong] * 9)
    valid = put(tmp_path / "valid.jsonl", PAIR, json.dumps({"prompt": "Why?", "completion": " "}))
    none = tmp_path / "none.jsonl"
    files = ["--data", str(train), str(none), "--valid", str(valid)]
    assert main(["sft", "runs/base", *files, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    for what in (
        f"{train}:2",
        f"{train}:3",
        f"{train}:4",
        f"{train}:6",
        "6 more: conversations that end",
        f"{valid}:2",
    ):
        assert what in err
    assert f"no such file\n  {none}" in err and f"{train}:7" not in err


# ---- what is read as it is -------------------------------------------------------------------------------------------


def test_marks_and_line_ends_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A byte-order mark and CRLF: rows are those of a file without them."""
    path = put(tmp_path / "rows.jsonl", GOOD, OTHER, end=b"\r\n", begin=b"\xef\xbb\xbf")
    assert main(["data", "check", str(path)]) == 0
    assert "warnings" not in capsys.readouterr().out
    texts = [[m.content for m in one.messages] for one in read_conversations([str(path)]).conversations]
    assert texts == [["Hi", "Hello"], ["How are you?", "Hello"]]
    table = put(tmp_path / "rows.csv", "prompt,completion", "Hi,Hello", end=b"\r\n", begin=b"\xef\xbb\xbf")
    assert [m.content for m in read_conversations([str(table)]).conversations[0].messages] == ["Hi", "Hello"]


def test_a_line_of_ten_megabytes_is_read_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "rows.jsonl", GOOD, OTHER.replace("How", "H" + "o" * 10_000_000 + "w"), OTHER)
    assert main(["data", "check", str(path)]) == 0
    assert f"longest: 10,000,016 ({path}:2), " in capsys.readouterr().out


def test_unknown_keys_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They do nothing, which someone may not know; so they are no reason to stop."""
    row = json.dumps({"messages": [{**USER, "contant": "Ho"}, ANSWER], "annotator": "Ann"})
    path = put(tmp_path / "rows.jsonl", GOOD, row)
    assert main(["data", "check", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{path}:2: message 1 has a key 'contant', which does nothing\n    try: did you mean content?" in out
    assert "not used: annotator" in out


# ---- for other commands, and without an end --------------------------------------------------------------------------

COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "pretrain": lambda path: ["pretrain", "--data", path],
    "finetune": lambda path: ["finetune", "runs/base", "--task", "classify", "--data", path],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("row", [GOOD, PAIR, json.dumps({"instruction": "Greet.", "input": "", "output": "Hello"})])
def test_for_another_stage_the_line_of_sft_is_printed(
    command: str, row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row.replace("H", letter * 3) for letter in "ABCDEFGHIJKL"]
    path = put(tmp_path / "rows.jsonl", *rows)
    assert main([*COMMANDS[command](str(path)), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert f"gptloom sft BASE --data {path}" in err and "Traceback" not in err
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"]


def test_input_that_ends_at_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path / "rows.csv", "question,answer", "Who wrote Emma?,Jane Austen", "Where is Oslo?,In Norway")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["data", "prepare", str(path)]) == 2
    err = capsys.readouterr().err
    assert "error: the input ended where an answer was expected; nothing was written" in err
    assert "try: --yes does what is recommended without asking" in err and "Traceback" not in err
    assert [one.name for one in tmp_path.iterdir()] == ["rows.csv"]
