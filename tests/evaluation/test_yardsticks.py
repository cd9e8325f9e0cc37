"""Yardsticks: proper distributions, checked against slow or outside twins, and ordered as they should be."""

import lzma
import math
from collections import Counter

import numpy as np
import pytest

from gptloom.evaluation import yardsticks
from gptloom.evaluation.byte_ngram import ByteNgram

TEXT = "".join(
    f"The {adjective} {animal} sees a {other} on day {day}.\n"
    for day in range(12)
    for adjective in ("small", "grey", "old")
    for animal in ("cat", "dog", "owl", "hen")
    for other in ("mouse", "bird", "worm")
).encode()
TRAIN, VALID = TEXT[:-1500], TEXT[-1500:]


@pytest.mark.slow
@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_ngram_probabilities_sum_to_one_in_seen_and_unseen_contexts(order):
    model = ByteNgram(TRAIN, order)
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(TRAIN) - order, 20)
    contexts = [np.frombuffer(TRAIN[start : start + order - 1], np.uint8) for start in starts]
    contexts += list(rng.integers(0, 256, (20, order - 1)).astype(np.uint8))
    for context in contexts:
        each = np.array([[*context, byte] for byte in range(256)], np.uint8)
        probabilities = np.array([model.probabilities(row)[-1] for row in each])
        assert (probabilities > 0).all()
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)


def kneser_ney(training: bytes, context: bytes, byte: int, order: int) -> float:
    """The formula of Chen and Goodman (1999), section 3, with sets and dictionaries."""
    grams = [training[max(0, end - order) : end].rjust(order, b"\0") for end in range(order, len(training) + 1)]
    counts = Counter(grams)
    levels = [counts]
    for _ in range(order - 1):
        levels.append(Counter(gram[1:] for gram in levels[-1]))
    probability = 1 / 256
    for level in reversed(levels):
        length = len(next(iter(level)))
        history = context[len(context) - length + 1 :] if length > 1 else b""
        once = sum(count == 1 for count in level.values())
        twice = sum(count == 2 for count in level.values())
        discount = once / (once + 2 * twice) if once and twice else 0.5
        following = {gram[-1]: count for gram, count in level.items() if gram[:-1] == history}
        if total := sum(following.values()):
            kept_back = discount * len(following) / total
            probability = max(following.get(byte, 0) - discount, 0) / total + kept_back * probability
    return probability


def test_ngram_is_the_textbook_formula():
    training = b"abracadabra alakazam abracadabra"
    model = ByteNgram(training, 3)
    for context in (b"ab", b"ra", b"zz", b"la"):
        for byte in b"abrk z\xff":
            text = np.frombuffer(context + bytes([byte]), np.uint8)
            assert model.probabilities(text)[-1] == pytest.approx(kneser_ney(training, context, byte, 3), rel=1e-12)


def test_an_ngram_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="2 to 8"):
        ByteNgram(TRAIN, 9)
    with pytest.raises(ValueError, match="hold no 6-gram"):
        ByteNgram(b"abc", 6)


def test_unigram_is_the_cross_entropy_under_smoothed_counts():
    got = yardsticks.unigram_bits_per_byte(b"aab", b"ab\xff")
    expected = -(math.log2(3 / 259) + math.log2(2 / 259) + math.log2(1 / 259)) / 3
    assert got == pytest.approx(expected)


def test_ngram_reads_validation_as_the_continuation_of_training():
    probabilities = ByteNgram(TRAIN, 6).probabilities(np.frombuffer(TRAIN + VALID, np.uint8))
    expected = -np.log2(probabilities[len(TRAIN) :]).mean()
    assert yardsticks.ngram_bits_per_byte(TRAIN, VALID) == pytest.approx(expected, rel=1e-12)


def test_lzma_charges_what_validation_adds_to_training():
    raw = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]  # its dictionary of 64 MiB spans both, too
    sizes = [len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=raw)) for text in (TRAIN, TRAIN + VALID)]
    assert yardsticks.lzma_bits_per_byte(TRAIN, VALID) == pytest.approx(8 * (sizes[1] - sizes[0]) / len(VALID))


def test_lzma_remembers_the_start_of_a_long_training_text():
    noise = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8).tobytes()
    assert yardsticks.lzma_bits_per_byte(noise, noise[:20_000]) < 0.5
    assert yardsticks.lzma_bits_per_byte(noise, noise[:20_000][::-1]) > 7.9


def test_better_methods_need_fewer_bits(tmp_path):
    (tmp_path / "train.txt").write_bytes(TRAIN)
    (tmp_path / "valid.txt").write_bytes(VALID)
    measured = yardsticks.measure_yardsticks(tmp_path / "train.txt", tmp_path / "valid.txt")
    assert [yardstick.name for yardstick in measured] == ["byte unigram", "6-gram", "lzma"]
    unigram, ngram, compressor = (yardstick.bits_per_byte for yardstick in measured)
    assert 8 > unigram > 2 * ngram > 0
    assert unigram > 2 * compressor > 0


def test_of_a_very_long_training_text_only_the_end_is_read_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(yardsticks, "MOST_TRAINING_BYTES", 1 << 20)
    (tmp_path / "valid.txt").write_bytes(VALID)
    (tmp_path / "train.txt").write_bytes(b"x" * 1_048_576 + (TRAIN * 80)[: 1 << 20])
    (tmp_path / "end.txt").write_bytes((TRAIN * 80)[: 1 << 20])
    whole = yardsticks.measure_yardsticks(tmp_path / "train.txt", tmp_path / "valid.txt")
    end = yardsticks.measure_yardsticks(tmp_path / "end.txt", tmp_path / "valid.txt")
    assert [one.bits_per_byte for one in whole] == [one.bits_per_byte for one in end]
    assert whole[0].meaning.endswith("the last 1 MiB of the training text")
