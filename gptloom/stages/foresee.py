"""The shards of a text that is not tokenized: a dry run knows about how many tokens there will be, and no more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gptloom.data.built import TrainingShards, check_tokenizer
from gptloom.data.corpus import Corpus
from gptloom.data.shards import TokenShards
from gptloom.data.split import VALID
from gptloom.stages.text import Text
from gptloom.tokenizer import Tokenizer

KNOWN = 400  # characters of validation text that are looked at


class ForeseenTokens(TokenShards):
    """Stands for ``n_tokens`` that nobody has made yet; only their ``beginning`` can be read."""

    def __init__(self, n_tokens: int, beginning: Callable[[], list[int]] = list) -> None:
        self.shards, self.tokenizer_hash, self.n_bytes = [], None, None
        self.n_tokens = n_tokens
        self._beginning = beginning

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        return np.array(self._beginning()[start : start + length], dtype=np.int64)


def foresee_shards(text: Text, tokenizer: Tokenizer) -> TrainingShards:
    """What ``open_shards_of`` would give: the shards that were named, or stand-ins for those that would be built."""
    if text.shards is not None:
        for tokens in (*(tokens for tokens, _ in text.shards.train), text.shards.valid):
            if tokens is not None:
                check_tokenizer(tokens, tokenizer)
        return text.shards
    corpus = text.corpus
    assert corpus is not None
    tokens_per_byte = text.estimated_tokens(tokenizer.vocab_size) / max(1, corpus.n_train_bytes)
    train: dict[float, int] = defaultdict(int)
    for file in corpus.files:
        if file.n_train_bytes:
            train[file.source.weight] += file.n_train_bytes
    held_out = sum(file.n_bytes - file.n_train_bytes for file in corpus.files)
    valid = ForeseenTokens(int(held_out * tokens_per_byte), lambda: tokenizer.encode(_first_held_out(corpus)))
    sources = [(ForeseenTokens(int(n_bytes * tokens_per_byte)), weight) for weight, n_bytes in train.items()]
    return TrainingShards(list(sources), valid if held_out else None, text.rule)


def _first_held_out(corpus: Corpus) -> str:
    texts = (document.text for file in corpus.files for side, document in file.documents() if side == VALID)
    return next(texts, "")[:KNOWN]
