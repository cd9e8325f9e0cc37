"""``gptloom data prepare`` and ``gptloom.data_prepare``: questions at a terminal or a pipe, options, models."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.model import ModelConfig, preset
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer import train_tokenizer

ROWS = "question,answer\nWho wrote Emma?,Jane Austen did.\nWhere is Oslo?,In Norway\nWhat is the time?,Ten\n"
WRITTEN = {"prompt": "Who wrote Emma? ->", "completion": " Jane Austen did.\n"}


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    path = tmp_path / "messy.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def first(path: Path) -> dict[str, str]:
    row: dict[str, str] = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    return row


@pytest.mark.parametrize("flag", ["--yes", "-q"])
def test_all_that_is_recommended(flag: str, messy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", str(messy), flag]) == 0
    written = messy.with_name("messy_prepared.jsonl")
    assert first(written) == WRITTEN and messy.read_text(encoding="utf-8") == ROWS
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"  gptloom sft BASE --data {written}"
    assert f'openai api fine_tunes.create -t "{written}"' in out
    assert err.startswith("Analyzing...\n") and "[Necessary] Convert CSV to JSONL" in err
    assert "[Recommended] Put the separator ' ->' behind every prompt [Y/n]: yes" in err


def test_answers_from_a_pipe(messy: Path, answer: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    answer("n\n\nY\n\n")  # separator, stop, space, proceed
    assert main(["data", "prepare", str(messy), "--quiet"]) == 0
    row = first(messy.with_name("messy_prepared.jsonl"))
    assert row == {"prompt": "Who wrote Emma?", "completion": " Jane Austen did.\n"}
    assert "[Y/n]" in capsys.readouterr().err  # a question is put however quiet it is


@pytest.mark.parametrize("typed", ["", "y\n", "y\ny\ny\n"])
def test_input_that_ends_at_a_question(
    typed: str, messy: Path, answer: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    answer(typed)
    assert main(["data", "prepare", str(messy)]) == 2
    err = capsys.readouterr().err
    assert err.count("error:") == 1 and "nothing was written" in err and "--yes" in err
    assert names(messy.parent) == ["messy.csv"]


def test_no_standard_input_at_all(messy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["data", "prepare", str(messy)]) == 2


def test_broken_off_at_a_question(messy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupted())
    assert main(["data", "prepare", str(messy)]) == 130
    assert names(messy.parent) == ["messy.csv"]


def test_the_document(messy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", str(messy), "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["paths"] == [str(messy.with_name("messy_prepared.jsonl"))] and document["rows"] == [3]
    assert (document["next"]["separator"], document["next"]["stop"]) == (" ->", "\n")
    assert {"check": "format", "applied": True}.items() <= document["findings"][0].items()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt": \n', ":2"),
        ('{"prompt": "a", "completion": "b"}\n["a"]\n', ":2"),
        ("", "empty file"),
    ],
)
def test_files_that_cannot_be_understood(
    content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content, encoding="utf-8")
    assert main(["data", "prepare", str(path), "--yes"]) == 2
    err = capsys.readouterr().err
    assert told in err and "Traceback" not in err and names(tmp_path) == ["x.jsonl"]


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kant.csv").write_text(ROWS, encoding="utf-8")
    assert main(["data", "prepare", str(tmp_path / "cant.csv"), "--yes"]) == 2
    assert "did you mean kant.csv?" in capsys.readouterr().err


def test_from_python(messy: Path) -> None:
    prepared = gptloom.data_prepare(data=messy, yes=True)
    assert [path.name for path in prepared.paths] == ["messy_prepared.jsonl"]
    assert prepared.as_dict()["kind"] == "conditional" and prepared.findings


def test_tokens_of_a_model(messy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer("bytes", [], None)
    config = ModelConfig(**{**preset("modern-nano"), "vocab_size": tokenizer.vocab_size, "context": 32})
    folder = tmp_path / "base"
    save_model(folder, Transformer.initialised(config, seed=0), config, tokenizer=tokenizer)
    assert main(["data", "prepare", str(messy), "--yes", "--model", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"  gptloom sft {folder} --data ")
    assert f"74 tokens (by the tokenizer of {folder})" in err and "1 row of more than 32" not in err
    assert (
        first(messy.with_name("messy_prepared.jsonl"))["completion"] == "Jane Austen did.\n"
    )  # no space: single bytes
    assert main(["data", "prepare", str(messy), "--yes", "--model", "modern-nano"]) == 2
