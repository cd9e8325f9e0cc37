"""Yardsticks for a language model: what simple methods make of the same validation and training text."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptloom.evaluation.byte_ngram import ByteNgram

MOST_TRAINING_BYTES = 8 * 1024 * 1024  # of a longer text only the end is read: lzma takes about a second per megabyte


@dataclass(frozen=True)
class Yardstick:
    """A figure to compare a model's bits per byte with."""

    name: str
    bits_per_byte: float
    meaning: str


def measure_yardsticks(train: Path, valid: Path) -> list[Yardstick]:
    """Unigram, 6-gram and lzma, in bits per byte of the file ``valid`` after reading the file ``train``, as they are.

    Separators between documents are read like any other byte (3 bytes for each document).
    """
    training, validation = train.read_bytes(), valid.read_bytes()
    read = "the training text"
    if len(training) > MOST_TRAINING_BYTES:
        training = training[-MOST_TRAINING_BYTES:]
        read = f"the last {MOST_TRAINING_BYTES >> 20} MiB of the training text"
    return [
        Yardstick("byte unigram", unigram_bits_per_byte(training, validation), f"how often each byte stands in {read}"),
        Yardstick(
            "6-gram", ngram_bits_per_byte(training, validation), f"five bytes foretell the next, as counted in {read}"
        ),
        Yardstick("lzma", lzma_bits_per_byte(training, validation), f"a compressor that has just read {read}"),
    ]


def unigram_bits_per_byte(training: bytes, validation: bytes) -> float:
    """Cross-entropy of the validation bytes under the training bytes' frequencies, each count raised by 1 (Laplace)."""
    counts = np.bincount(np.frombuffer(training, np.uint8), minlength=256) + 1
    bits = -np.log2(counts / counts.sum())
    return float(bits[np.frombuffer(validation, np.uint8)].mean())


def ngram_bits_per_byte(training: bytes, validation: bytes, order: int = 6) -> float:
    """Cross-entropy under an n-gram with back-off; the validation text is read as the training text's continuation."""
    model = ByteNgram(training, order)
    before = training[len(training) - (order - 1) :]
    text = np.frombuffer(before + validation, np.uint8)
    return float(-np.log2(model.probabilities(text)[len(before) :]).mean())


def lzma_bits_per_byte(training: bytes, validation: bytes) -> float:
    """``8 (|lzma(train + valid)| − |lzma(train)|) / |valid|`` at the highest setting, the dictionary spanning both."""
    filters = [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": max(1 << 16, len(training) + len(validation)),
        }
    ]

    def size(text: bytes) -> int:
        return len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=filters))

    return 8 * (size(training + validation) - size(training)) / len(validation)
