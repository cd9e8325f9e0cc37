"""``gptloom data instruct`` on the command line and in Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gptloom
from gptloom.cli.main import main

ROWS = "text\tlabel\n" + "".join(f"a {word} thing {i}\t{word}\n" for i in range(30) for word in ("good", "bad"))


def test_a_labelled_file_becomes_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "rows.tsv", tmp_path / "moods.jsonl"
    data.write_text(ROWS, encoding="utf-8")
    arguments = ["data", "instruct", str(data), "--task", "classify", "--out", str(out), "--valid-rows", "10"]
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert f"{out}: 50 conversations in 8 wordings, to be scored by exact" in told.out
    assert "guessed: text, label" in told.err and f"gptloom sft BASE --data {out} --valid" in told.err
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 50 and rows[0]["task"] == "moods" and rows[0]["metric"] == "exact"
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant"]

    assert main([*arguments, "--overwrite", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"] == 50 and document["valid_rows"] == 10 and document["example"] == rows[0]["messages"]
    assert document["answers"] == {
        word: sum(row["messages"][1]["content"] == word for row in rows) for word in ("good", "bad")
    }

    again = gptloom.data_instruct(data, task="classify", out=tmp_path / "again.jsonl", valid_rows=10)
    assert [one.answer for one in again.conversations] == [row["messages"][1]["content"] for row in rows]


def test_mistakes_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "rows.tsv", tmp_path / "no" / "where.jsonl"
    data.write_text(ROWS, encoding="utf-8")
    assert main(["data", "instruct", str(data), "--task", "classify", "--out", str(out), "--second", "x"]) == 2
    told = capsys.readouterr().err
    assert f"mkdir -p {out.parent}" in told and "--second does nothing for --task classify" in told
    assert main(["data", "instruct", str(data), "--task", "translation", "--out", "x.jsonl"]) == 2
    assert "translate" in capsys.readouterr().err
