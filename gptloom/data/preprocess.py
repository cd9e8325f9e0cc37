"""Changes to a text that lectures on classification name: lower case, no stop words, stems.

They belong to models that count words. A pretrained transformer has read whole sentences, with capitals, endings and
small words ("not" is a stop word): they usually cost it accuracy, and the comparison on one's own data shows how much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from gptloom.config.errors import Problem, UserError
from gptloom.config.task import Preprocess

NOTE = (
    "--preprocess usually hurts a pretrained model, which has read whole sentences; to see it on these data, train once"
    " more without and gptloom compare the two"
)

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_WORD_AND_SPACE = re.compile(rf"({_WORD.pattern})([ \t]*)")


def preprocess(text: str, steps: Sequence[Preprocess]) -> str:
    """``text`` after the steps, in their order. Answers in it move and words vanish: not for spans and tagged words."""
    for step in steps:
        text = _STEPS[step](text)
    return text


def _stopwords(text: str) -> str:
    """Without the words of scikit-learn's English list, each with the space after it."""
    stop = _stop_words()
    return _WORD_AND_SPACE.sub(lambda match: "" if match[1].lower() in stop else match[0], text).strip()


def _stem(text: str) -> str:
    """Every word as its stem by Snowball's English (Porter2) rules, which are for lower case."""
    stem = _stemmer()
    return _WORD.sub(lambda match: stem(match[0].lower()), text)


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


@cache
def _stemmer() -> Callable[[str], str]:
    try:
        from snowballstemmer import stemmer
    except ImportError:
        raise UserError(
            Problem("stemming needs snowballstemmer", where="--preprocess stem", mend="pip install 'gptloom[data]'")
        ) from None
    english = stemmer("english")
    return cache(lambda word: str(english.stemWord(word)))


_STEPS: dict[Preprocess, Callable[[str], str]] = {"lowercase": str.lower, "stopwords": _stopwords, "stem": _stem}
