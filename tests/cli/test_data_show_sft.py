"""``gptloom data show FILE --stage sft``: conversations token by token, by what is learned of them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.data.templates import built_in
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer import train_tokenizer


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def messages(*contents: str) -> dict[str, object]:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


@pytest.fixture
def file(tmp_path: Path) -> str:
    return jsonl(
        tmp_path / "f.jsonl", messages("Hi there", "Yo!", "And?", "So."), messages("a", "b"), messages("c", "d")
    )


def test_without_a_model_words_are_shown_with_the_template(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", file, "--stage", "sft", "--n", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"--- {file}:1 (14 tokens, 6 of them learned)",
        "prompt[<|user|> Hi ·there <|assistant|>] answer[Yo !] end[<|endoftext|>] "
        "prompt[<|user|> And ? <|assistant|>] answer[So .] end[<|endoftext|>]",
        f"--- {file}:2 (5 tokens, 2 of them learned)",
        "prompt[<|user|> a <|assistant|>] answer[b] end[<|endoftext|>]",
    ]
    assert captured.err.count("template gptloom") == 1 and "--tokenizer shows them" in captured.err


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_a_legend(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["data", "show", file, "--stage", "sft", "--n", "1"]) == 0
    _, row, legend = screen.getvalue().splitlines()
    assert "\x1b[1;33mYo !\x1b[0m" in row
    assert [f"m{part}\x1b" in legend for part in ("prompt", "answer", "end")] == [True] * 3


def test_a_model_reads_as_it_was_taught(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    format, tokenizer = built_in("chatml", train_tokenizer("bytes", [], None))
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 64, "n_layer": 1, "d_model": 16, "n_head": 2}
    config = ModelConfig(**(preset("modern-nano") | sizes))
    save_model(tmp_path / "m", Transformer(config), config, tokenizer=tokenizer, chat=format)
    arguments = ["data", "show", file, "--stage", "sft", "--model", str(tmp_path / "m"), "--json", "--max-length", "40"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "template chatml: as BASE was taught" in captured.err
    first, second, _ = json.loads(captured.out)["examples"]
    assert [token["text"] for token in first["rows"][0] if token["role"] == "answer"] == list("Yo!"), (
        "two turns do not fit"
    )
    assert first["cut"] > 0 and second["cut"] == 0
    assert first["rows"][0][-1]["text"] == "<|im_end|>" and first["rows"][0][-1]["role"] == "end"


def test_a_prepared_file_is_shown_plain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"{word} ->", "completion": f" {word.upper()}\n"} for word in ("one", "two", "six")]
    assert main(["data", "show", jsonl(tmp_path / "p.jsonl", *rows), "--stage", "sft", "--n", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1] == "prompt[one ·- >] answer[·ONE \\n] end[<|endoftext|>]"
    assert "template plain" in captured.err


def test_python_does_the_same(file: str) -> None:
    shown = gptloom.data_show(file, stage="sft", n=1, template="alpaca")
    assert shown[0].where == f"{file}:1" and shown[0].label is None
    assert shown[0].rows[0][0].text == "Below"


def test_what_is_wrong_is_told_before_anything_is_shown(tmp_path: Path, file: str) -> None:
    with pytest.raises(UserError, match="did you mean chatml"):
        gptloom.data_show(file, stage="sft", template="chatlm")
    with pytest.raises(UserError) as idle:
        gptloom.data_show(file, stage="sft", text="a", task="classify", step=3)
    told = [str(problem) for problem in idle.value.problems]
    assert [line.split("\n")[0] for line in told] == [
        "--step does nothing: it is for a run",
        "--task does nothing: it is for --stage finetune",
        "--text does nothing: it is for --stage finetune",
    ]
    with pytest.raises(UserError, match="--template does nothing: it is for --stage sft"):
        gptloom.data_show(file, stage="finetune", template="chatml")
    with pytest.raises(UserError, match="first answer ends with token"):
        gptloom.data_show(file, stage="sft", max_length=5)
    dropping = tmp_path / "dropping.jinja"
    dropping.write_text(
        "{% for m in messages if m.content != 'And?' %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(UserError, match=r"f\.jsonl:1: template dropping\.jinja leaves out message 3 \(user\)"):
        gptloom.data_show(file, stage="sft", template=str(dropping))
