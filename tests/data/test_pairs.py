"""Pairs of sentences: the rules of BERT and ALBERT, and their statistics against a sequential program."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from gptloom.data import pairs as module
from gptloom.data.order import hash_words
from gptloom.data.pairs import FOLLOWS, NOT, PairKind, Pairs, build_pairs
from gptloom.data.sentences import Sentences


def sentences_of(documents: list[list[int]]) -> Sentences:
    """Sentences of these lengths by document, with one token between documents."""
    starts, ends, firsts, at = [], [], [0], 0
    for document in documents:
        for length in document:
            starts.append(at)
            ends.append(at + length)
            at += length
        at += 1
        firsts.append(len(starts))
    return Sentences(*(np.array(column, dtype=np.int64) for column in (starts, ends, firsts)))


def library(n_documents: int, seed: int = 0) -> list[list[int]]:
    """Sentence lengths like those of prose."""
    rng = random.Random(seed)
    return [[1 + int(rng.gammavariate(2, 6)) for _ in range(rng.randint(1, 30))] for _ in range(n_documents)]


@dataclass
class Instance:
    a: list[tuple[int, int]]  # tokens as (document, place)
    b: list[tuple[int, int]]
    is_random: bool
    document: int


def sequential_pairs(documents: list[list[int]], max_tokens: int, rng: random.Random) -> list[Instance]:
    """BERT's procedure in one pass, token by token; the target length is drawn for each pair."""
    texts = []
    for number, lengths in enumerate(documents):
        at, text = 0, []
        for length in lengths:
            text.append([(number, place) for place in range(at, at + length)])
            at += length
        texts.append(text)
    found = []
    for number, text in enumerate(texts):
        i, chunk = 0, []
        target = None
        while i < len(text):
            if target is None:
                target = rng.randint(2, max_tokens) if rng.random() < 0.1 else max_tokens
            chunk.append(text[i])
            if i == len(text) - 1 or sum(map(len, chunk)) >= target:
                n_a = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
                a = [token for sentence in chunk[:n_a] for token in sentence]
                is_random = len(chunk) == 1 or rng.random() < 0.5
                if is_random:
                    other = rng.choice([n for n in range(len(texts)) if n != number])
                    b: list[tuple[int, int]] = []
                    for sentence in texts[other][rng.randint(0, len(texts[other]) - 1) :]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - n_a
                else:
                    b = [token for sentence in chunk[n_a:] for token in sentence]
                while len(a) + len(b) > max_tokens:
                    longer = a if len(a) > len(b) else b
                    longer.pop(0 if rng.random() < 0.5 else -1)
                found.append(Instance(a, b, is_random, number))
                chunk, target = [], None
            i += 1
    return found


def statistics(pairs: Pairs) -> dict[str, float]:
    a, b = pairs.spans[:, 1] - pairs.spans[:, 0], pairs.spans[:, 3] - pairs.spans[:, 2]
    random_ones = pairs.labels == NOT
    return {
        "pairs": len(pairs),
        "random": random_ones.mean(),
        "a": a.mean(),
        "b": b.mean(),
        "a when random": a[random_ones].mean(),
        "b when random": b[random_ones].mean(),
        "full": (a + b == (a + b).max()).mean(),
        "half full": (a + b < (a + b).max() // 2).mean(),
        "spread of a": a.std(),
    }


def test_statistics_equal_those_of_the_sequential_program() -> None:
    documents = library(150)
    sentences, rng = sentences_of(documents), random.Random(1)
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    for turn in range(12):
        for name, value in statistics(build_pairs(sentences, "nsp", 61, turn)).items():
            ours.setdefault(name, []).append(value)
        instances = sequential_pairs(documents, 61, rng)
        spans = np.array([[0, len(one.a), 0, len(one.b)] for one in instances])
        labels = np.array([one.is_random for one in instances], dtype=np.int8)
        for name, value in statistics(Pairs(spans, labels, np.zeros(len(labels), np.int32))).items():
            theirs.setdefault(name, []).append(value)
    for name in ours:
        error = (np.var(ours[name], ddof=1) / 12 + np.var(theirs[name], ddof=1) / 12) ** 0.5
        assert abs(np.mean(ours[name]) - np.mean(theirs[name])) < 4 * error, name
    assert 0.5 < np.mean(ours["random"]) < 0.65  # more than a half, since single sentences always are


def test_every_sentence_is_used_once_where_nothing_is_cut_off() -> None:
    rng = random.Random(0)
    documents = [[5] * rng.randint(1, 40) for _ in range(200)]
    sentences = sentences_of(documents)
    pairs = build_pairs(sentences, "nsp", 20, 3)
    used = np.zeros(int(sentences.ends[-1]), dtype=int)
    for (a, a_end, b, b_end), label, document in zip(pairs.spans, pairs.labels, pairs.documents, strict=True):
        used[a:a_end] += 1
        first, last = sentences.documents[document], sentences.documents[document + 1] - 1
        assert sentences.starts[first] <= a < a_end <= sentences.ends[last]
        if label == FOLLOWS:
            used[b:b_end] += 1
            assert b == a_end
            assert b_end <= sentences.ends[last]
        else:
            assert b_end <= sentences.starts[first] or b > sentences.ends[last]  # from another document
        assert b_end > b
        assert a_end - a + b_end - b <= 20
    inside = np.zeros_like(used)
    for start, end in zip(sentences.starts, sentences.ends, strict=True):
        inside[start:end] = 1
    np.testing.assert_array_equal(used, inside)


def test_a_random_b_comes_from_every_other_document() -> None:
    sentences = sentences_of([[5]] * 400 + [[2, 3, 4]] * 8)
    pairs = build_pairs(sentences, "nsp", 20, 0)
    random_ones = pairs.labels == NOT
    assert random_ones[:400].all()  # single sentences
    b = sentences.document_of[np.searchsorted(sentences.starts, pairs.spans[random_ones, 2], side="right") - 1]
    assert (b != pairs.documents[random_ones]).all()
    assert len(np.unique(b)) > 200
    alone = build_pairs(sentences_of([[5] * 50]), "nsp", 20, 0)
    assert set(alone.labels.tolist()) == {FOLLOWS, NOT}  # from elsewhere in the only document


def test_order_pairs_are_consecutive_and_half_are_swapped() -> None:
    sentences = sentences_of(library(300))
    pairs = build_pairs(sentences, "order", 10_000, 5)
    a, a_end, b, b_end = pairs.spans.T
    swapped = pairs.labels == NOT
    np.testing.assert_array_equal(b[~swapped], a_end[~swapped])
    np.testing.assert_array_equal(a[swapped], b_end[swapped])
    assert ((a_end > a) & (b_end > b)).all()
    many = np.concatenate([build_pairs(sentences, "order", 61, key).labels for key in range(5)])
    assert len(many) > 2000
    assert abs(many.mean() - 0.5) < 0.035


def test_a_single_sentence_is_cut_in_two_and_a_single_token_is_no_pair() -> None:
    pairs = build_pairs(sentences_of([[6], [1], [2]] * 50), "order", 60, 0)
    assert len(pairs) == 100
    low, high = pairs.spans[:, [0, 2]].min(axis=1), pairs.spans[:, [1, 3]].max(axis=1)
    assert sorted(set((high - low).tolist())) == [2, 6]
    sixes = pairs.spans[high - low == 6]
    assert set((sixes[:, 1] - sixes[:, 0]).tolist()) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("max_tokens", [20, 21])
def test_the_longer_side_is_cut_at_both_ends(max_tokens: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, (3000, 2))
    spans = np.stack([0 * lengths[:, 0], lengths[:, 0], 0 * lengths[:, 1] + 100, 100 + lengths[:, 1]], axis=1)
    cut = module._truncate(spans, max_tokens, hash_words(1, np.arange(3000)))
    for (a, b), (start, end, b_start, b_end) in zip(lengths.tolist(), cut.tolist(), strict=True):
        assert 0 <= start < end <= a
        assert 100 <= b_start < b_end <= 100 + b
        while a + b > max_tokens:
            if a > b:
                a -= 1
            else:
                b -= 1
        assert (end - start, b_end - b_start) == (a, b)
    lost = lengths[:, 0] - (cut[:, 1] - cut[:, 0])
    front = cut[lost > 0, 0]
    assert abs(front.sum() / lost.sum() - 0.5) < 0.02
    np.testing.assert_allclose(np.var(front - lost[lost > 0] / 2), lost[lost > 0].mean() / 4, rtol=0.15)  # binomial


def test_one_pair_in_ten_is_short() -> None:
    pairs = build_pairs(sentences_of([[1] * 3000] * 20), "order", 50, 0)
    lengths = (pairs.spans[:, 1] - pairs.spans[:, 0]) + (pairs.spans[:, 3] - pairs.spans[:, 2])
    short = lengths[lengths < 50]
    assert len(lengths) > 1000
    assert abs(len(short) / len(lengths) - 0.1 * 48 / 49) < 0.03
    assert (short.min(), short.max()) == (2, 49)
    assert abs(short.mean() - 25.5) < 4


@pytest.mark.parametrize("kind", ["nsp", "order"])
def test_a_pure_function_of_the_key(kind: PairKind, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = sentences_of(library(100))
    one, same, other = (build_pairs(sentences, kind, 61, key) for key in (1, 1, 2))
    np.testing.assert_array_equal(one.spans, same.spans)
    np.testing.assert_array_equal(one.labels, same.labels)
    assert one.spans.shape != other.spans.shape or (one.spans != other.spans).any()
    monkeypatch.setattr(module, "BLOCK", 50)  # how much is worked on at a time changes nothing
    np.testing.assert_array_equal(build_pairs(sentences, kind, 61, 1).spans, one.spans)


def test_nothing_and_too_little_room() -> None:
    assert len(build_pairs(sentences_of([]), "nsp", 10, 0)) == 0
    assert len(build_pairs(sentences_of([[1]]), "order", 10, 0)) == 0
    with pytest.raises(ValueError, match="hold no pair"):
        build_pairs(sentences_of([[3]]), "nsp", 1, 0)
