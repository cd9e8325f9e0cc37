"""``gptloom generate``: prompts from everywhere, answers to everywhere, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError

MODEL = ("modern-nano", "--untrained", "--max-tokens", "5", "--seed", "7", "--precision", "fp32")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["generate", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_prints_prompt_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *MODEL, "--prompt", "Hello")
    assert code == 0 and out.startswith("Hello") and len(out) > len("Hello\n")
    assert "5 tokens" in err and "--seed 7 repeats it" in err
    assert run(capsys, *MODEL, "--prompt", "Hello")[1] == out


def test_streaming_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    whole = run(capsys, *MODEL, "--prompt", "Hello")[1]
    assert run(capsys, *MODEL, "--prompt", "Hello", "--stream")[1] == whole


def test_json_and_python_agree(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *MODEL, "--prompt", "Hello", "The", "--n", "2", "--json", "--logprobs", "2")
    document = json.loads(out)
    answers = gptloom.generate(
        "modern-nano", untrained=True, max_tokens=5, seed=7, precision="fp32", prompt=["Hello", "The"], n=2, logprobs=2
    )
    assert code == 0 and document == [answer.as_dict() for answer in answers]
    completion = document[1]["completions"][0]
    assert document[1]["prompt"] == "The" and len(document[1]["completions"]) == 2
    assert set(completion) == {"text", "finish_reason", "tokens", "logprob", "logprobs"}
    assert completion["tokens"] == 5 and [len(place) for place in completion["logprobs"]] == [2] * 5


def test_a_prompts_file_becomes_an_answers_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts, answers = tmp_path / "p.jsonl", tmp_path / "answers.jsonl"
    prompts.write_text('{"id": 3, "prompt": "Once"}\n\n{"prompt": "", "tag": "ü"}\n', encoding="utf-8")
    command = (*MODEL, "--prompts", str(prompts), "--n", "2", "--out", str(answers))
    assert run(capsys, *command)[0] == 0
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert [(line["prompt"], line.get("id"), line.get("tag")) for line in lines] == [("Once", 3, None), ("", None, "ü")]
    for line in lines:
        assert line["model"] == "modern-nano"
        assert [set(done) for done in line["completions"]] == [{"text", "finish_reason", "tokens", "logprob"}] * 2
    assert list(tmp_path.glob("*.part")) == []
    code, _, err = run(capsys, *command)
    assert code == 2 and "it exists already" in err and "--overwrite" in err
    assert run(capsys, *command, "--overwrite")[0] == 0


def test_what_was_written_stays_when_writing_breaks_off(tmp_path: Path) -> None:
    from gptloom.generation.prompts import answers_file

    with pytest.raises(KeyboardInterrupt), answers_file(tmp_path / "a.jsonl", overwrite=False) as file:
        print("one line", file=file, flush=True)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl.part"]
    assert (tmp_path / "a.jsonl.part").read_text(encoding="utf-8") == "one line\n"


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def prompts_of(text: str, *arguments: str) -> list[Any]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        code, out, _ = run(capsys, *MODEL, "--json", *arguments)
        assert code == 0
        return [line["prompt"] for line in json.loads(out)]

    assert prompts_of("two\nlines\n", "--prompt", "-") == ["two\nlines"]
    assert prompts_of("two\nlines\n", "--prompts", "-") == ["two", "lines"]
    assert prompts_of('{"prompt": "x"}\n{"prompt": "y"}', "--prompts", "-") == ["x", "y"]
    assert prompts_of("{not json}\n", "--prompts", "-") == ["{not json}"]


def test_show_choices(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("modern-nano", "--untrained", "--prompt", "The", "--show-choices", "4", "--precision", "fp32")
    code, out, _ = run(capsys, *command)
    assert code == 0 and len(out.splitlines()) == 5 and out.count("%") == 4
    choices = json.loads(run(capsys, *command, "--json")[1])[0]["choices"]
    assert len(choices) == 4 and set(choices[0]) == {"text", "id", "probability"}


@pytest.mark.parametrize("precision", ["auto", "bf16", "int8"])
def test_precisions(capsys: pytest.CaptureFixture[str], precision: str) -> None:
    assert run(capsys, *MODEL[:-1], precision, "--prompt", "Hello")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "-1", "--top-p", "0"), "--temperature '-1' must be at least 0"),
        (("--temperature", "-1", "--top-p", "0"), "--top-p '0' must be greater than 0"),
        (("--prompts", "nowhere.txt"), "both prompt and prompts are given"),
        (("--stream", "--n", "2"), "n, best_of and beams exclude it"),
        (("--overwrite",), "overwrite does nothing without out"),
        (("--logprobs", "3"), "logprobs are told in JSON only"),
        (("--out", "nowhere/a.jsonl"), "the folder nowhere does not exist"),
        (("--beams", "3", "--top-k", "4"), "top_k would be ignored"),
        (("--stop", ""), "a stop text is empty"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run(capsys, "modern-nano", "--untrained", "--prompt", "x", *arguments)
    assert code == 2 and message in err


def test_show_choices_takes_no_sampling(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *MODEL, "--prompt", "x", "--show-choices", "3")
    assert code == 2 and "max_tokens would be ignored" in err and "seed would be ignored" in err


def test_no_prompt_and_no_trained_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no prompt" in run(capsys, "modern-nano", "--untrained")[2]
    assert "has no trained weights" in run(capsys, "modern-nano", "--prompt", "x")[2]


def test_wrong_lines_are_all_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"messages": []}\n{"prompt": 3}\nnot json\n[1]\n', encoding="utf-8")
    code, _, err = run(capsys, *MODEL, "--prompts", str(path))
    assert code == 2 and "it has messages, a conversation" in err
    for number, what in (
        (1, "messages"),
        (2, "no text in the field prompt"),
        (3, "not JSON"),
        (4, "not a JSON object"),
    ):
        assert f"p.jsonl:{number}" in err and what in err


def test_bad_prompts_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "there is no such file" in run(capsys, *MODEL, "--prompts", str(tmp_path / "none.txt"))[2]
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    assert "there is no prompt in it" in run(capsys, *MODEL, "--prompts", str(tmp_path / "empty.txt"))[2]
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    assert run(capsys, *MODEL, "--prompts", str(tmp_path / "latin.txt"))[0] == 2


def test_a_stream_is_refused_in_python() -> None:
    with pytest.raises(UserError, match="stream prints in a terminal"):
        gptloom.generate("modern-nano", untrained=True, prompt="x", stream=True)
