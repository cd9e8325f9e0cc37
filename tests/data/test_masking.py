"""Masking: how many words, which, and what the model sees in their place."""

import numpy as np
import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.data.masking import Masking, MaskVocabulary, choose_places, mask_words
from gptloom.data.order import hash_words
from gptloom.tokenizer import Tokenizer, load_tokenizer

CLS, SEP, MASK, PAD, SIZE = 2, 3, 4, 0, 1000
VOCABULARY = MaskVocabulary(CLS, SEP, MASK, PAD, SIZE)
ROWS, CONTEXT = 400, 128


def keys(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    return hash_words(seed, np.arange(rows))


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """[CLS] words [SEP] words [SEP] padding, of all lengths: (ids, real)."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, SIZE, (ROWS, CONTEXT))
    lengths = rng.integers(5, CONTEXT + 1, ROWS)
    real = np.arange(CONTEXT) < lengths[:, None]
    ids[:, 0] = CLS
    ids[np.arange(ROWS), lengths // 2] = SEP
    ids[np.arange(ROWS), lengths - 1] = SEP
    ids[~real] = PAD
    return ids, real


def test_how_many_and_never_special_ones(rows: tuple[np.ndarray, np.ndarray]) -> None:
    ids, real = rows
    _, chosen = mask_words(ids, real, keys(), VOCABULARY, Masking())
    assert chosen.sum(axis=1).tolist() == [max(1, round(0.15 * length)) for length in real.sum(axis=1).tolist()]
    assert not np.isin(ids[chosen], (CLS, SEP, PAD)).any()
    assert not (chosen & ~real).any()


def test_every_place_is_as_likely() -> None:
    ids = np.full((4000, 42), 9)
    ids[:, 0], ids[:, -1] = CLS, SEP
    chosen = choose_places(ids, np.ones_like(ids, bool), keys(4000), VOCABULARY, Masking())
    share = chosen.mean(axis=0)
    assert share[0] == share[-1] == 0
    np.testing.assert_allclose(share[1:-1], 6 / 40, atol=5 * (0.15 * 0.85 / 4000) ** 0.5)


def test_eighty_ten_ten(rows: tuple[np.ndarray, np.ndarray]) -> None:
    ids, real = rows
    parts = [mask_words(ids, real, keys(seed=seed), VOCABULARY, Masking()) for seed in range(5)]
    before = np.concatenate([ids[chosen] for _, chosen in parts])
    after = np.concatenate([seen[chosen] for seen, chosen in parts])
    for seen, chosen in parts:
        np.testing.assert_array_equal(seen[~chosen], ids[~chosen])
    assert len(before) > 15_000
    assert abs((after == MASK).mean() - 0.8) < 0.015
    assert abs((after == before).mean() - 0.1) < 0.012
    other = after[(after != MASK) & (after != before)]
    assert abs(len(other) / len(after) - 0.1) < 0.012
    counts = np.histogram(other, bins=10, range=(0, SIZE))[0]  # any id of the vocabulary
    assert ((counts - len(other) / 10) ** 2 / (len(other) / 10)).sum() < 27.9  # chi square, 9 degrees, 0.1 %


def test_a_row_does_not_depend_on_its_company(rows: tuple[np.ndarray, np.ndarray]) -> None:
    ids, real = rows
    for masking, vocabulary in (
        (Masking(), VOCABULARY),
        (Masking(whole_word=True), MaskVocabulary(CLS, SEP, MASK, PAD, SIZE, np.arange(SIZE) % 3 > 0)),
    ):
        whole = mask_words(ids, real, keys(), vocabulary, masking)
        part = mask_words(ids[7:9], real[7:9], keys()[7:9], vocabulary, masking)
        for one, other in zip(whole, part, strict=True):
            np.testing.assert_array_equal(one[7:9], other)
        assert (mask_words(ids, real, keys(seed=1), vocabulary, masking)[1] != whole[1]).any()


def test_whole_words_are_whole(rows: tuple[np.ndarray, np.ndarray]) -> None:
    ids, real = rows
    starts = np.arange(SIZE) % 3 > 0  # a third of the ids continue a word
    vocabulary = MaskVocabulary(CLS, SEP, MASK, PAD, SIZE, starts)
    chosen = choose_places(ids, real, keys(), vocabulary, Masking(whole_word=True))
    long_words = 0
    for row, (own, mine, there) in enumerate(zip(ids, chosen, real, strict=True)):
        words: list[list[int]] = []
        for place in np.flatnonzero(there):
            if own[place] in (CLS, SEP):
                words.append([])
            elif starts[own[place]] or not words or not words[-1]:
                words.append([place])
            else:
                words[-1].append(place)
        words = [word for word in words if word]
        assert all(mine[word].all() or not mine[word].any() for word in words), row
        long_words += sum(len(word) > 1 and bool(mine[word].all()) for word in words)
        count = max(1, round(0.15 * int(there.sum())))
        assert 1 <= mine.sum() <= max(count, min(len(word) for word in words))
    assert long_words > 500
    wanted = np.maximum(1, np.rint(0.15 * real.sum(axis=1))).sum()
    assert 0.97 < chosen.sum() / wanted <= 1.01
    with pytest.raises(ValueError, match="which ids begin a word"):
        choose_places(ids, real, keys(), VOCABULARY, Masking(whole_word=True))


def test_rows_without_words() -> None:
    ids = np.array([[CLS, SEP, PAD], [CLS, 9, SEP]])
    real = ids != PAD
    vocabulary = MaskVocabulary(CLS, SEP, MASK, PAD, SIZE, np.ones(SIZE, bool))
    for whole_word in (False, True):
        chosen = choose_places(ids, real, keys(2), vocabulary, Masking(whole_word=whole_word))
        assert chosen.tolist() == [[False, False, False], [False, True, False]]


def test_rounds() -> None:
    epochs = np.arange(5)
    assert Masking(kind="static", duplicates=2).round_of(epochs).tolist() == [0, 1, 0, 1, 0]
    assert Masking(kind="dynamic", duplicates=2).round_of(epochs).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"rate=1\.5"):
        Masking(rate=1.5)


def test_the_vocabulary_of_a_tokenizer(byte_tokenizer: Tokenizer) -> None:
    bert = load_tokenizer(real_data("vocab_bert"))
    vocabulary = MaskVocabulary.of(bert, whole_word=True)
    assert (vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id, vocabulary.pad_id) == (101, 102, 103, 0)
    assert vocabulary.starts is not None
    assert len(vocabulary.starts) == vocabulary.vocab_size == 30522
    ids = bert.encode("unbelievably embeddings")
    assert vocabulary.starts[ids].sum() == 2 < len(ids)
    assert MaskVocabulary.of(bert).starts is None
    with pytest.raises(UserError, match=r"needs \[CLS\], \[SEP\], \[MASK\]"):
        MaskVocabulary.of(byte_tokenizer)
