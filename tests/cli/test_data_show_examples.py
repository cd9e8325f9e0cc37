"""``gptloom data show FILE --stage finetune``: examples as a model reads them, in colours and without."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.data.batch import Batch
from gptloom.data.task_batches import TaskBatches
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer import train_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    train_tokenizer("bytes", [], None).save(tmp_path / "tok")
    return str(tmp_path / "tok")


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    rows = [("premise", "hypothesis", "label"), ("ab", "c", "yes"), ("it is", "so", "no"), ("d", "e", "yes")]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def jsonl(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_without_a_terminal_brackets_say_what_each_token_is(
    pairs: str, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["data", "show", pairs, "--stage", "finetune", "--task", "entail", "--tokenizer", tokenizer, "--n", "2"])
        == 0
    )
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"--- {pairs}:2: label yes (6 tokens)",
        "start[_start_] first text[a b] delimiter[_delimiter_] second text[c] extract[_classify_]",
        f"--- {pairs}:3: label no (10 tokens)",
        "start[_start_] first text[i t · i s] delimiter[_delimiter_] second text[s o] extract[_classify_]",
    ]
    assert "--text premise --second hypothesis --label label" in captured.err


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_a_legend_unless_it_wants_none(
    pairs: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["data", "show", pairs, "--stage", "finetune", "--task", "entail", "--tokenizer", tokenizer]
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def printed() -> str:
        screen = Screen()
        monkeypatch.setattr(sys, "stdout", screen)
        assert main(arguments) == 0
        return screen.getvalue()

    *_, legend = printed().splitlines()
    parts = ("start", "first text", "delimiter", "second text", "extract")
    colours = [legend[: legend.index(part)].rpartition("\x1b")[2] for part in parts]
    assert len(set(colours)) == 5
    assert f"\x1b{colours[1]}a b\x1b[0m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed() and "first text[a b]" in printed()


def test_words_stand_for_tokens_where_no_model_is_named(pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", pairs, "--stage", "finetune", "--text", "premise"]) == 0
    captured = capsys.readouterr()
    assert "first text[it ·is]" in captured.out
    assert "words are shown as they stand" in captured.err


def test_both_orders_each_choice_tags_and_answers(tmp_path: Path, pairs: str, tokenizer: str) -> None:
    def shown(path: str, task: str, **options: object) -> tuple[list[list[str]], str]:
        examples = gptloom.data_show(path, stage="finetune", task=task, tokenizer=tokenizer, n=1, **options)
        (one,) = examples
        return [[f"{token.part}:{token.text}" for token in row][1:-1] for row in one.rows], one.label

    frame = "delimiter:_delimiter_"
    assert shown(pairs, "similar") == (
        [
            ["first text:a", "first text:b", frame, "second text:c"],
            ["first text:c", frame, "second text:a", "second text:b"],
        ],
        "yes",
    )
    row = {"question": "q", "choice1": "a", "choice2": "b", "label": 1}
    path = jsonl(tmp_path / "choice.jsonl", row, {**row, "question": "w", "label": 0})
    rows, label = shown(path, "choice", text="question")
    assert rows == [["first text:q", frame, "second text:a"], ["first text:q", frame, "second text:b"]]
    assert label == "choice 2 of 2"
    path = jsonl(tmp_path / "tags.jsonl", {"tokens": ["I", "in", "Ur"], "tags": ["O", "O", "B-place"]})
    rows, label = shown(path, "tokens", text="tokens", label="tags")
    assert rows == [["O:I", "O:·", "O:i", "O:n", "O:·", "B-place:U", "B-place:r"]] and label == "O O B-place"
    path = jsonl(tmp_path / "span.jsonl", {"context": "x 42", "question": "y", "answer": "42"})
    rows, label = shown(path, "span", text="context", second="question", label="answer")
    assert rows == [["first text:y", frame, "second text:x", "second text:·", "answer:4", "answer:2"]] and label == "42"


def test_json_has_ids_roles_and_what_was_cut(pairs: str, tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "show", pairs, "--stage", "finetune", "--task", "entail", "--tokenizer", tokenizer]
    arguments += ["--max-length", "6", "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stage"] == "finetune"
    second = document["examples"][1]
    assert second["label"] == "no" and second["cut"] == 4
    assert second["rows"][0][1] == {"id": ord("i"), "text": "i", "role": "first text", "mark": None}


def test_a_fine_tuned_model_reads_as_it_was_taught_to(tmp_path: Path, tokenizer: str, pairs: str) -> None:
    words = train_tokenizer("bytes", [], None)
    head = HeadConfig(kind="sequence", n_labels=2)
    config = ModelConfig(
        **{**preset("gpt2"), "vocab_size": words.vocab_size, "context": 16, "n_layer": 1, "d_model": 16, "n_head": 2},
        task_head=head,
    )
    task = TaskConfig(
        task="entail",
        labels=("no", "yes"),
        columns=Columns(text="hypothesis", second="premise", label="label"),
        inputs="gpt1",
        tokens=TaskTokens(start=words.eot_id, delimiter=(ord("$"),), extract=words.eot_id),
        max_length=6,
        cut="start",
    )
    model = str(tmp_path / "model")
    save_model(Path(model), Transformer(config), config, tokenizer=words, task=task)
    _, second, _ = gptloom.data_show(pairs, stage="finetune", model=model)
    end = "<|endoftext|>"
    assert [token.text for token in second.rows[0]] == [end, "s", "o", "$", "s", end]
    assert second.label == "no" and second.cut == 4
    with pytest.raises(UserError) as error:
        gptloom.data_show(pairs, stage="finetune", model=model, task="similar", max_length=9)
    assert [problem.what.split()[0] for problem in error.value.problems] == ["--task", "--max-length"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--stage", "finetune", "--step", "3", "--rows", "2"],
            ["--step does nothing: it is for a run", "--rows does nothing"],
        ),
        (["--step", "3", "--task", "classify"], ["--task does nothing: it is for a file and its --stage"]),
        (["--step", "3", "--cut", "end", "--n", "3"], ["--cut does nothing", "--n does nothing"]),
        ([], ["--step is missing", "--stage finetune"]),
        (["--stage", "finetune", "--model", "gpt2"], ["gpt2 is a preset", "--tokenizer gpt2"]),
        (["--stage", "finetune", "--model", "x", "--tokenizer", "gpt2"], ["a model has its own tokenizer"]),
        (["--stage", "finetune", "--task", "tokens", "--cut", "start"], ["--cut start: of words"]),
        (["--stage", "finetune", "--text", "premisse"], ["no column 'premisse'"]),
        (
            ["--stage", "finetune", "--choices", "label", "--start", "label"],
            ["--choices: classify", "--start: classify"],
        ),
    ],
)
def test_what_does_nothing_is_refused(
    pairs: str, arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", pairs, *arguments]) == 2
    problems = capsys.readouterr().err
    assert all(words in problems for words in said)


@pytest.mark.slow
def test_a_step_of_a_fine_tuning_is_shown_as_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train_tokenizer("bytes", [], None)
    fields = {"vocab_size": words.vocab_size, "context": 32, "n_layer": 1, "d_model": 16, "n_head": 2}
    config = ModelConfig(**{**preset("gpt2"), **fields})
    save_model(tmp_path / "base", Transformer.initialised(config, 0), config, tokenizer=words)
    names = ["bad", "good"]
    for side in ("train", "valid"):
        lines = [f"a {names[n % 2]} film, {side} {n * 7}\t{names[n % 2]}\n" for n in range(24)]
        (tmp_path / f"{side}.tsv").write_text("text\tlabel\n" + "".join(lines), encoding="utf-8")
    trained_on: list[Batch] = []
    batch = TaskBatches.batch

    def recorded(self: TaskBatches, step: int, excluded: Sequence[int] = ()) -> Batch:
        made = batch(self, step, excluded)
        if step == 3:
            trained_on.append(made)
        return made

    monkeypatch.setattr(TaskBatches, "batch", recorded)
    data = {side: str(tmp_path / f"{side}.tsv") for side in ("train", "valid")}
    options = {"batch_size": 4, "max_steps": 4, "device": "cpu", "log": "none", "quiet": True}
    run = str(tmp_path / "run")
    gptloom.finetune(
        str(tmp_path / "base"), task="classify", data=data["train"], valid=data["valid"], out=run, **options
    )
    shown = gptloom.data_show(run, step=4, rows=3)
    seen = trained_on[-1]
    assert seen.labels is not None
    assert [one.label for one in shown] == [names[label] for label in seen.labels[:3]]
    real = [[token.id for token in one.rows[0]] for one in shown]
    assert real == [ids[: len(own)].tolist() for ids, own in zip(seen.ids, real, strict=False)]
    assert main(["data", "show", run, "--step", "4", "--rows", "1"]) == 0
    assert f"label {shown[0].label}" in capsys.readouterr().out
    with Path(data["train"]).open("a", encoding="utf-8") as file:
        file.write("another film\tgood\n")
    with pytest.raises(UserError, match="the rows have changed"):
        gptloom.data_show(run, step=4)
