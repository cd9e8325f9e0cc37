"""data build and data show, in-process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import gptloom
from gptloom.cli.main import main
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import resolve, write_config
from gptloom.data.batches import TokenBatches
from gptloom.data.build import build_shards
from gptloom.data.built import load_built
from gptloom.tokenizer import train_tokenizer


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "plays.txt"
    path.write_text("".join(f"line {number} of the play\n" for number in range(200)), encoding="utf-8")
    return path


def test_build_prints_the_rule_and_the_amounts(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tokenizer("bytes", [], None).save(tmp_path / "tok")
    arguments = [
        "data",
        "build",
        "--data",
        str(text),
        "--tokenizer",
        str(tmp_path / "tok"),
        "--out",
        str(tmp_path / "s"),
    ]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "validation: the last 10 % of the file, cut at a line end" in captured.err
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["train"]["bytes"] + document["valid"]["bytes"] == text.stat().st_size
    assert document["train"]["tokens"] == document["train"]["bytes"] + 1  # end-of-text
    assert load_built(tmp_path / "s").hash == document["hash"]
    assert main([*arguments, "--valid-fraction", "0.2"]) == 2
    assert "holds shards of other data or options" in capsys.readouterr().err


def test_problems_are_user_errors_with_a_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    train_tokenizer("bytes", [], None).save(tmp_path / "tok")
    code = main(
        ["data", "build", "--data", str(tmp_path / "bad.txt"), "--tokenizer", str(tmp_path / "tok"), "--out", "unused"]
    )
    assert code == 2
    assert "--encoding latin-1" in capsys.readouterr().err
    assert main(["data", "show", str(tmp_path), "--step", "1"]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_show_decodes_the_batch_that_the_step_is_trained_on(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    tokenizer = train_tokenizer("bytes", [], None)
    tokenizer.save(run / "tokenizer")
    built = build_shards([str(text)], tokenizer, run / "data")
    given = {"data": [str(text)], "context": 32, "batch_tokens": 32 * 6, "seed": 5}
    write_config(run / "config.yaml", resolve(PretrainOptions, given), "pretrain")
    shown = gptloom.data_show(str(run), step=9, rows=3)
    batch = TokenBatches(built.open().train, 32, 6, 5).batch(8)  # the first step is 1, its batch is 0
    assert [window.ids[:-1] for window in shown] == batch.ids[:3].tolist()
    assert [window.ids[1:] for window in shown] == batch.targets[:3].tolist()
    assert torch.equal(batch.ids[0], torch.tensor(list(shown[0].text.encode())[:-1]))
    assert main(["data", "show", str(run), "--step", "9", "--rows", "3"]) == 0
    out = capsys.readouterr().out
    assert all(window.text in out for window in shown)
    assert out.count("--- row") == 3
