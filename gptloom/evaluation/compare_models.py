"""Several fine-tuned models on the same labelled rows: which is better, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from gptloom.config.errors import Problem, UserError
from gptloom.config.task import TaskConfig
from gptloom.evaluation.outcomes import Figures
from gptloom.evaluation.significance import Counts, Interval, McNemar, bootstrap, mcnemar
from gptloom.evaluation.task_metrics import TaskReport
from gptloom.observe.glossary import higher_is_better, main_metrics, written

CHANCE = 0.05
BY_ANSWERS = ("classify", "entail", "similar", "choice")
"""Tasks whose answers are right or wrong as a whole, so that McNemar's test applies."""


@dataclass(frozen=True)
class Pair:
    """Two models on the same examples; differences are the second's figures less the first's."""

    first: str
    second: str
    metric: str
    n: int
    differences: Figures
    intervals: dict[str, Interval]
    """95 %, of a paired bootstrap."""
    mcnemar: McNemar | None
    """Of right and wrong answers; None for tasks without."""
    disagree: int | None
    """Examples with different answers; None for scores, which always differ."""

    @property
    def more_than_chance(self) -> bool:
        """Whether chance alone is improbable: by McNemar's test of accuracies, else by the interval of the metric."""
        if self.mcnemar is not None and self.metric == "accuracy":
            return self.mcnemar.p < CHANCE
        interval = self.intervals.get(self.metric)
        return interval is not None and not interval[0] <= 0 <= interval[1]

    @property
    def verdict(self) -> str:
        """The comparison in a sentence."""
        difference = self.differences[self.metric]
        amount = self.amount(" points", "95 %: ")
        p = f", McNemar's p = {self.mcnemar.p:.2g}" if self.mcnemar is not None else ""
        if not self.more_than_chance:
            return (
                f"{self.second} less {self.first}: {amount} of {self.metric}. "
                f"No more than chance can give at {self.n:,} rows{p}."
            )
        better = (difference > 0) == higher_is_better(self.metric)
        word = "better" if better else "worse"
        return f"{self.second} is {word} than {self.first}: {amount} of {self.metric}. More than chance at {self.n:,} rows{p}."

    def amount(self, unit: str = "", level: str = "") -> str:
        """The difference of the metric and its interval: ``+3.2 points (95 %: +1.1 to +5.3)``; unit is that of shares."""
        shown = _signed(self.metric, self.differences[self.metric])
        unit = unit if written(self.metric, 0.0).endswith("%") else ""
        spread = self.intervals.get(self.metric)
        within = f" ({level}{' to '.join(_signed(self.metric, edge) for edge in spread)})" if spread else ""
        return f"{shown}{unit}{within}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "first": self.first,
            "second": self.second,
            "differences": self.differences,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "mcnemar": None if self.mcnemar is None else self.mcnemar._asdict(),
            "disagree": self.disagree,
            "more_than_chance": self.more_than_chance,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Comparison:
    """The report of each model by its name, and every pair of them."""

    reports: dict[str, TaskReport]
    pairs: list[Pair]
    cut: Mapping[str, dict[str, int] | None] = field(default_factory=dict)
    """Of each model how many rows, tokens and words were beyond its length, and not read; None: none."""

    @property
    def metric(self) -> str:
        """By which the models are compared."""
        return self._any.metric

    @property
    def n(self) -> int:
        """Number of examples."""
        return self._any.n

    @property
    def _any(self) -> TaskReport:
        return next(iter(self.reports.values()))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Names of columns, and a row for each model and for the baseline: score and interval of each metric."""
        metrics = main_metrics(self._any.metrics, self.metric)
        rows = [
            [name, *(_with_interval(report, metric) for metric in metrics)] for name, report in self.reports.items()
        ]
        baseline = self._any.baseline
        known = (written(name, baseline[name]) if name in baseline else "" for name in metrics)
        return ["model", *metrics], [*rows, [f"baseline: {self._any.baseline_answer}", *known]]

    def pair_table(self) -> tuple[list[str], list[list[str]]]:
        """The same for the pairs: difference of the metric, McNemar's test, and rows with different answers."""
        header = [
            "second less first",
            f"difference of {self.metric}",
            "only first right",
            "only second right",
            "p",
            "disagree",
        ]
        rows = []
        for pair in self.pairs:
            test = ["", "", ""] if pair.mcnemar is None else [*map(str, pair.mcnemar[:2]), f"{pair.mcnemar.p:.3g}"]
            disagree = "" if pair.disagree is None else f"{pair.disagree:,}"
            rows.append([f"{pair.second} − {pair.first}", pair.amount(), *test, disagree])
        used = [place for place in range(len(header)) if any(row[place] for row in rows)]
        return [header[place] for place in used], [[row[place] for place in used] for row in rows]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "metric": self.metric,
            "n": self.n,
            "models": {
                name: {
                    "metrics": report.metrics,
                    "intervals": {k: list(v) for k, v in report.intervals.items()},
                    "cut": self.cut.get(name),
                }
                for name, report in self.reports.items()
            },
            "baseline": self._any.baseline,
            "baseline_answer": self._any.baseline_answer,
            "pairs": [pair.as_dict() for pair in self.pairs],
        }

    def as_markdown(self) -> str:
        """Both tables and the sentences."""
        parts = [f"{self.n:,} labelled rows; 95 % intervals in brackets.\n"]
        for header, rows in (self.table(), self.pair_table()):
            lines = [header, ["---"] * len(header), *rows]
            parts.append("".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines))
        parts.append("".join(f"- {pair.verdict}\n" for pair in self.pairs))
        return "\n".join(parts)


def check_same_task(tasks: dict[str, TaskConfig]) -> None:
    """``UserError`` where models answer another question than the first, or with other labels."""
    (name, first), *others = tasks.items()
    problems = []
    for other, task in others:
        if task.task != first.task or task.is_score != first.is_score:
            what = f"it was fine-tuned to {_asked(task)}, {name} to {_asked(first)}: there is nothing to compare"
            problems.append(Problem(what, other, "models of one task"))
        elif set(task.labels) != set(first.labels):
            what = f"its labels are {', '.join(task.labels)}; those of {name} are {', '.join(first.labels)}"
            problems.append(Problem(what, other, "models with the same labels"))
    if problems:
        raise UserError(*problems)


def _asked(task: TaskConfig) -> str:
    return f"{task.task} (scores)" if task.is_score else task.task


def compare_reports(
    reports: dict[str, TaskReport], seed: int, cut: Mapping[str, dict[str, int] | None] | None = None
) -> Comparison:
    """Compares the answers of models to the same examples, every pair of them; ``seed`` is the bootstrap's.

    ``cut`` is only noted, see ``Comparison``.
    """
    names = list(reports)
    return Comparison(
        reports, [_pair(first, second, reports, seed) for first, second in combinations(names, 2)], cut or {}
    )


def _pair(first: str, second: str, reports: dict[str, TaskReport], seed: int) -> Pair:
    a, b = reports[first], reports[second]
    if [example.where for example in a.examples] != [example.where for example in b.examples]:
        raise ValueError(f"{first} and {second} answered different examples")
    metric = next(iter(reports.values())).metric
    metrics = [name for name in a.metrics if name in b.metrics]

    def difference(counts: Counts) -> list[float]:
        ours, theirs = a.outcomes.resampled(counts), b.outcomes.resampled(counts)
        return [theirs[name] - ours[name] for name in metrics]

    found = zip(metrics, bootstrap(difference, a.n, seed), strict=True)
    test = None
    if a.task.task in BY_ANSWERS and a.outcomes.right is not None and b.outcomes.right is not None:
        test = mcnemar(a.outcomes.right, b.outcomes.right)
    return Pair(
        first,
        second,
        metric,
        a.n,
        {name: b.metrics[name] - a.metrics[name] for name in metrics},
        {name: interval for name, interval in found if interval is not None},
        test,
        None if a.task.is_score else _disagreements(a, b),
    )


def _disagreements(a: TaskReport, b: TaskReport) -> int:
    pairs = zip(a.predictions, b.predictions, strict=True)
    return sum(bool(np.any(np.asarray(ours.answer) != np.asarray(theirs.answer))) for ours, theirs in pairs)


def _with_interval(report: TaskReport, metric: str) -> str:
    if metric not in report.metrics:
        return ""
    spread = report.intervals.get(metric)
    within = f" ({' to '.join(written(metric, edge).removesuffix(' %') for edge in spread)})" if spread else ""
    return written(metric, report.metrics[metric]) + within


def _signed(metric: str, difference: float) -> str:
    """``+3.2`` points of shares, ``+0.032`` of the others."""
    share = written(metric, 0.0).endswith("%")
    return f"{100 * difference:+.1f}" if share else f"{difference:+.3f}"
