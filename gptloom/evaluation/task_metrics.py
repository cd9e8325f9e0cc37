"""How good a fine-tuned model's answers are: every figure beside its interval and beside what needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gptloom.config.task import TaskConfig
from gptloom.evaluation.entities import EntityOutcomes, entities, names_entities, word_outcomes
from gptloom.evaluation.outcomes import ChoiceOutcomes, ClassOutcomes, Figures, NumberOutcomes, Outcomes
from gptloom.evaluation.significance import Counts, Interval, bootstrap, wilson
from gptloom.evaluation.spans import SpanOutcomes

if TYPE_CHECKING:
    from gptloom.data.example import Example
    from gptloom.generation.classifier import Prediction

MISTAKES = 10
CLASS_METRICS = (
    "accuracy",
    *(f"{name}_{average}" for average in ("macro", "weighted") for name in ("precision", "recall", "f1")),
    "matthews",
)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: where the example stands, its texts, what is right, what was answered, and how surely."""

    where: str
    texts: tuple[str, ...]
    truth: str
    answer: str
    confidence: float | None


@dataclass(frozen=True)
class TaskReport:
    """Everything about the answers to labelled examples."""

    task: TaskConfig
    examples: Sequence[Example]
    predictions: Sequence[Prediction]
    outcomes: Outcomes
    metrics: Figures
    baseline: Figures
    """The same metrics of the best constant answer."""
    baseline_answer: str
    """That answer in words: ``always spam``."""

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.examples)

    @property
    def metric(self) -> str:
        """The one to look at first: by which the model's best step was chosen, where that is known."""
        return self.task.metric if self.task.metric in self.metrics else default_metric(self.task)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals: Wilson's where each answer is right or wrong, else of a bootstrap over the examples."""
        outcomes = self.outcomes

        def figures(counts: Counts) -> list[float]:
            resampled = outcomes.resampled(counts)
            return [resampled[name] for name in self.metrics]

        found = zip(self.metrics, bootstrap(figures, self.n), strict=True)
        intervals = {name: interval for name, interval in found if interval is not None}
        if outcomes.right is not None:
            intervals[next(iter(self.metrics))] = wilson(int(outcomes.right.sum()), self.n)
        return intervals

    @property
    def confusion(self) -> list[list[int]] | None:
        """[C][C]: how often the class of the row (of words: the tag) was answered with that of the column."""
        return self.outcomes.confusion() if isinstance(self.outcomes, ClassOutcomes | EntityOutcomes) else None

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Label, precision, recall, f1, support and predicted of each class or kind of entity; else empty."""
        return self.outcomes.per_class() if isinstance(self.outcomes, ClassOutcomes | EntityOutcomes) else []

    def mistakes(self, n: int = MISTAKES) -> list[Mistake]:
        """The n wrong answers that were given most surely; of scores the n that are farthest off."""
        wrong = [(place, surely) for place, surely in enumerate(self._wrongness()) if surely is not None]
        wrong.sort(key=lambda found: -found[1])
        return [self._mistake(place) for place, _ in wrong[:n]]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, none of them NaN."""
        return {
            "task": self.task.task,
            "n": self.n,
            "metric": self.metric,
            "metrics": self.metrics,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "baseline": self.baseline,
            "baseline_answer": self.baseline_answer,
            "labels": list(self.task.labels),
            "confusion": self.confusion,
            "per_class": self.per_class,
            "mistakes": [asdict(mistake) | {"texts": list(mistake.texts)} for mistake in self.mistakes()],
        }

    def _wrongness(self) -> list[float | None]:
        """For each example None where it is right, else how sure (or, of a score, how wrong) the answer was."""
        if isinstance(self.outcomes, NumberOutcomes):
            return np.abs(self.outcomes.truth - self.outcomes.answers).tolist()
        pairs = zip(self.examples, self.predictions, strict=True)
        if self.outcomes.right is not None:
            wrong = ~self.outcomes.right
        else:
            wrong = np.array(
                [_truth(self.task, example) != _answer(self.task, example, said) for example, said in pairs]
            )
        return [
            (said.confidence or 0.0) if is_wrong else None
            for is_wrong, said in zip(wrong, self.predictions, strict=True)
        ]

    def _mistake(self, place: int) -> Mistake:
        example, said = self.examples[place], self.predictions[place]
        truth, answer = _truth(self.task, example), _answer(self.task, example, said)
        if self.task.task == "tokens":
            right, given = (_shown_tags(self.task, example.texts, tags) for tags in (truth, answer))
            return Mistake(example.where, (" ".join(example.texts),), right, given, said.confidence)
        figures = ".3g" if self.task.is_score else ""
        return Mistake(example.where, example.texts, f"{truth:{figures}}", f"{answer:{figures}}", said.confidence)


def default_metric(task: TaskConfig) -> str:
    """By which the best step of a fine-tuning is chosen when nothing else is asked for."""
    if task.task == "tokens":
        return "entity_f1" if names_entities(task.labels) else "accuracy"
    if task.task == "span":
        return "f1"
    return "pearson" if task.is_score else "accuracy"


def metric_names(task: TaskConfig) -> tuple[str, ...]:
    """Every metric of such a task; ``roc_auc`` only where the examples hold two classes."""
    if task.task == "tokens":
        entity = tuple(f"entity_{name}" for name in ("precision", "recall", "f1"))
        return (*entity, "accuracy") if names_entities(task.labels) else CLASS_METRICS
    if task.task == "span":
        return ("exact_match", "f1")
    if task.task == "choice":
        return ("accuracy",)
    return ("pearson", "spearman", "mse") if task.is_score else (*CLASS_METRICS, "roc_auc")


def evaluate_task(task: TaskConfig, examples: Sequence[Example], predictions: Sequence[Prediction]) -> TaskReport:
    """Scores ``predictions`` of ``examples`` that all have their label.

    Raises:
        ValueError: no examples, not one prediction for each, or an example without a label.
    """
    if not examples or len(examples) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples")
    if any(example.label is None for example in examples):
        raise ValueError("an example without a label cannot be scored")
    outcomes = _outcomes(task, examples, predictions)
    baseline = outcomes.baseline()
    return TaskReport(task, examples, predictions, outcomes, outcomes.figures(), baseline.figures, baseline.answer)


def _outcomes(task: TaskConfig, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Outcomes:
    """Right and given answers in the form that the task's metrics ask for."""
    pairs = list(zip(examples, predictions, strict=True))
    truth = [_truth(task, example) for example in examples]
    answers = [_answer(task, example, said) for example, said in pairs]
    if task.task == "tokens":
        kind = EntityOutcomes if names_entities(task.labels) else word_outcomes
        return kind(truth, answers, task.labels)
    if task.task == "span":
        return SpanOutcomes(truth, answers, [example.texts[0] for example in examples])
    if task.is_score:
        return NumberOutcomes(np.array(truth, np.float64), np.array(answers, np.float64))
    if task.task == "choice":
        right, chosen = [example.label for example in examples], [said.answer for said in predictions]
        choices = [len(example.texts) - 1 for example in examples]
        return ChoiceOutcomes(np.array(right, np.int64), np.array(chosen, np.int64), np.array(choices, np.int64))
    places = {label: place for place, label in enumerate(task.labels)}
    probabilities = None
    if all(said.probabilities is not None for said in predictions):
        rows = [said.probabilities or {} for said in predictions]
        probabilities = np.array([[row[label] for label in task.labels] for row in rows], np.float64)
    given = np.array([places[answer] for answer in answers], np.int64)
    return ClassOutcomes(np.array([places[label] for label in truth], np.int64), given, task.labels, probabilities)


def _truth(task: TaskConfig, example: Example) -> Any:
    """The right answer as a person would say it: a label, a score, the text of a choice or an answer, a list of tags."""
    label = example.label
    if task.task == "tokens":
        return [task.labels[tag] for tag in label]
    if task.task == "span":
        return example.texts[0][label[0] : label[1]]
    if task.task == "choice":
        return example.texts[1 + label]
    return float(label) if task.is_score else task.labels[label]


def _answer(task: TaskConfig, example: Example, said: Prediction) -> Any:
    """A prediction in the form of ``_truth``."""
    if task.task == "tokens":
        return list(said.answer)
    if task.task == "choice":
        return example.texts[1 + said.answer]
    return float(said.answer) if task.is_score else said.answer


def _shown_tags(task: TaskConfig, words: Sequence[str], tags: Sequence[str]) -> str:
    """``person: Ann Lee; location: Rome``; tags that name no entities word by word."""
    if not names_entities(task.labels):
        return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True))
    named = [f"{found.kind}: {' '.join(words[found.first : found.end])}" for found in entities(tags)]
    return "; ".join(named) or "nothing"
