"""``gptloom evaluate`` of what is not for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptloom.cli.main import main
from gptloom.config.task import Columns, TaskConfig, TaskTokens


def test_a_model_that_answers_rows_is_for_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = TaskConfig(
        task="classify",
        labels=("bad", "good"),
        columns=Columns(text="text"),
        inputs="gpt1",
        tokens=TaskTokens(start=0, delimiter=(0,), extract=0),
        max_length=16,
    )
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    card = {"version": 1, "task": task.model_dump(mode="json")}
    (tmp_path / "gptloom.json").write_text(json.dumps(card), encoding="utf-8")
    (tmp_path / "rows.tsv").write_text("text\tlabel\nfine\tgood\n", encoding="utf-8")
    assert main(["evaluate", str(tmp_path), "--data", str(tmp_path / "rows.tsv")]) == 2
    assert f"gptloom predict {tmp_path} --data ROWS" in capsys.readouterr().err
