"""What training a tokenizer of any kind asks of its text: that there is some, how much, and how large a vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from gptloom.config.errors import Problem, UserError
from gptloom.tokenizer.pieces import cut_text
from gptloom.tokenizer.tokenizer import raise_on_surrogates

SMALLEST_DEFAULT, LARGEST_DEFAULT = 512, 32768


def default_vocab_size(n_bytes: int) -> int:
    """The vocabulary size for a BPE trained on ``n_bytes`` of UTF-8 text: a power of two from 512 to 32,768.

    The power of two nearest to ``1024 · (n_bytes / 10^6)^0.7``: 1.1 MB → 1,024, 2.5 MB → 2,048, 60 MB → 16,384. A text
    shows new words ever more rarely as it grows (Heaps' law), so a vocabulary of fixed share would fill with rare ones;
    and each entry needs enough occurrences to learn its embedding from: here some 1,000 bytes of text an entry at 1 MB,
    4,000 at 100 MB. A small model also pays for every entry with a row of parameters and of the output product.
    """
    if n_bytes <= 0:
        return SMALLEST_DEFAULT
    exponent = round(math.log2(1024 * (n_bytes / 1e6) ** 0.7))
    return min(max(2**exponent, SMALLEST_DEFAULT), LARGEST_DEFAULT)


class CountedPieces:
    """Iterates over the parts of all texts and counts their bytes; cut small, they split into words in parallel."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.n_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            try:
                self.n_bytes += len(text.encode("utf-8"))
            except UnicodeEncodeError:
                raise_on_surrogates([text])
                raise
            yield from cut_text(text)


def check_smallest(vocab_size: int | None, smallest: int, why: str) -> None:
    """UserError where fewer than ``smallest`` ids are asked for."""
    if vocab_size is not None and vocab_size < smallest:
        what = f"{vocab_size} is less than the smallest vocabulary, {smallest} ({why})"
        raise UserError(Problem(what, where="--vocab-size", mend=f"--vocab-size {smallest} or more"))


def check_text(amount: int) -> None:
    """UserError where there was no text."""
    if not amount:
        raise UserError(
            Problem("there is no text to train the tokenizer on", mend="give --data with files that hold text")
        )


def too_large(vocab_size: int, reached: int, kind: str, why: str) -> UserError:
    """That the text fills ``reached`` ids and no more."""
    what = f"the text fills {reached} entries ({why}), {vocab_size} are asked for"
    return UserError(Problem(what, where="--vocab-size", mend=f"--vocab-size {reached}, or more text"))
