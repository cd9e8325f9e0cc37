"""``gptloom data check`` as a person and as a program use it; and the commands that point instruction data to it or sft."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer

ROWS = [{"prompt": f"what is {a} plus {b}?", "completion": f"it is {a + b}."} for a in range(5) for b in range(5)]
Run = Callable[..., tuple[int, str]]


def put(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code and stdout of ``gptloom data check``."""

    def call(*arguments: str) -> tuple[int, str]:
        code = main(["data", "check", *arguments])
        return code, capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that reads bytes, 64 at a time."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer("bytes", [], None)
    shape = {"n_layer": 1, "d_model": 16, "n_head": 2, "n_kv_head": 2, "head_dim": 8, "d_ff": 16, "context": 64}
    config = ModelConfig(**{**preset("modern-nano"), **shape, "vocab_size": tokenizer.vocab_size})
    save_model(folder, Transformer.initialised(config, seed=1), config, tokenizer=tokenizer)
    return str(folder)


def test_a_sound_file(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "rows.jsonl", ROWS)
    code, out = run(path)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["file", "for", "format", "rows", "turns", "characters"]
    assert lines[1].split() == [path, "train", "prompt/completion", "25", "25", f"{_characters():,}"]
    assert lines[-1] == f"fine for: gptloom sft BASE --data {path}"


def _characters() -> int:
    return sum(len(row["prompt"]) + len(row["completion"]) for row in ROWS)


def test_problems_and_warnings_apart(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "rows.jsonl", [*ROWS, ROWS[0], {"prompt": "why?", "completion": ""}])
    code, out = run(path)
    assert code == 2
    problems, warnings = out.split("\nproblems:\n")[1].split("\nwarnings:\n")
    assert f"  {path}:27: the answer is empty\n    try: write an answer, or delete the row" in problems
    assert "repeats an earlier one" in warnings and "repeats" not in problems
    assert "not yet fit for sft: 1 problem to mend" in out.splitlines()[-1]


def test_json(run: Run, tmp_path: Path) -> None:
    code, out = run(put(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "why?", "completion": ""}]), "--json")
    report = json.loads(out)
    assert code == 2 and report["fine"] is False and report["n_problems"] == 1
    assert report["problems"][0]["what"] == "the answer is empty"
    assert report["files"][0]["rows"] == 26 and report["repeated"]["exact"]["count"] == 0


def test_with_a_model(run: Run, base: str, tmp_path: Path) -> None:
    """Tokens as training renders them: each role a token, each answer with its end, here a token a byte."""
    rows = [*ROWS, {"prompt": "x" * 70, "completion": "y"}, {"prompt": "z", "completion": "y" * 70}]
    code, out = run(put(tmp_path / "rows.jsonl", rows), "--model", base, "--json")
    report = json.loads(out)
    assert code == 0 and report["lengths"]["unit"] == "tokens" and report["lengths"]["limit"] == 64
    assert report["lengths"]["longest"][0]["length"] == 71 + 3 == report["lengths"]["longest"][1]["length"]
    assert report["lengths"]["total"] == _characters() + 2 * 71 + 3 * 27
    warnings = [problem["what"] for problem in report["warnings"]]
    assert any("2 rows longer than the 64 tokens" in what for what in warnings)
    assert sum("not even the first answer ends within 64 tokens" in what for what in warnings) == 2
    assert report["next"].startswith(f"gptloom sft {base} --data")


def test_with_a_model_that_reads_nothing_of_it(run: Run, base: str, tmp_path: Path) -> None:
    system = {"messages": [{"role": "system", "content": "s" * 90}, *_turn()]}
    code, out = run(put(tmp_path / "long.jsonl", [system]), "--model", base)
    assert code == 2 and "a system message has 90 tokens, and an example at most 64" in out
    asked = {"messages": [{"role": "user", "content": "s" * 90}, _turn()[1]]}
    code, out = run(put(tmp_path / "asks.jsonl", [asked]), "--model", base, "--max-length", "64")
    assert code == 2 and "not one answer ends within the 64 tokens that are read" in out


def test_with_a_body_of_another_library(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tokens are counted; how many it reads only transformers knows."""
    train_tokenizer("bytes", [], None).save(tmp_path / "body")
    (tmp_path / "body" / "config.json").write_text('{"model_type": "roberta"}', encoding="utf-8")
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\n" + "".join(f"film {n}\t{n % 2}\n" for n in range(8)), encoding="utf-8")
    code, out = run(str(path), "--stage", "finetune", "--model", str(tmp_path / "body"), "--json")
    lengths = json.loads(out)["lengths"]
    assert code == 0 and (lengths["unit"], lengths["limit"], lengths["total"]) == ("tokens", None, 8 * 6)
    assert main(["data", "check", str(path), "--stage", "finetune", "--model", "gpt2"]) == 2
    assert "gpt2 is a preset, which reads nothing yet" in capsys.readouterr().err


def _turn() -> list[dict[str, str]]:
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_options_that_do_nothing(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "rows.jsonl", ROWS)
    for options, what in (
        (["--template", "plain"], "--template does nothing: no --model"),
        (["--task", "regress"], "--task does nothing: --stage sft"),
        (["--stage", "pretrain", "--format", "text"], "--format does nothing: --stage pretrain"),
    ):
        assert main(["data", "check", path, *options]) == 2
        assert what in capsys.readouterr().err


def test_instruction_data_for_other_commands_name_sft(base: str, tmp_path: Path) -> None:
    chats = put(tmp_path / "chats.jsonl", [{"messages": _turn()}] * 3)  # type: ignore[list-item]
    listed = tmp_path / "alpaca.json"
    listed.write_text(json.dumps([{"instruction": "Hi", "output": "Hello"}] * 3), encoding="utf-8")
    questions = put(
        tmp_path / "q.jsonl",
        [{"question": f"{row['prompt']} {i}", "answer": f"{i} " * 9} for i, row in enumerate(ROWS)],
    )
    for path in (chats, str(listed), questions):
        with pytest.raises(UserError, match="gptloom sft BASE --data"):
            gptloom.pretrain(data=path, out=str(tmp_path / "run"), dry_run=True)
        with pytest.raises(UserError, match="gptloom sft BASE --data"):
            gptloom.pretrain(data=str(Path(path).parent), out=str(tmp_path / "run"), dry_run=True)
        with pytest.raises(UserError, match="gptloom sft BASE --data"):
            gptloom.finetune(base, task="classify", data=path, out=str(tmp_path / "run"), dry_run=True)
        assert "gptloom sft BASE --data" in str(gptloom.data_check(data=path, stage="finetune").problems)
    column = gptloom.data_check(
        data=put(tmp_path / "t.jsonl", [{"text": "once upon a time", **ROWS[0]}]), stage="pretrain"
    )
    assert column.is_fine
