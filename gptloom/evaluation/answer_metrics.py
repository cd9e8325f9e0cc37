"""How near generated answers are to the right ones: equal, in words, as BLEU and chrF, as ROUGE.

Figures equal those of the libraries that define them: ``sacrebleu`` (BLEU and chrF from 0 to 100) and ``rouge-score``
(F1 from 0 to 1, without stemming). Every figure is a function of counts [n], how often each answer counts, so that its
interval is a bootstrap over the answers, of the corpus figures too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptloom.config.errors import Problem, UserError
from gptloom.evaluation.outcomes import Figures
from gptloom.evaluation.significance import Counts, Interval, Statistic, bootstrap, wilson
from gptloom.evaluation.spans import normalise, word_f1

FIGURES = {
    "exact": ("exact", "exact_match", "f1"),
    "f1": ("exact", "exact_match", "f1"),
    "bleu": ("bleu", "chrf"),
    "rouge": ("rouge1", "rouge2", "rougeL"),
}
"""Metric → the figures that it comes with."""
FIRST = {"exact": "exact", "f1": "f1", "bleu": "bleu", "rouge": "rougeL"}
"""Metric → the figure to look at first."""
MODULES = {"bleu": "sacrebleu", "rouge": "rouge_score"}
SHORT_ANSWER = 5  # words: answers of so many at most are right or wrong as a whole

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class AnswerScores:
    """The figures of a metric and their 95 % intervals, by name."""

    figures: Figures
    intervals: dict[str, Interval]


def score_answers(answers: Sequence[str], references: Sequence[str], metric: str, seed: int = 0) -> AnswerScores:
    """``answer_figures``, each with its interval; ``seed`` is that of the bootstrap."""
    statistic, n = _statistic(answers, references, metric), len(answers)
    figures = _figures(statistic, n, metric)
    found = zip(figures, bootstrap(statistic, n, seed), strict=True)
    intervals = {name: interval for name, interval in found if interval is not None}
    for name in ("exact", "exact_match"):  # shares of right answers
        if name in figures:
            intervals[name] = wilson(round(figures[name] * n), n)
    return AnswerScores(figures, intervals)


def answer_figures(answers: Sequence[str], references: Sequence[str], metric: str) -> Figures:
    """The figures of ``metric`` for answers beside their references; spaces around both do not count.

    ``exact`` and ``f1`` are shares of answers equal as written and equal as SQuAD compares, and shared words; ``bleu`` and
    ``rouge`` what the libraries say of them.

    Raises:
        UserError: the library of the metric is not installed.
        ValueError: no answers, not one for each reference, or no such metric.
    """
    return _figures(_statistic(answers, references, metric), len(answers), metric)


def _figures(statistic: Statistic, n: int, metric: str) -> Figures:
    return dict(zip(FIGURES[metric], map(float, statistic(np.ones(n))), strict=True))


def _statistic(answers: Sequence[str], references: Sequence[str], metric: str) -> Statistic:
    """The figures of ``metric`` as a function of how often each answer counts."""
    if not answers or len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers for {len(references)} references")
    if metric not in FIGURES:
        raise ValueError(f"no metric {metric!r}: {', '.join(FIGURES)}")
    check_installed([metric])
    given, right = [answer.strip() for answer in answers], [reference.strip() for reference in references]
    return _STATISTICS[metric](given, right)


def check_installed(metrics: Iterable[str]) -> None:
    """``UserError`` that names the extra where a library of ``metrics`` is not installed."""
    lacking = sorted(
        {MODULES[metric] for metric in metrics if metric in MODULES and find_spec(MODULES[metric]) is None}
    )
    if lacking:
        what = f"answers are to be scored by what is not installed: {', '.join(lacking)}"
        raise UserError(Problem(what, mend="pip install 'gptloom[eval]'"))


def usual_metric(references: Sequence[str]) -> str:
    """For rows that name none: ``exact`` where half of the answers or more are short, else ``f1``."""
    short = sum(len(reference.split()) <= SHORT_ANSWER for reference in references)
    return "exact" if 2 * short >= len(references) else "f1"


# ---- one statistic for each metric -----------------------------------------------------------------------------------


def _mean(scores: NDArray[np.float64]) -> Statistic:
    """Weighted means of the columns of ``scores`` [n, figures]."""
    return lambda counts: (counts @ scores / counts.sum()).tolist()


def _words(answers: Sequence[str], references: Sequence[str]) -> Statistic:
    pairs = list(zip(answers, references, strict=True))
    scores = [
        (answer == right, normalise(answer) == normalise(right), word_f1(right, answer)) for answer, right in pairs
    ]
    return _mean(np.array(scores, np.float64))


def _rouge(answers: Sequence[str], references: Sequence[str]) -> Statistic:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(FIGURES["rouge"]))
    pairs = zip(answers, references, strict=True)
    scored = [scorer.score(target=right, prediction=answer) for answer, right in pairs]
    return _mean(np.array([[row[name].fmeasure for name in FIGURES["rouge"]] for row in scored], np.float64))


def _bleu(answers: Sequence[str], references: Sequence[str]) -> Statistic:
    from sacrebleu.metrics import BLEU, CHRF

    metrics: list[tuple[Any, Ints]] = []
    for metric in (BLEU(), CHRF()):
        # What the library's own bootstrap sums: matches, n-grams and lengths of each answer [n, statistics].
        metrics.append((metric, np.array(metric._extract_corpus_statistics(answers, [references]), np.int64)))

    def figures(counts: Counts) -> list[float]:
        drawn = counts.astype(np.int64)
        return [metric._compute_score_from_stats((drawn @ each).tolist()).score for metric, each in metrics]

    return figures


_STATISTICS: dict[str, Callable[[Sequence[str], Sequence[str]], Statistic]] = {
    "exact": _words,
    "f1": _words,
    "bleu": _bleu,
    "rouge": _rouge,
}
