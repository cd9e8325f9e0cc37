"""Documents to pairs of stretches of text: does B follow A? (Devlin et al. 2019, section 3.1; Lan et al. 2020, 3.1)

What BERT's own program writes to files, instance by instance, is here a table of places in the tokens: 37 bytes a pair.
Every draw is a hash of (key, first sentence of the pair), so equal keys give equal tables. S sentences, N pairs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gptloom.data.order import Words, hash_words
from gptloom.data.sentences import Sentences

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PairKind = Literal["nsp", "order"]

FOLLOWS, NOT = 0, 1  # labels: B stands after A in the text, or it does not
SHORT_RATE = 0.1  # of pairs with a shorter target, so that a model meets other lengths than the longest too
BLOCK = 1 << 16  # sentences worked on at a time
# What a draw decides.
IS_SHORT, SHORT_LENGTH, SPLIT, COIN, OTHER_DOCUMENT, OTHER_START, CUT_A, CUT_B = range(8)


@dataclass(frozen=True)
class Pairs:
    """Where each pair lies in the tokens."""

    spans: Ints  # [N, 4]: first token and one past the last of A, then of B
    labels: NDArray[np.int8]  # [N]: FOLLOWS or NOT
    documents: NDArray[np.int32]  # [N]: document that the chunk of the pair is from (B may be from another)

    def __len__(self) -> int:
        return len(self.labels)


def build_pairs(sentences: Sentences, kind: PairKind, max_tokens: int, key: int) -> Pairs:
    """All pairs of one pass over the documents, A and B together at most ``max_tokens`` long.

    Sentences of a document are gathered until they have the target length: ``max_tokens``, for one pair in ten a number
    from 2 up to it. The first 1 to n - 1 of these n sentences are A, with equal chances.

    - ``nsp``: with probability 1/2, and always when n is 1, B begins at a random sentence of another document and has
      what is missing to the target; the sentences it replaces are used again, for the next pair. Else B is the rest.
      (With a single document B comes from anywhere in it.)
    - ``order``: B is the rest, and with probability 1/2 the two change places. A single sentence is cut in two at a
      random token; a single token makes no pair.

    What is too long loses tokens from the longer side, each from the front or the back with equal chances.

    One thing differs from BERT's program: it draws the target once a document, which would make all pairs of a long book
    short or none.
    """
    if max_tokens < 2:
        raise ValueError(f"{max_tokens} tokens hold no pair")
    blocks = [_pairs_of_block(sentences, first, end, kind, max_tokens, key) for first, end in _blocks(sentences)]
    if not blocks:
        return Pairs(np.empty((0, 4), np.int64), np.empty(0, np.int8), np.empty(0, np.int32))
    spans, labels, documents = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return Pairs(spans, labels, documents)


def _blocks(sentences: Sentences) -> Iterator[tuple[int, int]]:
    """Documents in groups of about ``BLOCK`` sentences: (first, one past the last) document."""
    marks = np.arange(0, len(sentences.starts) + BLOCK, BLOCK)
    edges = np.unique(np.minimum(np.searchsorted(sentences.documents, marks), sentences.n_documents)).tolist()
    yield from pairwise(edges)


def _pairs_of_block(
    sentences: Sentences, first: int, end: int, kind: PairKind, max_tokens: int, key: int
) -> tuple[Ints, NDArray[np.int8], NDArray[np.int32]]:
    """(spans, labels, documents) of the pairs of documents ``first`` to ``end``."""
    low, high = int(sentences.documents[first]), int(sentences.documents[end])
    indices = np.arange(low, high)
    targets = np.where(
        _below(key, IS_SHORT, indices, 1 << 20) < int(SHORT_RATE * (1 << 20)),
        2 + _below(key, SHORT_LENGTH, indices, max_tokens - 1),
        max_tokens,
    )
    coins = _below(key, COIN, indices, 2) == 1
    splits = hash_words(key, SPLIT, indices) >> np.uint64(32)
    chunks = _chunks(
        sentences.ends[low:high].tolist(),
        sentences.starts[low:high].tolist(),
        (sentences.documents[first : end + 1] - low).tolist(),
        targets.tolist(),
        splits.tolist(),
        coins.tolist() if kind == "nsp" else None,
    )
    own = chunks[:, 0]
    chunks, target, coin = chunks + low, targets[own], coins[own]
    if kind == "nsp":
        spans, label = _next_or_random(sentences, chunks, target, coin, key)
    else:
        spans, label, chunks = _in_order_or_swapped(sentences, chunks, coin, key)
    first_sentences = chunks[:, 0]
    spans = _truncate(spans, max_tokens, hash_words(key, first_sentences))
    return spans, label, sentences.document_of[first_sentences]


def _chunks(
    ends: list[int],
    starts: list[int],
    documents: list[int],
    targets: list[int],
    splits: list[int],
    coins: list[bool] | None,
) -> Ints:
    """(first sentence, first of B, one past the last) of each pair, [N, 3]; ``coins``: where B's are used again."""
    found = []
    for first, end in pairwise(documents):
        at = first
        while at < end:
            last = min(bisect_left(ends, starts[at] + targets[at], at, end), end - 1)
            n = last + 1 - at
            split = at + 1 + (splits[at] % (n - 1) if n > 1 else 0)
            found.append((at, split, last + 1))
            at = split if coins is not None and coins[at] else last + 1
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _next_or_random(
    sentences: Sentences, chunks: Ints, targets: Ints, coins: Bools, key: int
) -> tuple[Ints, NDArray[np.int8]]:
    """B is the rest of its chunk, or a stretch of another document."""
    first, split, end = chunks.T
    starts, ends, documents = sentences.starts, sentences.ends, sentences.documents
    is_random = coins | (end - first == 1)
    a_start, a_end = starts[first], ends[split - 1]
    own = sentences.document_of[first]
    others = np.maximum(sentences.n_documents - 1, 1)
    other = _below(key, OTHER_DOCUMENT, first, others)
    other += (other >= own) & (sentences.n_documents > 1)
    at = documents[other] + _below(key, OTHER_START, first, documents[other + 1] - documents[other])
    missing = np.maximum(targets - (a_end - a_start), 1)
    last = np.minimum(np.searchsorted(ends, starts[at] + missing), documents[other + 1] - 1)
    follows = np.minimum(split, len(starts) - 1)  # of a single last sentence nothing follows, and B is random
    b_start = np.where(is_random, starts[at], starts[follows])
    b_end = np.where(is_random, ends[last], ends[end - 1])
    return np.stack([a_start, a_end, b_start, b_end], axis=1), np.where(is_random, NOT, FOLLOWS).astype(np.int8)


def _in_order_or_swapped(
    sentences: Sentences, chunks: Ints, coins: Bools, key: int
) -> tuple[Ints, NDArray[np.int8], Ints]:
    """The two parts of each chunk as they stand, or changed round; the third: the chunks that made a pair."""
    possible = sentences.ends[chunks[:, 2] - 1] - sentences.starts[chunks[:, 0]] > 1
    chunks, coins = chunks[possible], coins[possible]
    first, split, end = chunks.T
    start, stop = sentences.starts[first], sentences.ends[end - 1]
    inside = start + 1 + _below(key, SPLIT, first, stop - start - 1)
    border = np.where(end - first == 1, inside, sentences.ends[split - 1])
    spans = np.stack([start, border, border, stop], axis=1)
    spans = np.where(coins[:, None], spans[:, [2, 3, 0, 1]], spans)
    return spans, np.where(coins, NOT, FOLLOWS).astype(np.int8), chunks


def _truncate(spans: Ints, max_tokens: int, keys: Words) -> Ints:
    """``spans`` [N, 4] with at most ``max_tokens`` in A and B; what one by one the longer side loses (B when equal)."""
    a, b = spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2]
    short_a, short_b = np.minimum(a, -(-max_tokens // 2)), np.minimum(b, max_tokens // 2)
    a_kept = np.where(a > b, max_tokens - short_b, short_a)
    b_kept = np.where(a > b, short_b, max_tokens - short_a)
    too_long = a + b > max_tokens
    lost_a, lost_b = np.where(too_long, a - a_kept, 0), np.where(too_long, b - b_kept, 0)
    front_a, front_b = _heads(keys, CUT_A, lost_a), _heads(keys, CUT_B, lost_b)
    return spans + np.stack([front_a, front_a - lost_a, front_b, front_b - lost_b], axis=1)


def _heads(keys: Words, what: int, tosses: Ints) -> Ints:
    """Heads among ``tosses`` [N] fair coins for each of ``keys`` [N]."""
    rows = np.repeat(np.arange(len(keys)), tosses)
    numbers = np.arange(len(rows)) - np.repeat(np.cumsum(tosses) - tosses, tosses)
    coins = (hash_words(keys[rows], what, numbers) & np.uint64(1)).astype(np.int64)
    return np.bincount(rows, weights=coins, minlength=len(keys)).astype(np.int64)


def _below(key: int, what: int, indices: Ints, limits: int | Ints) -> Ints:
    """A number from 0 up to each of ``limits``, drawn by (key, what, index)."""
    return (hash_words(key, what, indices) % np.asarray(limits, dtype=np.uint64)).astype(np.int64)
