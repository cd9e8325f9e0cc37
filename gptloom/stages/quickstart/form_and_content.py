"""What instruction tuning changed, form and content apart: scores of texts, and a line that says what they mean.

Form: does an answer end by itself, and is it one sentence (to a sum: one number)? Content: is the number right, and how
many words has the sentence in common with the docstring's? Some are in common by chance, and a name says much about what
it does. So beside each score stands what other answers would get, and beside the score of names that pretraining has
read that of names which no training text had.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gptloom.data.python_corpus.first_sentence import is_sentence
from gptloom.evaluation.significance import Interval, bootstrap, wilson
from gptloom.evaluation.spans import word_f1

DRAWS = 20  # other answers that are held against each question
NEARLY_ALL = 0.95

Floats = NDArray[np.float64]
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Answer:
    """What a model said, and whether it ended by itself (else it was cut)."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Part:
    """Held-out questions of one kind, as the base and the tuned model answered them; an array has a figure for each.

    A form is 1 for an answer that ended and is one sentence, or one number. A score is the F1 of words, or 1 for the right
    number. ``chance`` is what other answers that were learned would score, ``swapped`` what the tuned model's own answers
    to other questions would: not to be told from the score where an answer does not depend on its question.
    """

    base_form: Floats
    form: Floats
    base_score: Floats
    score: Floats
    chance: Floats
    swapped: Floats

    @property
    def asked(self) -> int:
        return len(self.score)

    @property
    def gain(self) -> Floats:
        """The score above the better of the two kinds of other answers."""
        others = self.chance if self.chance.mean() > self.swapped.mean() else self.swapped
        gain: Floats = np.round(self.score - others, 12)  # else the rounding of a mean could pass for a gain
        return gain

    @cached_property
    def interval(self) -> Interval:
        """Of the mean score, 95 %."""
        if set(self.score.tolist()) <= {0.0, 1.0}:
            return wilson(int(self.score.sum()), self.asked)
        return mean_interval(self.score)

    def as_dict(self) -> dict[str, float | int]:
        """Shares and means, for the record."""
        low, high = self.interval
        gain_low, gain_high = mean_interval(self.gain)
        return {
            "asked": self.asked,
            "base_form": float(self.base_form.mean()),
            "form": float(self.form.mean()),
            "base_score": float(self.base_score.mean()),
            "score": float(self.score.mean()),
            "low": low,
            "high": high,
            "chance": float(self.chance.mean()),
            "swapped": float(self.swapped.mean()),
            "gain_low": gain_low,
            "gain_high": gain_high,
        }


def score_names(right: Sequence[str], base: Sequence[Answer], tuned: Sequence[Answer], learned: Sequence[str]) -> Part:
    """Scores what was said about names. Other answers are drawn at random."""
    draw = random.Random(0)
    return Part(
        _forms(is_sentence, base),
        _forms(is_sentence, tuned),
        _scores(word_f1, right, base),
        _scores(word_f1, right, tuned),
        _of_others(word_f1, right, lambda asked: draw.choices(learned, k=DRAWS)),
        _swapped(word_f1, right, tuned, draw),
    )


def score_numbers(
    right: Sequence[str], base: Sequence[Answer], tuned: Sequence[Answer], learned: Sequence[str]
) -> Part:
    """Scores results. The other answer is always the commonest that was learned."""
    [(commonest, _)] = Counter(learned).most_common(1)
    return Part(
        _forms(_is_number, base),
        _forms(_is_number, tuned),
        _scores(_exact, right, base),
        _scores(_exact, right, tuned),
        _of_others(_exact, right, lambda asked: [commonest]),
        _swapped(_exact, right, tuned, random.Random(0)),
    )


def mean_interval(values: Floats) -> Interval:
    """The 95 % interval of a mean."""
    [interval] = bootstrap(lambda counts: [float(counts @ values / counts.sum())], len(values))
    assert interval is not None, "a mean is always defined"
    return interval


# ---- figures of each question ------------------------------------------------------------------------------------------


def _forms(in_form: Callable[[str], bool], answers: Sequence[Answer]) -> Floats:
    return np.array([float(answer.ended and in_form(answer.text.strip())) for answer in answers])


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _exact(truth: str, answer: str) -> float:
    return float(truth == answer.strip())


def _scores(score: Callable[[str, str], float], right: Sequence[str], answers: Sequence[Answer]) -> Floats:
    return np.array([score(truth, answer.text) for truth, answer in zip(right, answers, strict=True)])


def _of_others(
    score: Callable[[str, str], float], right: Sequence[str], others: Callable[[int], Sequence[str]]
) -> Floats:
    """What ``others`` (of the number of a question) would score, on average."""
    return np.array([np.mean([score(truth, other) for other in others(asked)]) for asked, truth in enumerate(right)])


def _swapped(
    score: Callable[[str, str], float], right: Sequence[str], answers: Sequence[Answer], draw: random.Random
) -> Floats:
    def others(asked: int) -> list[str]:
        elsewhere = [answer.text for number, answer in enumerate(answers) if number != asked]
        return draw.choices(elsewhere or [""], k=DRAWS)

    return _of_others(score, right, others)


# ---- what they mean ----------------------------------------------------------------------------------------------------


def explain(read: Part, unread: Part, arithmetic: Part) -> str:
    """The figures in plain words, claiming a difference only where its 95 % interval leaves zero out."""
    return f"{_form(read, unread)}; {_content(read, unread)}; {_results(arithmetic)}."


def _form(read: Part, unread: Part) -> str:
    form, before = (np.concatenate(both) for both in ((read.form, unread.form), (read.base_form, unread.base_form)))
    if mean_interval(form - before)[0] <= 0:
        return "Tuning did not measurably teach the form"
    return "Tuning taught the form" if form.mean() >= NEARLY_ALL else "Tuning taught some of the form"


def _content(read: Part, unread: Part) -> str:
    of_read, of_unread = mean_interval(read.gain)[0] > 0, mean_interval(unread.gain)[0] > 0
    low, high = _difference(read.gain, unread.gain)
    if of_read and of_unread and low > 0:
        return "what it says goes partly by the words of a name, and is closer to the truth where the base has read it"
    if of_read and of_unread and high < 0:
        return "what it says goes by the words of a name, and is closer to the truth where the base has never read it"
    if of_read and of_unread:
        return (
            "what it says goes by the words of a name, and is not measurably closer to the truth where the base has read "
            "it: nothing shows that it remembers facts"
        )
    measurably = "what it says is measurably closer to the truth than another answer"
    if of_read:
        return f"{measurably} only where the base has read the name"
    if of_unread:
        return f"{measurably} only where the base has never read the name: it guesses"
    return "what it says is not measurably closer to the truth than another answer: nothing shows that it knows facts"


def _difference(first: Floats, second: Floats) -> Interval:
    """The 95 % interval of how much greater the mean of the one is than that of the other."""
    values = np.concatenate([first, second])
    of_first = np.arange(len(values)) < len(first)

    def statistic(counts: Floats) -> list[float]:
        one, other = counts * of_first, counts * ~of_first
        with np.errstate(invalid="ignore"):  # a resample with none of one part is left out
            return [float(one @ values / one.sum() - other @ values / other.sum())]

    [interval] = bootstrap(statistic, len(values))
    assert interval is not None, "both parts have questions"
    return interval


def _results(arithmetic: Part) -> str:
    right = f"{arithmetic.score.mean():.0%} of the results with new operands are right"
    always = f"more than by always giving the commonest ({arithmetic.chance.mean():.0%})"
    measurably_more = mean_interval(arithmetic.score - arithmetic.chance)[0] > 0
    return f"{right}, {always}" if measurably_more else f"{right}, not measurably {always}"
