"""The report of a fine-tuning, and its pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.observe import task_pictures
from gptloom.observe.curves import Curves
from gptloom.observe.events import EventLog
from gptloom.observe.glossary import higher_is_better, metric, written
from gptloom.observe.report import write_report
from gptloom.observe.task_section import commonest_confusions, task_section

LABELS = ["ham", "spam & <more>"]


def scores(labels: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    return {
        "task": "classify",
        "n": 100,
        "metric": "accuracy",
        "metrics": {"accuracy": 0.9, "matthews": 0.7},
        "intervals": {"accuracy": [0.85, 0.94]},
        "baseline": {"accuracy": 0.61, "matthews": 0.0},
        "baseline_answer": "always ham",
        "labels": labels,
        "confusion": confusion,
        "per_class": [
            {"label": label, "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 7, "predicted": 9}
            for label in labels
        ],
        "mistakes": [
            {
                "where": "t.tsv:3",
                "texts": ["<b>win</b>", "x" * 900],
                "truth": "ham",
                "answer": "spam",
                "confidence": 0.97,
            }
        ],
    }


def run_folder(folder: Path) -> Path:
    with EventLog(folder / "events.jsonl") as log:
        for step, accuracy in ((10, 0.7), (20, 0.9), (30, 0.8)):
            log.append("train", step=step, loss=1 / step, tokens=100 * step)
            figures = {"accuracy": accuracy, "matthews": None if step == 10 else 0.5}
            log.append("evaluate", step=step, valid_loss=0.5 - step / 100, metric="accuracy", metrics=figures)
    found = {"valid": scores(LABELS, [[1, 0], [0, 1]]), "test": scores(LABELS, [[50, 10], [0, 40]])}
    (folder / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def test_the_report_tells_the_task(tmp_path: Path) -> None:
    text = write_report(run_folder(tmp_path), lambda _: False).read_text(encoding="utf-8")
    for said in (
        "<h2>Task</h2>",
        "test: 100 examples",
        "</abbr>, step 20",
        "85.0 % to 94.0 %",
        "baseline: always ham",
        "61.0 %",
    ):
        assert said in text
    assert "spam &amp; &lt;more&gt;" in text and "<b>win" not in text and "&lt;b&gt;win" in text
    assert '<td class="right hit" style="--share: 0.833">50</td>' in text and "97.0 %" in text and "t.tsv:3" in text
    assert "x" * 500 not in text
    assert text.index(">90.0 %</td><td class") < text.index(">best<"), "step 20, though the loss is lower at 30"
    row = text[text.rindex("<tr>", 0, text.index(">best<")) : text.index(">best<")]
    assert ">20<" in row


def test_the_metric_is_a_curve() -> None:
    events = [
        {"type": "evaluate", "step": 1, "metric": "f1", "metrics": {"f1": 0.5, "exact_match": 0.1}},
        {"type": "evaluate", "step": 2, "metric": "f1", "metrics": {"f1": None}},
    ]
    curves = Curves.of(events)
    assert curves.metric_name == "f1" and [value for _, value in curves.metric] == [0.5]
    assert Curves.of([]).metric == []


def test_the_loss_of_a_fine_tuning_is_the_tasks_on_both_sides() -> None:
    train = {"type": "train", "step": 1, "tokens": 10, "loss": 3.0, "losses": {"task": 0.5, "next_word": 5.0}}
    assert Curves.of([train]).train_loss == [(10.0, 0.5)]
    assert Curves.of([{**train, "losses": {"lm": 3.0}}, {**train, "losses": None}]).train_loss == [(10.0, 3.0)] * 2


def test_many_classes_become_a_list_of_confusions() -> None:
    labels = [f"class {place}" for place in range(30)]
    matrix = [[5 if row == column else int(row == 3 and column == 7) for column in range(30)] for row in range(30)]
    text = task_section({"test": scores(labels, matrix)})
    assert "confusion" not in text and "<td>class 3</td><td>class 7</td>" in text
    assert commonest_confusions(["a", "b"], [[1, 2], [4, 0]], 1) == [("b", "a", 4)]


def test_a_run_without_scores_has_no_section() -> None:
    assert task_section({}) == "" and task_section({"note": "x"}) == ""  # type: ignore[dict-item]


def test_metrics_are_written_by_their_kind() -> None:
    assert written("f1_macro", 0.8731) == "87.3 %" and written("entity_f1", 1) == "100.0 %"
    assert written("pearson", 0.8731) == "0.873" and written("mse", 0.5) == "0.500"
    assert higher_is_better("f1") and not higher_is_better("mse")
    for name in ("metrics/f1_weighted", "entity_recall", "f1"):
        found = metric(name)
        assert found is not None and found.name in ("f1", "recall")
    assert metric("losses/lm") == metric("losses") and metric("nonsense") is None


def test_pictures_of_confusions_and_methods(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    task_pictures.draw_confusion(LABELS, [[50, 10], [0, 40]], tmp_path / "confusion.png", title="test")
    bars = [
        task_pictures.Bar("feature", 0.71, (0.68, 0.74)),
        task_pictures.Bar("full", 0.82, (0.79, 0.84)),
        task_pictures.Bar("lora", 0.8, None),
    ]
    task_pictures.draw_methods(bars, tmp_path / "methods.png", metric="accuracy", baseline=0.51, title="SST-2")
    for name in ("confusion", "methods"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5_000
    assert not list(tmp_path.glob("*.partial"))


def test_pictures_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="plots"):
        task_pictures.draw_confusion(LABELS, [[1, 0], [0, 1]], tmp_path / "x.png", title="test")
