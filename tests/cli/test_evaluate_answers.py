"""``gptloom evaluate`` of an instructed model: its answers are scored task by task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.chat import ChatFormat
from gptloom.config.errors import UserError
from gptloom.config.generate import SamplingOptions
from gptloom.data.conversation import Conversation, Message


class Stand:
    """A chat model that answers every sum with 4 and everything else with a word that it repeats."""

    renderer = SimpleNamespace(stop=[])
    language_model = SimpleNamespace(count=lambda text: len(text.split()))

    def prompt(self, messages: Sequence[Message], max_tokens: int, tools: Any = ()) -> None:
        assert max_tokens > 0

    def complete(self, conversations: Sequence[Conversation], options: SamplingOptions) -> Iterator[Any]:
        for conversation in conversations:
            text = "4" if "+" in conversation.prompt[-1].content else "yes yes"
            yield SimpleNamespace(text=text, finish_reason="stop" if text == "4" else "length")


@pytest.fixture
def instructed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that says it was taught to answer."""
    monkeypatch.setattr("gptloom.interop.chat.open_chat", lambda reference, **options: Stand())
    chat = ChatFormat(template="gptloom", jinja="{{ messages }}", end="<|endoftext|>")
    card = {"version": 1, "chat": chat.model_dump(mode="json")}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "gptloom.json").write_text(json.dumps(card), encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return str(folder)


@pytest.fixture
def held(tmp_path: Path) -> str:
    """Held-out rows of two tasks."""
    rows = [{"prompt": f"{i} + 2 =", "completion": str(i + 2), "task": "sums", "metric": "exact"} for i in range(4)]
    rows += [{"prompt": f"is {i} small?", "completion": "yes", "task": "size", "metric": "f1"} for i in range(6)]
    path = tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_an_instructed_model_is_asked(instructed: str, held: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", instructed, "--data", held]) == 0
    told = capsys.readouterr()
    table = [line.split() for line in told.out.splitlines()]
    assert ["sums", "4", "exact", "25.0", "%"] in [line[:5] for line in table]
    assert ["size", "6", "f1", "66.7", "%"] in [line[:5] for line in table]
    assert ["stopping", "0.0", "%"] in [line[:3] for line in table]
    assert "always yes" in told.out and "yes yes  (did not end by itself)" in told.err


def test_the_document_and_python_say_the_same(instructed: str, held: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", instructed, "--data", held, "--answers", "--rows", "3", "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    assert {name: task["n"] for name, task in tasks.items()} == {"sums": 3, "size": 3}
    report = gptloom.evaluate(instructed, data=held, rows=3)
    assert report.as_dict() == tasks | {name: {**task} for name, task in report.as_dict().items()}
    assert report.tasks["size"].scores.figures["f1"] == pytest.approx(2 / 3)


def test_options_of_the_other_kind_are_refused(instructed: str, held: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        gptloom.evaluate(instructed, data=held, stride=4, text_column="prompt")
    assert [problem.what.split()[0] for problem in error.value.problems] == ["--stride", "--text-column"]
    text = tmp_path / "plain.txt"
    text.write_text("only text", encoding="utf-8")
    with pytest.raises(UserError, match="--rows does nothing: how text is predicted is scored"):
        gptloom.evaluate(instructed, data=text, rows=3)
    with pytest.raises(UserError, match="--max-tokens does nothing"):
        gptloom.evaluate(instructed, data=held, answers=False, max_tokens=3)
