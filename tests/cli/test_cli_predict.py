"""``gptloom predict`` and ``gptloom compare``: answers of small stand-ins for models, and of a real one at the end."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.data.example import Example
from gptloom.data.tables import read_table
from gptloom.generation.classifier import Prediction
from gptloom.interop import classifiers

ROWS = "sentence\tlabel\ngood film\tpos\nbad film\tneg\ngood but bad\tneg\ndull\tneg\ngreat\tpos\n"
Run = Callable[..., tuple[int, str, str]]


def config(kind: str = "classify", labels: tuple[str, ...] = ("neg", "pos"), **columns: Any) -> TaskConfig:
    return TaskConfig(
        task=kind,  # type: ignore[arg-type]
        labels=labels,
        columns=Columns(**{"text": "sentence", "label": "label", **columns}),
        inputs="gpt1",
        tokens=TaskTokens(start=1, delimiter=(2,), extract=3),
        max_length=64,
    )


class Stand:
    """Answers by a word in the text; as sure as the text is long."""

    def __init__(self, task: TaskConfig, answer: Callable[[Example], Prediction]) -> None:
        self.task, self.answer = task, answer

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        return [self.answer(example) for example in examples]

    def classify(self, texts: list[str], second: list[str] | None, choices: list[str]) -> list[Prediction]:
        rows = [(text, *(second or [])[place : place + 1], *choices) for place, text in enumerate(texts)]
        return self.predict([Example("", row, None, 0) for row in rows])


def by_word(word: str) -> Callable[[Example], Prediction]:
    def answer(example: Example) -> Prediction:
        sure = 0.5 + min(0.4, len(example.texts[0]) / 100)
        said = "pos" if word in example.texts[0] else "neg"
        other = "neg" if said == "pos" else "pos"
        return Prediction(said, {said: sure, other: 1 - sure}, sure)

    return answer


def length(example: Example) -> Prediction:
    return Prediction(float(len(example.texts[0])))


def first_choice(example: Example) -> Prediction:
    return Prediction(0, {"0": 0.7, "1": 0.3}, 0.7)


def tags(example: Example) -> Prediction:
    return Prediction(["B-per" if word[0].isupper() else "O" for word in example.texts], None, 0.9)


MODELS = {
    "good": Stand(config(), by_word("good")),
    "great": Stand(config(), by_word("g")),
    "never": Stand(config(labels=("pos", "neg")), by_word("nothing")),
    "stars": Stand(config(labels=("1", "2")), by_word("good")),
    "score": Stand(config("regress", ()), length),
    "other score": Stand(config("regress", ()), lambda example: Prediction(5.0 - len(example.texts[0]) % 2)),
    "counted": Stand(config(text="1", label="2"), by_word("good")),
    "choice": Stand(config("choice", (), text="q", choices=("a", "b")), first_choice),
    "short": Stand(config(), lambda one: Prediction("neg", {"neg": 1.0, "pos": 0.0}, 1.0, 7 * ("bad" in one.texts[0]))),
    "tagged lines": Stand(config("tokens", ("O", "B-per", "I-per"), text="1", label="2"), tags),
    "tags": Stand(config("tokens", ("O", "B-per", "I-per"), text="words", label="tags"), tags),
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setattr(classifiers, "open_classifier", lambda name, **_: MODELS[name])
    monkeypatch.setattr(classifiers, "task_of", lambda name: MODELS[name].task)
    monkeypatch.chdir(tmp_path)
    Path("t.tsv").write_text(ROWS, encoding="utf-8")

    def invoke(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return invoke


def test_a_header_is_no_text_of_a_model_that_counts_columns(run: Run) -> None:
    code, _, err = run("predict", "counted", "--data", "t.tsv")
    assert code == 2 and "looks like names (sentence, label)" in err and "--columns text=sentence label=label" in err
    assert "--columns text=sentence" in run("compare", "counted", "good", "--data", "t.tsv")[2]
    assert (
        "5 labelled rows"
        in run("predict", "counted", "--data", "t.tsv", "--columns", "text=sentence", "label=label")[1]
    )
    assert "--columns text=sentence" in run("predict", "counted", "--data", "t.tsv", "--header")[2]
    Path("bare.tsv").write_text(ROWS.partition("\n")[2], encoding="utf-8")
    assert "5 labelled rows" in run("predict", "counted", "--data", "bare.tsv")[1]


def test_a_conll_file_is_answered_by_sentences(run: Run) -> None:
    Path("n.conll").write_text("Ada B-per\nsaw O\n, O\n\nParis O\nit O\n", encoding="utf-8")
    code, out, _ = run("predict", "tagged lines", "--data", "n.conll")
    assert code == 0 and "Ada saw ," in out and "2 labelled rows" in out
    assert run("predict", "tagged lines", "--data", "n.conll", "--out", "n.csv")[0] == 0
    assert read_table("n.csv", header=True).rows[1]["prediction"] == "B-per O"


@pytest.mark.slow
def test_what_was_not_read_is_said(run: Run) -> None:
    said = "2 of 5 rows are longer than 64 tokens: they lose their"
    code, out, err = run("predict", "short", "--data", "t.tsv")
    assert code == 0 and said in out + err and "14 tokens in all (first: t.tsv:3)" in out + err
    document = json.loads(run("predict", "short", "--data", "t.tsv", "--json")[1])
    assert document["cut"] == {"rows": 2, "tokens": 14, "words": 0}
    assert f"short: {said}" in run("compare", "short", "good", "--data", "t.tsv")[2]
    models = json.loads(run("compare", "short", "good", "--data", "t.tsv", "--json")[1])["models"]
    assert models["short"]["cut"]["rows"] == 2 and models["good"]["cut"] is None
    assert json.loads(run("predict", "good", "--data", "t.tsv", "--json")[1])["cut"] is None


def test_a_file_without_header_needs_columns(run: Run) -> None:
    Path("bare.tsv").write_text(ROWS.partition("\n")[2], encoding="utf-8")
    code, _, err = run("predict", "good", "--data", "bare.tsv")
    assert code == 2 and "no header, and the model's columns are called sentence" in err
    assert "--columns text=1 label=2" in err and "--header" in err


def test_a_labelled_file_becomes_predictions_and_figures(run: Run) -> None:
    code, out, err = run("predict", "good", "--data", "t.tsv", "--out", "p.csv")
    assert code == 0 and "5 rows written to p.csv" in err
    rows = list(csv.DictReader(io.StringIO(Path("p.csv").read_text(encoding="utf-8"))))
    assert list(rows[0]) == ["sentence", "label", "prediction", "confidence", "p(pos)", "p(neg)"]
    assert rows[0]["prediction"] == "pos" and rows[1]["p(neg)"] == rows[1]["confidence"] == "0.58"
    assert "accuracy" in out and "60.0 %" in out and "baseline: always neg" in out
    assert "right ↓" in out and "t.tsv:4: pos (62.0 % sure), right is neg\n    good but bad" in out
    assert out.index("t.tsv:4") < out.index("t.tsv:6"), "the surer mistake first"
    code, _, err = run("predict", "good", "--data", "t.tsv", "--out", "p.csv")
    assert code == 2 and "it exists already" in err
    assert run("predict", "good", "--data", "t.tsv", "--out", "p.csv", "--overwrite", "--mistakes", "0")[0] == 0
    assert not list(Path().glob(".*.part"))


@pytest.mark.parametrize("name", ["p.tsv", "p.jsonl"])
def test_the_ending_says_the_format(run: Run, name: str) -> None:
    assert run("predict", "good", "--data", "t.tsv", "--out", name)[0] == 0
    table = read_table(name)
    assert table.names[:4] == ("sentence", "label", "prediction", "confidence") and len(table.rows) == 5
    assert [row["prediction"] for row in table.rows] == ["pos", "neg", "pos", "neg", "neg"]
    code, _, err = run("predict", "good", "--data", name)
    assert code == 2 and "it has a column 'prediction' already" in err


def test_files_without_labels_and_with_other_names(run: Run) -> None:
    Path("u.csv").write_text('review,id\n"good, long",7\nbad,8\n', encoding="utf-8")
    code, out, _ = run("predict", "good", "--data", "u.csv", "--columns", "text=review", "--rows", "1")
    assert code == 0 and "good, long" in out and "bad" not in out and "accuracy" not in out
    code, _, err = run("predict", "good", "--data", "u.csv")
    assert code == 2 and "no column 'sentence'" in err
    Path("half.tsv").write_text("sentence\tlabel\ngood\tpos\nbad\t\n", encoding="utf-8")
    code, out, err = run("predict", "good", "--data", "half.tsv")
    assert code == 0 and "1 of 2 rows have a label" in err and "100.0 %" in out


def test_labels_that_the_model_does_not_know_are_named(run: Run) -> None:
    code, _, err = run("predict", "stars", "--data", "t.tsv")
    assert code == 2 and "'pos'" in err and "'neg'" in err and "t.tsv:2" in err


def test_texts_and_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a good line\n\nanother\n"))
    code, out, _ = run("predict", "good", "--text", "bad one", "-", "--json")
    document = json.loads(out)
    assert code == 0 and [row["prediction"] for row in document["rows"]] == ["neg", "pos", "neg"]
    assert document["rows"][1]["text"] == "a good line" and document["report"] is None
    _, out, _ = run("predict", "good", "--text", "good")
    assert "p(pos)" in out and "0.540" in out


def test_json_has_the_rows_or_says_where_they_are(run: Run) -> None:
    document = json.loads(run("predict", "good", "--data", "t.tsv", "--json")[1])
    assert document["rows"][2]["sentence"] == "good but bad" and document["report"]["metrics"]["accuracy"] == 0.6
    assert len(document["report"]["mistakes"]) == 2
    document = json.loads(run("predict", "good", "--data", "t.tsv", "--json", "--out", "p.jsonl")[1])
    assert document["out"] == "p.jsonl" and "rows" not in document


def test_scores_choices_and_tags(run: Run) -> None:
    Path("s.csv").write_text("sentence,label\nab,2.5\nabcd,4\n", encoding="utf-8")
    code, out, _ = run("predict", "score", "--data", "s.csv")
    assert code == 0 and "pearson" in out and "always 3.25, the mean" in out and "farthest off (2):" in out
    Path("c.csv").write_text("q,a,b,label\nwhy?,so,no,0\nhow?,thus,not,1\n", encoding="utf-8")
    code, out, _ = run("predict", "choice", "--data", "c.csv", "--out", "c.jsonl")
    assert code == 0 and "a choice by chance" in out
    assert read_table("c.jsonl").rows[1] == {
        "q": "how?", "a": "thus", "b": "not", "label": "1", "prediction": "thus", "confidence": 0.7, "p(1)": 0.7, "p(2)": 0.3
    }  # fmt: skip
    code, out, _ = run("predict", "choice", "--text", "why?", "--choices", "yes", "no")
    assert code == 0 and "yes" in out
    rows = {"words": ["Ann", "ran"], "tags": ["B-per", "O"]}, {"words": ["ann", "Ran"], "tags": ["B-per", "O"]}
    Path("n.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, out, _ = run("predict", "tags", "--data", "n.jsonl", "--out", "n.csv")
    assert code == 0 and "entity_f1" in out and "n.jsonl:2: per: Ran (90.0 % sure), right is per: ann" in out
    assert read_table("n.csv").rows[0]["prediction"] == "B-per O"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to answer"),
        (("--data", "t.tsv", "--text", "x"), "both --data and --text"),
        (("--data", "t.tsv", "--second", "x"), "--second does nothing: it is for --text"),
        (("--text", "x", "--columns", "text=a", "--mistakes", "3"), "--mistakes does nothing: it is for --data"),
        (("--data", "t.tsv", "--overwrite"), "--overwrite does nothing: it is for --out"),
        (("--data", "t.tsv", "--out", "p.csv", "--rows", "3"), "--rows does nothing: --out has all rows"),
        (("--data", "t.tsv", "--out", "p.pdf"), "goes by the file's ending: .csv, .tsv, .jsonl"),
        (("--data", "t.tsv", "--out", "nowhere/p.csv"), "the folder nowhere does not exist"),
        (("--data", "t.tsv", "--out", "."), "it is a folder"),
        (("--text", "a", "b", "--choices", "c", "d"), "--choices are of a single --text"),
        (("--data", "none.tsv"), "no such file"),
    ],
)
def test_refusals(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run("predict", "good", *arguments)
    assert code == 2 and message in err


def test_a_tsv_cannot_hold_a_tab(run: Run) -> None:
    Path("tab.csv").write_text('sentence,label\n"a\tgood one",pos\nbad,neg\n', encoding="utf-8")
    code, _, err = run("predict", "good", "--data", "tab.csv", "--out", "p.tsv")
    assert code == 2 and "row 1 has a tab" in err and not Path("p.tsv").exists()


# ---- compare ---------------------------------------------------------------------------------------------------------


def test_a_comparison_says_whether_it_is_more_than_chance(run: Run) -> None:
    lines = [f"a good one {n}\tpos" for n in range(20)] + [f"a bad one {n}\tneg" for n in range(20)]
    Path("many.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    code, out, _ = run("compare", "never", "good", "great", "--data", "many.tsv", "--out", "c.md")
    assert code == 0
    assert "good is better than never: +50.0 points (95 %: +35.0 to +65.0)" in out
    assert "More than chance at 40 rows, McNemar's p = 1.9e-06." in out
    assert "great less good: +0.0 points (95 %: +0.0 to +0.0) of accuracy. No more than chance" in out
    assert "baseline: always" in out and "50.0 % (35.2 to 64.8)" in out
    page = Path("c.md").read_text(encoding="utf-8")
    assert (
        page.count("| --- | --- |")
        and "| +50.0 (+35.0 to +65.0) | 0 | 20 |" in page
        and "- good is better than never" in page
    )
    code, _, err = run("compare", "never", "good", "--data", "many.tsv", "--out", "c.md")
    assert code == 2 and "it exists already" in err and "--overwrite" not in err


def test_a_comparison_as_json_and_in_python(run: Run) -> None:
    code, out, _ = run("compare", "good", "great", "--data", "t.tsv", "--json", "--out", "c.json")
    document = json.loads(out)
    assert code == 0 and document == json.loads(Path("c.json").read_text(encoding="utf-8"))
    [pair] = document["pairs"]
    assert pair["mcnemar"] == {"only_first": 0, "only_second": 1, "p": 1.0} and pair["disagree"] == 1
    assert pair["more_than_chance"] is False and document["n"] == 5
    found = gptloom.compare(["good", "great"], data="t.tsv")
    assert found.pairs[0].differences["accuracy"] == pytest.approx(0.2)
    assert gptloom.predict("good", data="t.tsv").report.metrics["accuracy"] == 0.6


def test_scores_are_compared_by_a_paired_bootstrap(run: Run) -> None:
    rows = "".join(f"{'x' * n},{n}.5\n" for n in range(1, 31))
    Path("s.csv").write_text("sentence,label\n" + rows, encoding="utf-8")
    code, out, _ = run("compare", "other score", "score", "--data", "s.csv")
    assert code == 0 and "score is better than other score: +" in out and "of pearson" in out and "McNemar" not in out
    assert "More than chance at 30 rows." in out and "disagree" not in out


def test_models_that_cannot_be_compared(run: Run) -> None:
    code, _, err = run("compare", "good", "stars", "score", "--data", "t.tsv")
    assert code == 2 and "its labels are 1, 2; those of good are neg, pos" in err
    assert "it was fine-tuned to regress (scores), good to classify" in err
    assert "named twice" in run("compare", "good", "good", "--data", "t.tsv")[2]
    Path("u.tsv").write_text("sentence\tid\ngood\t1\nbad\t2\n", encoding="utf-8")
    code, _, err = run("compare", "good", "great", "--data", "u.tsv")
    assert code == 2 and "no row has a label in column 'label'" in err


# ---- a real model ----------------------------------------------------------------------------------------------------


def test_a_saved_classifier_predicts_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gptloom.model.store import save_model
    from gptloom.model.transformer import Transformer
    from gptloom.tokenizer.train import train_tokenizer

    data = tmp_path / "t.tsv"
    data.write_text(ROWS, encoding="utf-8")
    tokenizer = train_tokenizer("bytes", [], None)
    size = {"n_layer": 1, "n_head": 2, "n_kv_head": 2, "head_dim": 8, "d_model": 16, "d_ff": 32, "context": 64}
    head = HeadConfig(kind="sequence", n_labels=2)
    fields = {**preset("gpt2"), **size, "vocab_size": tokenizer.vocab_size, "task_head": head}
    made = ModelConfig.model_validate(fields)
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for seed, folder in enumerate(folders):
        model = Transformer.initialised(made, seed=seed)
        save_model(Path(folder), model, made, tokenizer=tokenizer, task=config())
    found = gptloom.predict(folders[0], data=str(data))
    assert len(found.predictions) == 5 and found.report is not None
    own = gptloom.load(folders[0]).classify(["good film", "bad film"])
    assert [said.answer for said in own] == [said.answer for said in found.predictions[:2]]
    assert own[0].confidence == pytest.approx(found.predictions[0].confidence, abs=1e-5)
    assert main(["compare", *folders, "--data", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 5
    with pytest.raises(UserError, match="not fine-tuned"):
        gptloom.predict("modern-nano", text="x")
