"""The commands, through the command line and through Python."""

import io
import json
from pathlib import Path

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.tokenizer import load_tokenizer

TEXT = "To be, or not to be: that is the question.\n" * 20


@pytest.fixture
def plays(tmp_path: Path) -> str:
    path = tmp_path / "plays.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_train_then_show_then_report(plays: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "to be or not"}\n{"text": "that is"}\n', encoding="utf-8")
    out = str(tmp_path / "tok")
    assert main(["tokenizer", "train", "--data", plays, str(rows), "--vocab-size", "270", "--out", out, "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    tokenizer = load_tokenizer(out)
    assert (trained["hash"], trained["vocab_size"], trained["kind"]) == (tokenizer.hash, 270, "bpe")

    assert main(["tokenizer", "show", out, "--text", "to be", "<|pad|>", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [[token["id"] for token in one["tokens"]] for one in shown] == tokenizer.encode_batch(["to be", "<|pad|>"])
    assert bytes.fromhex("".join(token["bytes"] for token in shown[0]["tokens"])) == b"to be"
    assert main(["tokenizer", "show", out, "--text", "<|pad|>", "--special"]) == 0
    assert str(tokenizer.pad_id) in capsys.readouterr().out

    assert main(["tokenizer", "report", out, "--data", plays, str(rows), "--compare", out, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["round_trip_failures"]) == (3, 0)
    assert [row["name"] for row in report["comparisons"]] == ["bytes", out]
    assert report["comparisons"][1]["tokens"] == report["tokens"]
    assert main(["tokenizer", "report", out, "--data", plays]) == 0
    assert "bytes per token" in capsys.readouterr().out


def test_show_reads_standard_input(
    plays: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gptloom.tokenizer_train(data=plays, kind="bytes", out=str(tmp_path / "tok"))
    monkeypatch.setattr("sys.stdin", io.StringIO("é"))
    assert main(["tokenizer", "show", str(tmp_path / "tok"), "--text", "-", "--json"]) == 0
    assert [token["id"] for token in json.loads(capsys.readouterr().out)[0]["tokens"]] == [0xC3, 0xA9]
    assert main(["tokenizer", "show", str(tmp_path / "tok"), "--text", "-", "-"]) == 2
    assert "read only once" in capsys.readouterr().err


def test_python_gives_the_same(plays: str, tmp_path: Path) -> None:
    out = tmp_path / "tok"
    tokenizer = gptloom.tokenizer_train(data=plays, kind="words", out=out)
    assert load_tokenizer(out).hash == tokenizer.hash
    assert [row.text for row in gptloom.tokenizer_show(out, text=" to be")[0].tokens] == ["·to", "·be"]
    assert gptloom.tokenizer_report(out, data=plays).characters == len(TEXT)


def test_a_tokenizer_is_not_overwritten_unasked(plays: str, tmp_path: Path) -> None:
    out = tmp_path / "tok"
    first = gptloom.tokenizer_train(data=plays, kind="chars", out=out)
    with pytest.raises(UserError, match="--overwrite"):
        gptloom.tokenizer_train(data=plays, kind="bytes", out=out)
    assert load_tokenizer(out).hash == first.hash
    assert gptloom.tokenizer_train(data=plays, kind="bytes", out=out, overwrite=True).hash == load_tokenizer(out).hash
    with pytest.raises(UserError, match="not a folder"):
        gptloom.tokenizer_train(data=plays, out=plays)


def test_too_large_a_vocabulary_exits_with_2_and_a_size(
    plays: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tok"
    assert main(["tokenizer", "train", "--data", plays, "--vocab-size", "8192", "--out", str(out), "--json"]) == 2
    problem = json.loads(capsys.readouterr().out)["error"][0]
    assert problem["where"] == "--vocab-size"
    assert problem["mend"].startswith("--vocab-size 2")
    assert not out.exists()


def test_a_weight_means_nothing_here(plays: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weight"):
        gptloom.tokenizer_train(data=f"{plays}@0.5", out=tmp_path / "tok")


def test_wordpiece_cased_and_not(plays: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, shown in (([], ["to", "be"]), (["--cased"], ["To", "be"])):
        out = str(tmp_path / f"tok{len(flags)}")
        assert main(["tokenizer", "train", "--data", plays, "--kind", "wordpiece", *flags, "--out", out, "--json"]) == 0
        trained = json.loads(capsys.readouterr().out)
        assert (trained["kind"], trained["special_tokens"]["[MASK]"]) == ("wordpiece", 4)
        assert main(["tokenizer", "show", out, "--text", "To be [MASK]", "--special", "--json"]) == 0
        tokens = json.loads(capsys.readouterr().out)[0]["tokens"]
        assert [token["text"] for token in tokens] == [*shown, "[MASK]"]
    assert main(["tokenizer", "report", out, "--data", plays, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["lossless"], report["round_trip_failures"], report["unknown_tokens"]) == (False, 1, 0)
    assert report["bytes_per_token"] == len(TEXT.encode()) / report["tokens"]
    assert main(["tokenizer", "report", out, "--data", plays]) == 0
    assert "this kind cleans a text" in capsys.readouterr().out


def test_cased_belongs_to_wordpiece(plays: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "train", "--data", plays, "--cased", "--out", str(tmp_path / "tok")]) == 2
    assert "--kind wordpiece" in capsys.readouterr().err
