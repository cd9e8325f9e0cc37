"""Scores of tasks: against scikit-learn, scipy, seqeval and cases worked by hand; the fast twin against the slow one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from gptloom.config.task import Columns, TaskConfig, TaskTokens
from gptloom.evaluation.entities import Entity, EntityOutcomes, entities, names_entities
from gptloom.evaluation.outcomes import ChoiceOutcomes, ClassOutcomes, NumberOutcomes, Outcomes
from gptloom.evaluation.spans import SpanOutcomes, normalise, word_f1
from gptloom.evaluation.task_metrics import (
    TaskReport,
    default_metric,
    evaluate_task,
    metric_names,
)
from gptloom.observe.glossary import higher_is_better

TAGS = ("O", "B-per", "I-per", "B-loc", "I-loc")


class Example(NamedTuple):
    where: str
    texts: tuple[str, ...]
    label: Any
    row: int = 0


class Said(NamedTuple):
    answer: Any
    probabilities: dict[str, float] | None = None
    confidence: float | None = None


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def task(kind: str, labels: tuple[str, ...] = ()) -> TaskConfig:
    return TaskConfig(
        task=kind,  # type: ignore[arg-type]
        labels=labels,
        columns=Columns(text="text"),
        inputs="bert",
        tokens=TaskTokens(start=1, delimiter=(2,), extract=3),
        max_length=64,
    )


def evaluate(config: TaskConfig, examples: Sequence[Example], said: Sequence[Said]) -> TaskReport:
    return evaluate_task(config, examples, said)  # type: ignore[arg-type]


def classes(rng: np.random.Generator, n: int, labels: tuple[str, ...]) -> ClassOutcomes:
    """Random answers, with ties among the probabilities; the last class is never the answer."""
    probabilities = rng.integers(1, 5, (n, len(labels))).astype(float)
    probabilities[:, -1] = 0.5
    probabilities /= probabilities.sum(1, keepdims=True)
    return ClassOutcomes(rng.integers(0, len(labels), n), probabilities.argmax(1), labels, probabilities)


def random_tags(rng: np.random.Generator, n: int) -> list[list[str]]:
    return [
        [TAGS[tag] for tag in rng.choice(5, size=size, p=[0.5, 0.2, 0.1, 0.1, 0.1])] for size in rng.integers(1, 9, n)
    ]


def all_outcomes(rng: np.random.Generator, n: int) -> list[Outcomes]:
    truth = random_tags(rng, n)
    answers = [[*tags[1:], "O"] if place % 2 else tags for place, tags in enumerate(truth)]
    numbers = rng.integers(0, 6, n).astype(float)
    entity = EntityOutcomes(truth, answers, TAGS)
    return [
        classes(rng, n, ("a", "b")),
        classes(rng, n, ("a", "b", "c", "d")),
        ChoiceOutcomes(rng.integers(0, 3, n), rng.integers(0, 3, n), np.full(n, 3)),
        NumberOutcomes(numbers, (numbers + rng.integers(-2, 3, n)).round()),
        entity,
        entity.words,
        SpanOutcomes(["the cat sat", "a dog"] * (n // 2), ["cat", "the dog"] * (n // 2), ["the cat sat here"] * n),
    ]


def test_a_resample_has_the_figures_of_the_examples_it_drew() -> None:
    rng = np.random.default_rng(0)
    n = 60
    for outcomes in all_outcomes(rng, n):
        full, ones = outcomes.figures(), outcomes.resampled(np.ones(n))
        assert list(full) == list(ones)
        assert ones == pytest.approx(full), type(outcomes).__name__
    two, many, _, number, entity, _, _ = all_outcomes(rng, n)
    rows = rng.integers(n, size=n)
    counts = np.bincount(rows, minlength=n).astype(float)
    for classes_ in (two, many):
        assert isinstance(classes_, ClassOutcomes) and classes_.probabilities is not None
        drawn = ClassOutcomes(
            classes_.truth[rows], classes_.answers[rows], classes_.labels, classes_.probabilities[rows]
        )
        assert classes_.resampled(counts) == pytest.approx(drawn.figures())
    assert isinstance(number, NumberOutcomes) and isinstance(entity, EntityOutcomes)
    assert number.resampled(counts) == pytest.approx(NumberOutcomes(number.truth[rows], number.answers[rows]).figures())
    drawn_tags = EntityOutcomes([entity.truth[row] for row in rows], [entity.answers[row] for row in rows], TAGS)
    assert entity.resampled(counts) == pytest.approx(drawn_tags.figures())


def test_classes_are_scored_as_scikit_learn_does() -> None:
    many = classes(np.random.default_rng(1), 80, ("a", "b", "c", "d"))
    found = many.figures()
    assert many.probabilities is not None
    expected = sk.roc_auc_score(many.truth, many.probabilities, multi_class="ovr", average="macro")
    assert found["roc_auc"] == pytest.approx(expected)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(many.truth, many.answers, average="macro", zero_division=0))
    assert found["matthews"] == pytest.approx(sk.matthews_corrcoef(many.truth, many.answers))
    last = many.per_class()[-1]
    assert (last["label"], last["predicted"], last["precision"], last["f1"]) == ("d", 0, 0.0, 0.0)
    assert many.confusion() == sk.confusion_matrix(many.truth, many.answers).tolist()


def test_scores_of_a_test_set_worked_by_hand() -> None:
    said = [Said("ham", {"ham": 0.9, "spam": 0.1}, 0.9), Said("spam", {"ham": 0.4, "spam": 0.6}, 0.6)]
    said += [Said("ham", {"ham": 0.8, "spam": 0.2}, 0.8), Said("ham", {"ham": 0.7, "spam": 0.3}, 0.7)]
    examples = [Example(f"t.tsv:{row + 2}", (f"text {row}",), label) for row, label in enumerate([0, 1, 1, 0])]
    report = evaluate(task("classify", ("ham", "spam")), examples, said)
    assert report.metrics["accuracy"] == 0.75 and report.metrics["roc_auc"] == 0.75
    assert report.metrics["precision_macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert report.metrics["recall_macro"] == 0.75
    assert report.baseline_answer == "always ham"
    assert report.baseline["accuracy"] == 0.5 and report.baseline["matthews"] == 0 and report.baseline["roc_auc"] == 0.5
    assert report.confusion == [[2, 0], [1, 1]]
    [mistake] = report.mistakes()
    assert (mistake.where, mistake.truth, mistake.answer, mistake.confidence) == ("t.tsv:4", "spam", "ham", 0.8)
    low, high = report.intervals["accuracy"]
    assert (low, high) == pytest.approx((0.3006, 0.9544), abs=1e-4), "Wilson's interval of 3 of 4"
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["metric"] == "accuracy"


def test_mistakes_come_most_confident_first() -> None:
    said = [Said("a", None, confidence) for confidence in (0.6, 0.9, 0.7, 0.8)]
    examples = [Example(str(row), ("x",), int(row != 2)) for row in range(4)]
    report = evaluate(task("classify", ("a", "b")), examples, said)
    assert [mistake.where for mistake in report.mistakes(2)] == ["1", "3"]
    assert "roc_auc" not in report.metrics, "no probabilities, no ranking"


def test_one_class_only_has_no_roc_and_no_warning() -> None:
    said = [Said("a", {"a": 0.9, "b": 0.1}, 0.9)] * 3
    report = evaluate(task("classify", ("a", "b")), [Example("1", ("x",), 0)] * 3, said)
    assert report.metrics["accuracy"] == 1 and report.metrics["matthews"] == 0 and "roc_auc" not in report.metrics
    json.dumps(report.as_dict(), allow_nan=False)


def test_numbers_as_scipy_and_constant_ones_without_nan() -> None:
    truth, answers = [1.0, 2.0, 2.0, 4.0, 5.0], [1.5, 1.0, 2.0, 4.0, 6.0]
    examples = [Example(str(row), ("a", "b"), label) for row, label in enumerate(truth)]
    report = evaluate(task("similar"), examples, [Said(answer) for answer in answers])
    assert report.metrics["pearson"] == pytest.approx(stats.pearsonr(truth, answers).statistic)
    assert report.metrics["spearman"] == pytest.approx(stats.spearmanr(truth, answers).statistic)
    assert report.metrics["mse"] == pytest.approx(0.25 * 1 / 5 + 1 / 5 + 1 / 5)
    assert report.baseline == {"pearson": 0.0, "spearman": 0.0, "mse": pytest.approx(np.var(truth))}
    assert report.mistakes(1)[0].where in ("1", "4"), "farthest off"
    assert not higher_is_better("mse") and higher_is_better("pearson")
    flat = evaluate(task("regress"), examples, [Said(2.0)] * 5)
    assert flat.metrics["pearson"] == 0 and "pearson" not in flat.intervals
    one = evaluate(task("regress"), examples[:1], [Said(2.0)])
    json.dumps([flat.as_dict(), one.as_dict()], allow_nan=False)


def test_choices_beside_chance() -> None:
    examples = [Example(str(row), ("why?", "a", "b", "c", "d")[: 3 + 2 * (row % 2)], row % 2) for row in range(4)]
    report = evaluate(task("choice"), examples, [Said(0, None, 0.5), Said(1, None, 0.9), Said(0), Said(2, None, 0.8)])
    assert report.metrics == {"accuracy": 0.75} and report.baseline == {"accuracy": 0.375}
    [mistake] = report.mistakes()
    assert (mistake.truth, mistake.answer) == ("b", "c") and report.confusion is None and report.per_class == []


def test_entities_by_the_rules_of_conll() -> None:
    assert entities(["B-per", "I-per", "O", "B-loc"]) == [Entity("per", 0, 2), Entity("loc", 3, 4)]
    assert entities(["B-per", "B-per", "I-per"]) == [Entity("per", 0, 1), Entity("per", 1, 3)]
    assert entities(["I-per", "I-loc", "I-loc", "O", "I-loc"]) == [
        Entity("per", 0, 1),
        Entity("loc", 1, 3),
        Entity("loc", 4, 5),
    ]
    assert entities(["O", "O"]) == []
    assert names_entities(TAGS) and not names_entities(("NN", "VB")) and not names_entities(("O",))


def test_entity_f1_worked_by_hand() -> None:
    words = ("Ann", "Lee", "left", "Rome", "today")
    truth = (1, 2, 0, 3, 0)  # Ann Lee: per, Rome: loc
    said = [Said(("B-per", "O", "O", "B-loc", "B-loc"), None, 0.6), Said(("B-per", "I-per", "O", "O", "O"), None, 0.9)]
    examples = [Example("1", words, truth), Example("2", words, truth)]
    report = evaluate(task("tokens", TAGS), examples, said)
    assert report.metrics["entity_precision"] == 2 / 4, "given: Ann, Rome, today; Ann Lee. Right: Rome, Ann Lee"
    assert report.metrics["entity_recall"] == 2 / 4 and report.metrics["entity_f1"] == 0.5
    assert report.metrics["accuracy"] == 7 / 10
    assert report.baseline == {"entity_precision": 0, "entity_recall": 0, "entity_f1": 0, "accuracy": 4 / 10}
    assert [row["label"] for row in report.per_class] == ["loc", "per"]
    assert report.per_class[0]["support"] == 2 and report.per_class[0]["predicted"] == 2
    first = report.mistakes()[0]
    assert (first.where, first.truth, first.answer) == ("2", "per: Ann Lee; loc: Rome", "per: Ann Lee")
    assert report.confusion is not None and report.confusion[0] == [3, 0, 0, 1, 0]


def test_entities_as_seqeval() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = np.random.default_rng(3)
    truth = random_tags(rng, 100)
    answers = [[tag if rng.random() < 0.8 else str(rng.choice(TAGS)) for tag in tags] for tags in truth]
    found = EntityOutcomes(truth, answers, TAGS).figures()
    assert found["entity_precision"] == pytest.approx(seqeval.precision_score(truth, answers))
    assert found["entity_recall"] == pytest.approx(seqeval.recall_score(truth, answers))
    assert found["entity_f1"] == pytest.approx(seqeval.f1_score(truth, answers))


def test_tags_that_name_nothing_are_scored_word_by_word() -> None:
    examples = [Example("1", ("dogs", "run", "far"), (0, 1, 1))]
    report = evaluate(task("tokens", ("NN", "VB")), examples, [Said(["NN", "NN", "VB"])])
    assert report.metrics["accuracy"] == pytest.approx(2 / 3)
    assert report.metrics["precision_macro"] == 0.75 and report.confusion == [[1, 0], [1, 1]]
    assert report.baseline_answer == "always VB" and report.mistakes()[0].answer == "dogs/NN run/NN far/VB"
    assert report.intervals["accuracy"] == (2 / 3, 2 / 3), "texts are drawn, and there is one"


def test_answers_of_spans_by_squads_rules() -> None:
    assert normalise("The  Cat's, (a) hat!") == "cats hat"
    assert normalise("theatre and anthem") == "theatre and anthem", "articles are words"
    assert word_f1("the cat sat down", "a cat down there") == pytest.approx(2 * 2 / 6)
    assert word_f1("the", "a") == 1 and word_f1("cat", "the") == 0
    context = "In May the old cat sat."
    examples = [Example("1", (context, "who?"), (7, 18)), Example("2", (context, "when?"), (3, 6))]
    report = evaluate(task("span"), examples, [Said("Old cat.", None, 0.9), Said("May the", None, 0.8)])
    assert report.metrics == {"exact_match": 1.0, "f1": 1.0}
    wrong = evaluate(task("span"), examples, [Said("cat", None, 0.9), Said("May", None, 0.8)])
    assert wrong.metrics["exact_match"] == 0.5 and wrong.metrics["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert wrong.mistakes()[0].truth == "the old cat" and 0 < wrong.baseline["f1"] < 0.5


def test_every_metric_has_its_name() -> None:
    assert default_metric(task("tokens", TAGS)) == "entity_f1" and default_metric(task("tokens", ("NN",))) == "accuracy"
    assert default_metric(task("similar", ("0", "1"))) == "accuracy" and default_metric(task("similar")) == "pearson"
    configs = {"classify": ("a", "b"), "regress": (), "choice": (), "span": (), "tokens": TAGS}
    for kind, labels in configs.items():
        config = task(kind, labels)
        assert default_metric(config) in metric_names(config)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="without a label"):
        evaluate(task("classify", ("a", "b")), [Example("1", ("x",), None)], [Said("a")])
    with pytest.raises(ValueError, match="0 predictions for 1"):
        evaluate(task("classify", ("a", "b")), [Example("1", ("x",), 0)], [])
