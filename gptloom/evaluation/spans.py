"""Answers that are parts of a text, scored as SQuAD 1.1 does (Rajpurkar et al. 2016): exact match and F1 of words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gptloom.evaluation.outcomes import Baseline, Figures, Floats
from gptloom.evaluation.significance import Counts

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(answer: str) -> str:
    """Lower case, without ASCII punctuation and English articles, words one space apart: what SQuAD compares."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def word_f1(truth: str, answer: str) -> float:
    """2 · common words / all words of both, after ``normalise``; two answers of no words agree."""
    there, given = normalise(truth).split(), normalise(answer).split()
    if not there or not given:
        return float(there == given)
    common = (Counter(there) & Counter(given)).total()
    return 2 * common / (len(there) + len(given))


@dataclass(frozen=True)
class SpanOutcomes:
    """The right and the given answers about n texts."""

    truth: Sequence[str]
    answers: Sequence[str]
    contexts: Sequence[str]

    @property
    def n(self) -> int:
        return len(self.truth)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        pairs = zip(self.truth, self.answers, strict=True)
        return np.array([normalise(truth) == normalise(answer) for truth, answer in pairs])

    def figures(self) -> Figures:
        return self.resampled(np.ones(self.n))

    def resampled(self, counts: Counts) -> Figures:
        exact, overlap = counts @ self._scores / counts.sum()
        return {"exact_match": float(exact), "f1": float(overlap)}

    def baseline(self) -> Baseline:
        """The whole text for an answer."""
        return Baseline("the whole text", SpanOutcomes(self.truth, self.contexts, self.contexts).figures())

    @cached_property
    def _scores(self) -> Floats:
        """[n, 2]: whether each answer is exactly right, and its F1."""
        overlap = [word_f1(truth, answer) for truth, answer in zip(self.truth, self.answers, strict=True)]
        return np.stack([self.right, overlap], axis=1).astype(np.float64)
