"""Right answers beside given ones, and every figure made of them: for classes, for choices and for numbers.

Legend: n examples, C classes. Figures of all examples are scikit-learn's and scipy's. Those of a resample, of which an
interval needs a thousand, are computed here from counts [n], how often each example was drawn; with every count 1 both
are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gptloom.evaluation.significance import Counts

Figures = dict[str, float]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def sklearn_metrics() -> Any:
    """``sklearn.metrics``. Its import takes a second, which whoever only asks for an answer should not wait."""
    from sklearn import metrics

    return metrics


def scipy_stats() -> Any:
    """``scipy.stats``, as late."""
    from scipy import stats

    return stats


class Baseline(NamedTuple):
    """What needs no model: how it answers, in words, and its figures."""

    answer: str
    figures: Figures


class Outcomes(Protocol):
    """The right and the given answers of n examples."""

    @property
    def n(self) -> int: ...

    @property
    def right(self) -> NDArray[np.bool_] | None:
        """bool [n]: which answers are right, where each is either right or wrong; its share is the first figure."""

    def figures(self) -> Figures:
        """Every metric by its name; no NaN."""

    def resampled(self, counts: Counts) -> Figures:
        """The same metrics with each example counted so often; NaN where a resample leaves one undefined."""

    def baseline(self) -> Baseline:
        """What the best constant answer reaches here."""


@dataclass(frozen=True)
class ClassOutcomes:
    """Classes of texts, or, with ``example``, of the words of texts."""

    truth: Ints  # [n]
    answers: Ints  # [n]
    labels: tuple[str, ...]  # C names
    probabilities: Floats | None = None  # [n, C]
    example: Ints | None = None  # [n]: to which example each belongs; without, each is one

    @property
    def n(self) -> int:
        return len(self.truth) if self.example is None else int(self.example[-1]) + 1

    @property
    def right(self) -> NDArray[np.bool_] | None:
        return self.truth == self.answers if self.example is None else None

    def figures(self) -> Figures:
        """Averages are over the classes that occur, as right or as given answer; what is never predicted gets 0."""
        sk = sklearn_metrics()
        found = {"accuracy": float(sk.accuracy_score(self.truth, self.answers))}
        for average in ("macro", "weighted"):
            scores = sk.precision_recall_fscore_support(self.truth, self.answers, average=average, zero_division=0)
            for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True):
                found[f"{name}_{average}"] = float(score)
        constant = len(np.union1d(self.truth, self.answers)) == 1  # then undefined, and given as 0
        found["matthews"] = 0.0 if constant else float(sk.matthews_corrcoef(self.truth, self.answers))
        if self._ranked:
            found["roc_auc"] = float(
                np.mean([sk.roc_auc_score(self.truth == c, self.probabilities[:, c]) for c in self._ranked])  # type: ignore[index]
            )
        return found

    def resampled(self, counts: Counts) -> Figures:
        cells = self._cells(counts)
        right, given, there = np.diag(cells), cells.sum(0), cells.sum(1)
        each = {
            "precision": _ratio(right, given),
            "recall": _ratio(right, there),
            "f1": _ratio(2 * right, given + there),
        }
        found = {"accuracy": float(right.sum() / cells.sum())}
        occurring = given + there > 0
        found |= {f"{name}_macro": float(scores[occurring].mean()) for name, scores in each.items()}
        found |= {f"{name}_weighted": float(scores @ there / there.sum()) for name, scores in each.items()}
        found["matthews"] = _matthews(cells)
        if self._ranked:
            found["roc_auc"] = self._roc_auc(counts)
        return found

    def baseline(self) -> Baseline:
        """Always the most frequent class of these examples."""
        most = int(np.bincount(self.truth).argmax())
        flat = None if self.probabilities is None else np.full_like(self.probabilities, 1 / len(self.labels))
        always = ClassOutcomes(self.truth, np.full_like(self.truth, most), self.labels, flat, self.example)
        return Baseline(f"always {self.labels[most]}", always.figures())

    def confusion(self) -> list[list[int]]:
        """[C][C]: how often the class of the row was answered with the class of the column."""
        return sklearn_metrics().confusion_matrix(self.truth, self.answers, labels=range(len(self.labels))).tolist()

    def per_class(self) -> list[dict[str, Any]]:
        """For each class its precision, recall and F1, and how often it was right (support) and answered."""
        places = range(len(self.labels))
        scores = sklearn_metrics().precision_recall_fscore_support(
            self.truth, self.answers, labels=places, zero_division=0
        )
        given = np.bincount(self.answers, minlength=len(self.labels))
        return [
            {
                "label": self.labels[c],
                "precision": float(scores[0][c]),
                "recall": float(scores[1][c]),
                "f1": float(scores[2][c]),
                "support": int(scores[3][c]),
                "predicted": int(given[c]),
            }
            for c in places
        ]

    def _cells(self, counts: Counts) -> Floats:
        """[C, C]: counts by right and given answer."""
        weights = counts if self.example is None else counts[self.example]
        n_labels = len(self.labels)
        cells = np.bincount(self.truth * n_labels + self.answers, weights, minlength=n_labels**2)
        return cells.reshape(n_labels, n_labels).astype(np.float64)

    @cached_property
    def _ranked(self) -> list[int]:
        """Classes for which an area under the ROC curve is defined: the second of two, else each that occurs."""
        if self.probabilities is None or self.example is not None or len(np.unique(self.truth)) < 2:
            return []
        return [1] if len(self.labels) == 2 else np.unique(self.truth).tolist()

    @cached_property
    def _orders(self) -> list[Ints]:
        """For each ranked class the place of each example's probability among the distinct ones."""
        assert self.probabilities is not None
        return [np.unique(self.probabilities[:, c], return_inverse=True)[1] for c in self._ranked]

    def _roc_auc(self, counts: Counts) -> float:
        """By Mann and Whitney's U: how often an example of the class ranks above one of another, ties counting half."""
        areas = []
        for c, order in zip(self._ranked, self._orders, strict=True):
            inside = counts * (self.truth == c)
            there, others = inside.sum(), counts.sum() - inside.sum()
            above = inside @ mid_ranks(order, counts) - there * there / 2
            areas.append(above / (there * others) if there and others else np.nan)
        return float(np.mean(areas))


@dataclass(frozen=True)
class ChoiceOutcomes:
    """Right and chosen answers of questions with several choices each."""

    truth: Ints  # [n]
    answers: Ints  # [n]
    choices: Ints  # [n]: how many there were

    @property
    def n(self) -> int:
        return len(self.truth)

    @property
    def right(self) -> NDArray[np.bool_]:
        return self.truth == self.answers

    def figures(self) -> Figures:
        return {"accuracy": float(sklearn_metrics().accuracy_score(self.truth, self.answers))}

    def resampled(self, counts: Counts) -> Figures:
        return {"accuracy": float(self.right @ counts / counts.sum())}

    def baseline(self) -> Baseline:
        """Throwing a die for each."""
        return Baseline("a choice by chance", {"accuracy": float((1 / self.choices).mean())})


@dataclass(frozen=True)
class NumberOutcomes:
    """True and predicted scores."""

    truth: Floats  # [n]
    answers: Floats  # [n]

    right = None

    @property
    def n(self) -> int:
        return len(self.truth)

    def figures(self) -> Figures:
        """A correlation with what does not vary at all is given as 0."""
        varies = np.ptp(self.truth) > 0 and np.ptp(self.answers) > 0
        return {
            "pearson": float(scipy_stats().pearsonr(self.truth, self.answers).statistic) if varies else 0.0,
            "spearman": float(scipy_stats().spearmanr(self.truth, self.answers).statistic) if varies else 0.0,
            "mse": float(sklearn_metrics().mean_squared_error(self.truth, self.answers)),
        }

    def resampled(self, counts: Counts) -> Figures:
        truth, answers = (mid_ranks(order, counts) for order in self._orders)
        return {
            "pearson": _correlation(self.truth, self.answers, counts),
            "spearman": _correlation(truth, answers, counts),
            "mse": float((self.truth - self.answers) ** 2 @ counts / counts.sum()),
        }

    def baseline(self) -> Baseline:
        """Always the mean score of these examples."""
        mean = self.truth.mean()
        return Baseline(
            f"always {mean:.3g}, the mean", NumberOutcomes(self.truth, np.full_like(self.truth, mean)).figures()
        )

    @cached_property
    def _orders(self) -> tuple[Ints, Ints]:
        """The place of each score among the distinct ones, of the truth and of the answers."""
        return np.unique(self.truth, return_inverse=True)[1], np.unique(self.answers, return_inverse=True)[1]


def mid_ranks(order: Ints, counts: Counts) -> Floats:
    """The rank of each example [n], less ½, where each counts so often and ties share the middle one.

    ``order`` [n] is the place of each example's value among the distinct values.
    """
    of_value = np.bincount(order, counts)
    return (np.cumsum(of_value) - of_value / 2)[order]


def _ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, and 0 where there is nothing of the whole."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def _matthews(cells: Floats) -> float:
    """Matthews's correlation of the right and the given classes (Gorodkin 2004, R_K); 0 where one of them is constant."""
    total, right = cells.sum(), np.trace(cells)
    there, given = cells.sum(1), cells.sum(0)
    spread = np.sqrt((total**2 - given @ given) * (total**2 - there @ there))
    return float((right * total - there @ given) / spread) if spread > 0 else 0.0


def _correlation(a: Floats, b: Floats, counts: Counts) -> float:
    """Pearson's correlation of a and b [n], each pair counted so often; NaN where one of them is constant."""
    if np.ptp(a[counts > 0]) == 0 or np.ptp(b[counts > 0]) == 0:
        return float("nan")
    a, b = a - np.average(a, weights=counts), b - np.average(b, weights=counts)
    return float(counts @ (a * b) / np.sqrt((counts @ a**2) * (counts @ b**2)))
