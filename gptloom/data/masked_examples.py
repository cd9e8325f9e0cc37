"""Examples of masked pretraining as places in the tokens, and as rows of ids with [CLS] and [SEP] around them.

N examples, T tokens of context. A row is [CLS] A [SEP] B [SEP] with segment 0 up to the first [SEP] and 1 after it, or
[CLS] A [SEP] where sentences do not come in pairs.
"""

from __future__ import annotations

from math import ceil
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gptloom.data.batches import Tokens
from gptloom.data.masking import Bools, MaskVocabulary
from gptloom.data.order import hash_words
from gptloom.data.pairs import PairKind, Pairs, build_pairs
from gptloom.data.sentences import read_sentences
from gptloom.data.shards import TokenShards

Ints = NDArray[np.int64]

PairChoice = Literal["nsp", "order", "none"]

NO_PAIR = -1
EXTRA = {"nsp": 3, "order": 3, "none": 2}  # places of a row that [CLS] and [SEP] take
SHIFT, PAIRS = 1, 2  # what a draw decides


class Examples(Protocol):
    """The examples of one source. ``n_examples`` of each round are read in an epoch."""

    n_examples: int

    def places(self, rounds: Ints, examples: Ints) -> tuple[Ints, Ints]:
        """(first token and one past the last of A and of B [N, 4], pair label [N]) of each (round, example)."""


class Windows:
    """Text cut into windows of T - 2 tokens that lie end to end; those of each round are shifted by some tokens."""

    def __init__(self, tokens: TokenShards, context: int, seed: int) -> None:
        self.length = context - EXTRA["none"]
        if self.length < 1 or tokens.n_tokens < self.length:
            raise ValueError(f"{tokens.n_tokens} tokens are less than one window of {self.length}")
        self.seed = seed
        # One window less than would fit, so that they can be shifted.
        self.n_examples = max(1, tokens.n_tokens // self.length - 1)
        self.shifts = min(self.length, tokens.n_tokens - self.n_examples * self.length + 1)

    def places(self, rounds: Ints, examples: Ints) -> tuple[Ints, Ints]:
        shift = (hash_words(self.seed, SHIFT, rounds) % np.uint64(self.shifts)).astype(np.int64)
        start = examples * self.length + shift
        end = start + self.length
        return np.stack([start, end, end, end], axis=1), np.full(len(start), NO_PAIR, dtype=np.int64)


class PairedSentences:
    """Pairs of stretches of text; each round draws its own (``pairs.build_pairs``), when it is first asked for.

    Rounds differ a little in how many pairs they have. All count as many as the first, round 0: of a longer round some
    are left out, which ones is drawn, of a shorter one some come twice.
    """

    def __init__(self, tokens: TokenShards, weight: float, kind: PairKind, context: int, seed: int) -> None:
        self.sentences = read_sentences(tokens)
        self.kind: PairKind = kind
        self.max_tokens = context - EXTRA[kind]
        self.seed = seed
        self._kept = ceil(weight) + 2  # rounds that a pass over the data, and the first batch of the next, can need
        self._rounds: dict[int, Pairs] = {}
        self.n_examples = len(self.round(0))
        if not self.n_examples:
            raise ValueError(f"{tokens.n_tokens} tokens hold no pair of sentences")

    def round(self, number: int) -> Pairs:
        """The pairs of one round, which are kept for a while."""
        if number not in self._rounds:
            while len(self._rounds) >= self._kept:
                del self._rounds[next(iter(self._rounds))]
            key = int(hash_words(self.seed, PAIRS, number)[0])
            self._rounds[number] = build_pairs(self.sentences, self.kind, self.max_tokens, key)
        return self._rounds[number]

    def places(self, rounds: Ints, examples: Ints) -> tuple[Ints, Ints]:
        spans, labels = np.empty((len(examples), 4), dtype=np.int64), np.empty(len(examples), dtype=np.int64)
        for number in np.unique(rounds).tolist():
            mine = rounds == number
            pairs = self.round(number)
            shift = int(hash_words(self.seed, SHIFT, number)[0] % np.uint64(len(pairs)))
            places = (examples[mine] + shift) % len(pairs)
            spans[mine], labels[mine] = pairs.spans[places], pairs.labels[places]
        return spans, labels


def examples_of(tokens: TokenShards, weight: float, pairs: PairChoice, context: int, seed: int) -> Examples:
    """The examples of one source; ``ValueError`` where it has none, ``UserError`` where its sentences are unknown."""
    if pairs == "none":
        return Windows(tokens, context, seed)
    return PairedSentences(tokens, weight, pairs, context, seed)


def lay_out(
    tokens: Tokens, spans: Ints, labels: Ints, context: int, vocabulary: MaskVocabulary
) -> tuple[Ints, Ints, Bools]:
    """Rows of (ids, segments, real tokens), all [N, T], filled up with padding."""
    ids = np.full((len(spans), context), vocabulary.pad_id, dtype=np.int64)
    segments = np.zeros((len(spans), context), dtype=np.int64)
    real = np.zeros((len(spans), context), dtype=bool)
    for row, ((a, a_end, b, b_end), label) in enumerate(zip(spans.tolist(), labels.tolist(), strict=True)):
        end = a_end - a + 2
        ids[row, 0] = vocabulary.cls_id
        ids[row, 1 : end - 1] = tokens.read(a, a_end - a)
        ids[row, end - 1] = vocabulary.sep_id
        if label != NO_PAIR:
            first, end = end, end + b_end - b + 1
            ids[row, first : end - 1] = tokens.read(b, b_end - b)
            ids[row, end - 1] = vocabulary.sep_id
            segments[row, first:end] = 1
        real[row, :end] = True
    return ids, segments, real
